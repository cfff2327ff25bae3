"""From the cells' numbers to means, spreads and intervals over seeds."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Final

from scipy import stats

METRICS: Final = (
    "image_auroc", "unique_image_auroc", "image_ap", "sensitivity_at_95_specificity",
    "pixel_auroc", "unique_pixel_auroc", "aupro", "best_dice",
)  # fmt: skip
KEYS: Final = ("part", "set_name", "tested_on", "sites", "shots", "rounds", "recipe", "variant", "method")
ALL_SETS: Final = "mean of sets"
_LEVEL: Final = 0.95

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """A metric over seeds.

    Attributes:
        mean: Mean.
        deviation: Standard deviation, None for one seed.
        interval: 95 % interval of the mean by Student's t, None for one seed.
        seeds: How many seeds.
    """

    mean: float
    deviation: float | None
    interval: tuple[float, float] | None
    seeds: int

    def __str__(self) -> str:
        return f"{self.mean:.3f}" if self.deviation is None else f"{self.mean:.3f} ± {self.deviation:.3f}"


@dataclass(frozen=True)
class Line:
    """All seeds of one combination.

    Attributes:
        facts: The values of :data:`KEYS`.
        metrics: Spread of each metric that all seeds have.
    """

    facts: Mapping[str, Any]
    metrics: Mapping[str, Spread]


def spread(values: Sequence[float]) -> Spread:
    """Sum up one number a seed.

    Args:
        values: At least one, finite.

    Returns:
        Mean, standard deviation and Student's interval.
    """
    mean, count = fmean(values), len(values)
    if count == 1:
        return Spread(mean, None, None, 1)
    deviation = stdev(values)
    reach = float(stats.t.ppf(0.5 + _LEVEL / 2, count - 1)) * deviation / math.sqrt(count)
    return Spread(mean, deviation, (mean - reach, mean + reach), count)


def cell_rows(documents: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Flatten the cells' results: one row for each cell, method and tested set; failed cells have none."""
    return [{**document["cell"], **row} for document in documents for row in document.get("rows", ())]


def summarise_rows(rows: Iterable[Row]) -> list[Line]:
    """Put the seeds of each combination together.

    Args:
        rows: From :func:`cell_rows`.

    Returns:
        One line a combination in the order of the rows, and after them, for each combination that all its
        sets have for the same seeds, the mean over sets: seed by seed first, then over seeds.
    """
    rows = list(rows)
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in KEYS)].append(row)
    lines = [_line(dict(zip(KEYS, key, strict=True)), group) for key, group in groups.items()]
    return lines + _over_sets(rows)


def to_plain(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Write lines for JSON: facts, and mean, deviation, interval and seeds of each metric."""
    return [
        {
            **line.facts,
            "metrics": {n: [s.mean, s.deviation, s.interval, s.seeds] for n, s in line.metrics.items()},
        }
        for line in lines
    ]


def lines_from(plain: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Read what :func:`to_plain` wrote."""
    return [
        Line(
            {key: one[key] for key in KEYS},
            {name: Spread(*values) for name, values in one["metrics"].items()},
        )
        for one in plain
    ]


def _line(facts: Mapping[str, Any], rows: Sequence[Row]) -> Line:
    metrics = {}
    for metric in METRICS:
        values = [row[metric] for row in rows]
        if values and all(value is not None for value in values):
            metrics[metric] = spread([float(value) for value in values])
    return Line(facts, metrics)


def _over_sets(rows: Sequence[Row]) -> list[Line]:
    own = [row for row in rows if row["tested_on"] == row["set_name"]]
    sets = {row["set_name"] for row in own}
    if len(sets) < 2:
        return []
    groups: dict[tuple[Any, ...], dict[int, dict[str, Row]]] = defaultdict(lambda: defaultdict(dict))
    kept = [key for key in KEYS if key not in ("set_name", "tested_on")]
    for row in own:
        groups[tuple(row[key] for key in kept)][row["seed"]][row["set_name"]] = row
    lines = []
    for key, by_seed in groups.items():
        whole = [list(by_set.values()) for by_set in by_seed.values() if by_set.keys() == sets]
        if len(whole) != len(by_seed):
            continue
        means = [{m: _mean_or_none([row[m] for row in group]) for m in METRICS} for group in whole]
        facts = dict(zip(kept, key, strict=True)) | {"set_name": ALL_SETS, "tested_on": ALL_SETS}
        lines.append(_line({name: facts[name] for name in KEYS}, means))
    return lines


def _mean_or_none(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None
