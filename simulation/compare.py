"""Tests the methods of a comparison on the same images and writes what a person and a script read."""

import json
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final, cast

from mediclip.data.preprocess import Preprocess
from mediclip.evaluation.duplicates import Fingerprint
from mediclip.evaluation.predict import Detector, Prediction, Summary, predict, predict_cases, summarise
from mediclip.evaluation.prediction import Metrics
from mediclip.reports.comparison_report import ALL_SITES, MethodResult, RoundCurve, write_comparison_page
from mediclip.reports.page import Tile
from mediclip.training.checkpoint import versions, write_atomically
from simulation.detectors import detectors_to_test
from simulation.experiment import REPORT_FILE, RESULT_FILE, Experiment, OnPhase, Trained

_SHOWN: Final[tuple[str, ...]] = ("untrained", "federated", "centralised")
_COUNTS: Final = ("n_normal", "n_abnormal")
_ROW_METRICS: Final = ("image_auroc", "image_ap", "pixel_auroc", "aupro", *_COUNTS)


def run_comparison(
    experiment: Experiment, *, resume: bool, command: str, title: str, on_phase: OnPhase
) -> dict[str, Any]:
    """Train, test, and write ``result.json``, ``report.html`` and the model files.

    Everything that can be checked is checked before the folder is touched.

    Args:
        experiment: What to compare.
        resume: Whether to go on with what the folder holds.
        command: What was typed.
        title: Heading of the report.
        on_phase: Told of the phase, things done and in all, and a note.

    Returns:
        The content of ``result.json``.

    Raises:
        CheckpointError: If the folder holds another run.
        DataError: If a test image cannot be used.
        FederationError: If the federated run cannot go on.
        SettingsError: If the folder cannot be written.
    """
    started = time.monotonic()
    experiment.check_folder(resume=resume)
    # Every training image of every set counts as seen, so that all methods are judged on the same images.
    known = experiment.check_scans(on_phase)
    experiment.claim_folder()
    trained = experiment.train(resume=resume, on_phase=on_phase)
    predictions = {
        name: predict_set(experiment, trained, name, known, on_phase) for name in experiment.scenario.datasets
    }
    results = [result for name in predictions for result in judge_set(experiment, name, predictions[name])]
    seconds = time.monotonic() - started
    document = _document(experiment, trained, results, seconds)
    out = experiment.settings.out
    _write_report(experiment, trained, predictions, results, document, command=command, title=title)
    write_atomically(out / RESULT_FILE, json.dumps(document, indent=2).encode())
    return document


def mean_summary(summaries: Sequence[Summary]) -> Summary:
    """Average the metrics of several models that were tested on the same images.

    Their scores cannot be ranked in one list, so each metric is averaged; an interval of a mean over models
    that share their test images is not claimed.

    Args:
        summaries: At least one, of the same test images.

    Returns:
        Means, None where any is undefined; the counts of the test set.
    """
    plain = [cast("Metrics", summary) for summary in summaries]
    return cast("Summary", {**_mean(plain), "deduplicated": _mean([s["deduplicated"] for s in summaries])})


def _tested(experiment: Experiment, trained: Trained, set_name: str) -> dict[str, Detector]:
    """Name the detectors of a set, with their memories, which are built once."""
    if set_name not in trained.tested:
        settings = experiment.settings
        trained.tested[set_name] = detectors_to_test(
            experiment.scenario,
            set_name,
            trained.networks,
            settings.methods,
            plain=experiment.network(),
            seed=settings.seed,
        )
    return trained.tested[set_name]


def _mean(parts: Sequence[Metrics]) -> Metrics:
    means: dict[str, Any] = {}
    for key, first in parts[0].items():
        if key == "deduplicated":
            continue
        values = [cast("dict[str, Any]", part)[key] for part in parts]
        if key in _COUNTS:
            means[key] = first
        elif key.endswith("_interval") or any(value is None for value in values):
            means[key] = None
        else:
            means[key] = fmean(values)
    return cast("Metrics", means)


def predict_set(
    experiment: Experiment, trained: Trained, set_name: str, known: Collection[Fingerprint], on_phase: OnPhase
) -> dict[str, Prediction]:
    """Test all networks of a set on its test images.

    Args:
        experiment: The comparison.
        trained: Its networks.
        set_name: The set.
        known: Fingerprints of the training images of all sets.
        on_phase: Told of the phase, things done and in all, and a note.

    Returns:
        Predictions by the network's name.
    """
    preprocess = Preprocess(experiment.recipe.image_size, experiment.recipe.policies)
    return predict(
        _tested(experiment, trained, set_name),
        experiment.scenario.datasets[set_name].test,
        preprocess,
        support=known,
        on_batch=lambda done, total: on_phase(f"testing on {set_name}", done, total, ""),
    )


