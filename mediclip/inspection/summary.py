"""An inspection as plain values, for JSON, page and terminal alike. Nothing in it names anybody."""

from collections import Counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID

from mediclip.data.samples import ABNORMAL, NORMAL
from mediclip.inspection.advice import advise
from mediclip.inspection.burned_text import MIN_LETTERS
from mediclip.inspection.inventory import Inventory, Item
from mediclip.inspection.survey import BINS, Spread, Survey, kinds_of

SCHEMA: Final = 1
MAX_NAMED: Final = 50
# Ultrasound and secondary captures carry text as a rule; a file that says otherwise is believed.
_WRITTEN_ON: Final = frozenset({"US", "SC", "OT", "ES", "XC"})


def summarise(inventory: Inventory, survey: Survey, *, seed: int) -> dict[str, Any]:
    """Sum an inspection up.

    Args:
        inventory: What the folder holds.
        survey: What its pixels say.
        seed: The seed of the survey's samples.

    Returns:
        Values that JSON can hold; ``schema`` goes up when a key changes its meaning. Patients and
        examinations are counted by keyed hashes, images are named by their numbers.
    """
    items = inventory.items
    found = {
        "schema": SCHEMA,
        "fault": inventory.fault,
        **_counts(inventory),
        "images": len(items),
        "usable": len(items) - len(survey.faults),
        "patients": _known({item.group for item in items}),
        "studies": _known({item.facts.study for item in items if item.facts}),
        "kinds": _kinds(items),
        "sizes": {f"{width}x{height}": n for (height, width), n in survey.sizes.most_common()},
        "left_out": dict(inventory.left_out),
        "unusable": dict(survey.errors.most_common()),
        "faults": survey.faults[:MAX_NAMED],
        "one_grey": [items[number].title for number in survey.flat[:MAX_NAMED]],
        "copies": _copies(survey, items),
        "burned_in_text": _text(items, survey),
        "histograms": {kind: _histogram(spread) for kind, spread in sorted(survey.spreads.items())},
        "sheet": {"seed": seed, "images": [items[number].title for number in sorted(survey.sheet)]},
    }
    return {**found, "next": advise(found)}


def _counts(inventory: Inventory) -> dict[str, int]:
    samples = [item.sample for item in inventory.items if item.sample is not None]
    sides = Counter((sample.split, sample.label) for sample in samples)
    return {
        "train_normal": sides["train", NORMAL],
        "train_abnormal": sides["train", ABNORMAL],
        "test_normal": sides["test", NORMAL],
        "test_abnormal": sides["test", ABNORMAL],
        "masks": sum(sample.mask is not None for sample in samples),
        "train_patients": len({s.group or s.index for s in samples if s.split == "train"}),
    }


def _known(names: set[str | None] | set[str]) -> int | None:
    """Count names; None where none is known."""
    return len(names - {None, ""}) or None


def _kinds(items: tuple[Item, ...]) -> list[dict[str, Any]]:
    """Group images by all that their headers say of how they were made, the most frequent first."""
    groups: dict[tuple[Any, ...], list[Item]] = {}
    for item in items:
        facts = item.facts
        key: tuple[Any, ...] = (item.kind,)
        if facts is not None:
            key += (
                facts.manufacturer,
                facts.model,
                facts.body_part,
                facts.view,
                f"{facts.columns}x{facts.rows}",
                facts.bits,
                facts.photometric,
                UID(facts.transfer_syntax).name if facts.transfer_syntax else "",
            )
        groups.setdefault(key, []).append(item)
    names = (
        *("modality", "manufacturer", "model", "body_part", "view"),
        *("size", "bits", "photometric", "transfer_syntax"),
    )
    return [
        {
            **dict.fromkeys(names, ""),
            **dict(zip(names, key, strict=False)),
            "images": len(group),
            "patients": _known({item.group for item in group}),
        }
        for key, group in sorted(groups.items(), key=lambda pair: -len(pair[1]))
    ]


def _copies(survey: Survey, items: tuple[Item, ...]) -> dict[str, Any]:
    kinds = ("identical", "near", "train_test", "patients", "labels")
    counts = {kind: survey.pair_counts[kind] for kind in kinds}
    both = [pair for pair in survey.pairs if "train_test" in kinds_of(pair, items)]
    test = {p.second if _side(items[p.second]) == "test" else p.first for p in both}
    return {
        **counts,
        "test_images_like_a_training_image": len(test),
        "pairs": [
            {
                "first": items[pair.first].title,
                "second": items[pair.second].title,
                "distance": round(pair.distance, 4),
                "is": kinds_of(pair, items),
            }
            for pair in survey.pairs[:MAX_NAMED]
        ],
    }


def _side(item: Item) -> str:
    return "" if item.sample is None else item.sample.split


def _text(items: tuple[Item, ...], survey: Survey) -> dict[str, Any]:
    """Count what may have text in its pixels, by what says so."""
    says = {i for i, item in enumerate(items) if item.facts is not None and item.facts.burned_in}
    kind = {
        i
        for i, item in enumerate(items)
        if item.facts is not None and item.facts.modality in _WRITTEN_ON and item.facts.burned_in is not False
    }
    pixels = {number for number, letters in survey.letters.items() if letters >= MIN_LETTERS}
    return {
        "images": len(says | kind | pixels),
        "header_says_so": len(says),
        "usual_for_modality": len(kind),
        "letters_in_pixels": len(pixels),
        "letters_in": [items[number].title for number in sorted(pixels)[:MAX_NAMED]],
    }


def _histogram(spread: Spread) -> dict[str, Any]:
    values = np.concatenate(spread.before)
    values = values[np.isfinite(values)]
    low, high = (float(value) for value in np.quantile(values, (0.001, 0.999))) if len(values) else (0.0, 1.0)
    high = high if high > low else low + 1
    counts = np.histogram(np.clip(values, low, high), BINS, (low, high))[0]
    return {
        "images": spread.images,
        "before": {"low": low, "high": high, "shares": _shares(counts)},
        "after": {"low": 0.0, "high": 1.0, "shares": _shares(spread.after)},
    }


def _shares(counts: NDArray[np.int64]) -> list[float]:
    return [round(float(share), 5) for share in counts / max(1, int(counts.sum()))]
