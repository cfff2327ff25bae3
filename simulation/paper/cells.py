"""Runs one cell in a process of its own and keeps what came out, so that a benchmark can be interrupted."""

import hashlib
import json
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from mediclip.config import Recipe
from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess
from mediclip.data.samples import Dataset
from mediclip.errors import CheckpointError, MediClipError
from mediclip.evaluation.duplicates import Fingerprint
from mediclip.evaluation.predict import Prediction, predict, summarise
from mediclip.model.backbone import Backbone
from mediclip.model.backbone_loading import load_backbone
from mediclip.training.checkpoint import write_atomically
from simulation.compare import judge_set, predict_set
from simulation.experiment import Experiment, ExperimentSettings, Trained
from simulation.paper.grid import Cell, Variant
from simulation.scenario import make_scenario

_KEPT: Final = (
    "image_auroc", "image_ap", "sensitivity_at_95_specificity", "pixel_auroc", "aupro", "best_dice",
    "n_normal", "n_abnormal",
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A cell with all that a process needs to run it.

    Attributes:
        cell: The cell.
        variant: Its recipe and taps.
        folders: Folder of each set that it touches.
        out: The benchmark's folder.
        backbone: Backbone spec.
        backbone_sha256: What the backbone must be.
        taps: Tapped blocks; the backbone's own when None.
        device: Torch device.
    """

    cell: Cell
    variant: Variant
    folders: Mapping[str, Path]
    out: Path
    backbone: str
    backbone_sha256: str
    taps: tuple[int, ...] | None
    device: str = "cpu"

    @property
    def result(self) -> Path:
        """Where the cell's result lies once it is done."""
        return self.out / "cells" / f"{self.cell.name}.json"

    @property
    def work(self) -> Path:
        """Folder of the cell's models."""
        return self.out / "models" / self.cell.name

    def identity(self) -> str:
        """Return a digest of everything that decides the cell's numbers."""
        facts = {
            "cell": {**self.cell.facts(), "methods": self.cell.methods, "tested_on": self.cell.tested_on},
            "recipe": self.variant.recipe.model_dump(mode="json"),
            "kept_taps": self.variant.taps,
            "taps": self.taps,
            "backbone": self.backbone_sha256,
            "data": {name: _fingerprint(folder, name) for name, folder in sorted(self.folders.items())},
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_result(task: Task) -> dict[str, Any] | None:
    """Read what an earlier run left of a cell.

    Args:
        task: The cell.

    Returns:
        Its result, or None if it is not done.

    Raises:
        CheckpointError: If it was made from other data, another backbone or another recipe.
    """
    if not task.result.exists():
        return None
    try:
        document: dict[str, Any] = json.loads(task.result.read_text("utf-8"))
    except ValueError:
        return None  # the write was cut short: run it again
    if document.get("identity") != task.identity():
        message = (
            f"--out must hold cells of the same data, backbone and recipes. {task.result.name} is of others; "
            "name another folder, or remove that file."
        )
        raise CheckpointError(message)
    return document


def run_task(task: Task) -> dict[str, Any]:
    """Run a cell and write its result.

    Args:
        task: The cell.

    Returns:
        ``identity``, ``rows`` (one for each method and tested set), ``scores`` and ``seconds``; or ``failed``
        with the sentence of an error of this project, which leaves the other cells alone.
    """
    started = time.monotonic()
    try:
        document = _run(task)
    except MediClipError as error:
        return {"cell": task.cell.facts(), "failed": str(error)}
    document["seconds"] = round(time.monotonic() - started, 1)
    task.result.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(task.result, json.dumps(document).encode())
    return document


def _run(task: Task) -> dict[str, Any]:
    cell, recipe = task.cell, task.variant.recipe
    backbone = _backbone(task.backbone, recipe.image_size, task.backbone_sha256, task.device)
    taps = task.taps or backbone.default_taps()
    if task.variant.taps is not None:
        taps = tuple(taps[position] for position in task.variant.taps)
    scenario = make_scenario(
        {cell.set_name: task.folders[cell.set_name]},
        sites=cell.sites,
        shots=cell.shots,
        seed=cell.seed,
        image_size=recipe.image_size,
    )
    settings = ExperimentSettings(
        task.work,
        task.backbone,
        cell.rounds,
        cell.shots,
        cell.seed,
        taps=taps,
        parallel=1,
        methods=cell.methods,
    )
    experiment = Experiment(scenario, recipe, settings, backbone)
    experiment.check_folder(resume=True)
    known = experiment.check_scans(_unheard)
    experiment.claim_folder()
    trained = experiment.train(resume=True, on_phase=_unheard)
    predictions = predict_set(experiment, trained, cell.set_name, known, _unheard)
    rows = [
        {"method": result.method, "tested_on": cell.set_name, **_numbers(dict(result.summary))}
        for result in judge_set(experiment, cell.set_name, predictions)
        if result.site == "all"
    ]
    for other in cell.tested_on:
        rows += _transfer(experiment, trained, open_dataset(task.folders[other], other), known)
    return {
        "cell": cell.facts(),
        "identity": task.identity(),
        "rows": rows,
        "scores": {name: _scores(prediction) for name, prediction in predictions.items()},
    }


def _transfer(
    experiment: Experiment, trained: Trained, dataset: Dataset, known: Collection[Fingerprint]
) -> list[dict[str, Any]]:
    preprocess = Preprocess(experiment.recipe.image_size, experiment.recipe.policies)
    predictions = predict(trained.networks, dataset.test, preprocess, support=known)
    seed = experiment.settings.seed
    return [
        {
            "method": name.partition("/")[0],
            "tested_on": dataset.name,
            **_numbers(dict(summarise(prediction, seed=seed))),
        }
        for name, prediction in predictions.items()
    ]


def _numbers(summary: dict[str, Any]) -> dict[str, Any]:
    unique = summary["deduplicated"]
    plain = {name: summary[name] for name in _KEPT}
    return plain | {f"unique_{name}": unique[name] for name in ("image_auroc", "pixel_auroc")}


def _scores(prediction: Prediction) -> dict[str, list[float] | list[int]]:
    return {
        "scores": [round(score, 6) for score in prediction.scores.tolist()],
        "labels": prediction.labels.astype(int).tolist(),
    }


@lru_cache(maxsize=1)
def _backbone(spec: str, image_size: int, sha256: str, device: str) -> Backbone:
    """Load the backbone once in a process."""
    return load_backbone(spec, image_size=image_size, expected_sha256=sha256, device=device)


@lru_cache(maxsize=32)
def _fingerprint(folder: Path, name: str) -> str:
    """Tell data folders apart without reading their images: order, labels and sizes of the files."""
    dataset = open_dataset(folder, name)
    digest = hashlib.sha256()
    for sample in (*dataset.train, *dataset.test):
        digest.update(f"{sample.label} {sample.image.name} {sample.image.stat().st_size}\n".encode())
    return digest.hexdigest()


def _unheard(phase: str, done: int, total: int, note: str) -> None:
    """Take progress that nobody waits for: a cell tells when it is done."""


def variants_of(recipes: Mapping[str, Recipe], ablations: Mapping[str, Variant], cell: Cell) -> Variant:
    """Look up the recipe of a cell."""
    return ablations[cell.variant] if cell.variant else Variant(recipes[cell.recipe])
