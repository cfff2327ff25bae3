"""From a data folder to a run folder with a trained model: what ``mediclip train`` does."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mediclip.config import Recipe
from mediclip.data.dicom_tree import TreeChoice
from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.support import draw_support
from mediclip.evaluation.duplicates import image_digest
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.memory import build_memory
from mediclip.model.network import MediClip
from mediclip.training.batch import Progress
from mediclip.training.batches import batch_source
from mediclip.training.checkpoint import save_model, versions, write_atomically
from mediclip.training.loop import OnStep, TrainResult, train
from mediclip.training.private import private_parts

MODEL_NAME = "model.safetensors"


@dataclass(frozen=True)
class TrainSettings:
    """What a training is made of, beside its recipe.

    Attributes:
        data: Data folder.
        backbone: Backbone spec.
        shots: Support images to draw, at least 1.
        seed: Seed of the draw, the start values, the synthesis and the order.
        taps: Tapped blocks, 1-based; the backbone's own when None.
        device: Torch device name.
        choice: What to take from a tree of DICOM files.
    """

    data: Path
    backbone: str
    shots: int = 16
    seed: int = 0
    taps: tuple[int, ...] | None = None
    device: str = "cpu"
    choice: TreeChoice = field(default_factory=TreeChoice)


@dataclass(frozen=True)
class TrainedDetector:
    """A trained detector and how it came about.

    Attributes:
        network: The detector.
        facts: What its model file says beside recipe, taps and backbone.
        result: Losses of all steps.
        seconds: Wall time of encoding views, training and remembering.
        left_out: How many files of the data folder are not in the set, for each reason.
        support: Digests of the support images.
    """

    network: MediClip
    facts: dict[str, Any]
    result: TrainResult
    seconds: float
    left_out: Mapping[str, int] = field(default_factory=dict)
    support: tuple[str, ...] = ()


def train_detector(
    settings: TrainSettings,
    recipe: Recipe,
    *,
    on_view: Progress | None = None,
    on_step: OnStep | None = None,
    on_start: Callable[[MediClip], None] | None = None,
) -> TrainedDetector:
    """Draw a support set and train a detector on it.

    Args:
        settings: Data, backbone, shots and seed.
        recipe: How to train.
        on_view: Called while views are encoded, with views done and in all.
        on_step: Called after each step with steps done, in all and the loss.
        on_start: Called with the untrained network.

    Returns:
        The trained detector.

    Raises:
        BackboneError: If the backbone cannot be loaded.
        DataError: If the data cannot be used or has fewer normal images than shots.
        TapError: If a tap lies outside the tower.
    """
    dataset = open_dataset(settings.data, choice=settings.choice)
    recipe = recipe.with_policies(dataset.policies, name=dataset.name)
    preprocess = Preprocess(recipe.image_size, recipe.policies)
    support = load_images(draw_support(dataset.train, settings.shots, settings.seed), preprocess)
    backbone = load_backbone(settings.backbone, image_size=recipe.image_size, device=settings.device)
    network = MediClip(backbone, recipe, settings.taps).initialise(settings.seed)
    if on_start is not None:
        on_start(network)
    started = time.monotonic()
    source = batch_source(network, support, seed=settings.seed, on_progress=on_view)
    result = train(network, support, seed=settings.seed, source=source, on_step=on_step)
    facts = {
        "set": dataset.name,
        "shots": settings.shots,
        "seed": settings.seed,
        "steps": result.steps,
        "preprocess": preprocess.settings(),
    }
    if recipe.memory is not None:
        network.memory = build_memory(network, support, seed=settings.seed)
    digests = tuple(image_digest(image) for image in support)
    return TrainedDetector(network, facts, result, time.monotonic() - started, dataset.left_out, digests)


def write_run(folder: Path, trained: TrainedDetector, *, config: dict[str, Any], command: str) -> Path:
    """Write configuration, history and model into a run folder.

    Args:
        folder: Where; it exists.
        trained: The detector.
        config: Settings that were in force.
        command: What was typed.

    Returns:
        The model file.
    """
    network = trained.network
    described = {**config, "network": network.describe(), "versions": versions(), "command": command}
    losses = trained.result.losses
    history = [json.dumps({"step": i + 1, "loss": round(loss, 6)}) for i, loss in enumerate(losses)]
    write_atomically(folder / "config.json", json.dumps(described, indent=2).encode())
    write_atomically(folder / "history.jsonl", ("\n".join(history) + "\n").encode())
    model = folder / MODEL_NAME
    backbone = {"spec": findable_spec(network.backbone.spec), "sha256": network.backbone.sha256}
    private_tensors, private_facts = private_parts(network.memory, support=trained.support)
    save_model(
        model,
        network.trainables(),
        recipe=network.recipe,
        taps=network.taps,
        backbone=backbone,
        facts=trained.facts,
        private_tensors=private_tensors,
        private_facts=private_facts,
    )
    return model


def findable_spec(spec: str) -> str:
    """Write a folder or file in a backbone spec as an absolute path, so that it is found from anywhere."""
    kind, _, rest = spec.partition(":")
    return f"{kind}:{Path(rest).resolve()}" if rest and Path(rest).exists() else spec