def judge_set(
    experiment: Experiment, set_name: str, predictions: dict[str, Prediction]
) -> list[MethodResult]:
    """Sum up the predictions of a set by method and site, with the site ``"all"`` for the whole set."""
    seed = experiment.settings.seed
    summaries = {name: summarise(prediction, seed=seed) for name, prediction in predictions.items()}
    sites = experiment.scenario.sites_of(set_name)
    results = []
    for method in experiment.settings.methods:
        if f"{method}/{sites[0].name}" in summaries:
            by_site = {site.name: summaries[f"{method}/{site.name}"] for site in sites}
            whole = mean_summary(list(by_site.values()))
        else:
            whole = summaries[method]
            by_site = {site.name: whole for site in sites}
        results.append(MethodResult(method, ALL_SITES, set_name, whole))
        results += [MethodResult(method, site, set_name, summary) for site, summary in by_site.items()]
    return results


def _document(
    experiment: Experiment, trained: Trained, results: Sequence[MethodResult], seconds: float
) -> dict[str, Any]:
    rows = []
    for result in results:
        summary: dict[str, Any] = dict(result.summary)
        row: dict[str, Any] = {"method": result.method, "site": result.site, "set": result.set_name}
        row |= {name: summary[name] for name in _ROW_METRICS}
        rest = {name: value for name, value in summary.items() if name not in _ROW_METRICS}
        rows.append(row | rest)
    settings, scenario, federated = experiment.settings, experiment.scenario, trained.federated
    return {
        "schema": 1,
        "rows": rows,
        "bytes_up_per_round": 0 if federated is None else round(federated.bytes_up_per_round),
        "bytes_down_per_round": 0 if federated is None else round(federated.bytes_down_per_round),
        "seconds": round(seconds, 1),
        "methods": list(settings.methods),
        "sites": len(scenario.sites),
        "partition": scenario.partition,
        "alpha": scenario.alpha,
        "shots": settings.shots,
        "rounds": settings.rounds,
        "steps_per_round": experiment.round_steps,
        "seed": settings.seed,
        "engine": settings.engine,
        "strategy": settings.strategy,
        "recipe": experiment.recipe.name,
        "taps": list(experiment.taps),
        "backbone": experiment.backbone.name,
        "backbone_sha256": experiment.backbone.sha256,
        "versions": versions(),
    }


def _write_report(
    experiment: Experiment,
    trained: Trained,
    predictions: dict[str, dict[str, Prediction]],
    results: Sequence[MethodResult],
    document: dict[str, Any],
    *,
    command: str,
    title: str,
) -> None:
    scenario = experiment.scenario
    preprocess = Preprocess(experiment.recipe.image_size, experiment.recipe.policies)
    groups = []
    shown = [method for method in _SHOWN if method in experiment.settings.methods]
    # The scans to show are chosen by the federated score, so without one none are shown.
    is_federated = "federated" in experiment.settings.methods
    for name, dataset in scenario.datasets.items() if is_federated else ():
        # Of a method that gives each site a detector of its own, the first site's stands for it.
        tested = _tested(experiment, trained, name)
        names: dict[str, str] = {m: next(n for n in tested if n.partition("/")[0] == m) for m in shown}
        maps = {method: tested[of] for method, of in names.items()}
        chosen = predictions[name][names["federated"]]
        each = 4 if len(scenario.datasets) == 1 else 2
        groups += list(predict_cases(maps, dataset.test, preprocess, chosen, each=each))
    facts = {k: str(v) for k, v in document.items() if k not in {"schema", "rows", "versions"}}
    facts |= {f"version of {name}": version for name, version in versions().items()}
    tiles = []
    if trained.federated is not None:
        up = document["bytes_up_per_round"] / len(scenario.sites) / 2**20
        note = "adapter and prompt tensors, nothing else"
        tiles.append(Tile("MiB up, a site and round", f"{up:.2f}", note))
    write_comparison_page(
        experiment.settings.out / REPORT_FILE,
        title=title,
        results=results,
        curves=_curves(trained),
        groups=groups,
        tiles=tiles,
        command=command,
        facts=facts,
    )


def _curves(trained: Trained) -> list[RoundCurve]:
    titles = {
        "train_loss": (
            "Training loss by round",
            "focal + Dice loss",
            "Each site's mean over its local steps.",
        ),
        "val_pixel_auroc": (
            "Validation by round",
            "pixel AUROC",
            "The global model on each site's own synthetic anomalies, before it is trained further.",
        ),
    }
    curves = []
    for metric, (title, label, note) in titles.items():
        series: dict[str, list[tuple[float, float]]] = {}
        for entry in trained.federated.history if trained.federated is not None else ():
            for site in entry["sites"]:
                if metric in site["metrics"]:
                    point = (float(entry["round"]), float(site["metrics"][metric]))
                    series.setdefault(site["site"], []).append(point)
        if series:
            curves.append(RoundCurve(title, label, series, note))
    return curves


def report_path(out: Path) -> Path:
    """Say where the report of a run lies."""
    return out / REPORT_FILE
