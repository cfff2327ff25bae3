"""The federation's result as model files: one that every site can use, and one for each cluster."""

from pathlib import Path
from typing import Final

from mediclip.config import Recipe
from mediclip.data.preprocess import Preprocess
from mediclip.errors import CheckpointError
from mediclip.model.trainables import Trainables
from mediclip.training.checkpoint import save_model
from server.app import CHECKPOINT
from server.checkpointing import RunIdentity, load_round
from server.clusters import Clusters, Descriptor
from server.federation import FederationSettings

MODEL: Final = "model.safetensors"


def identity_of(settings: FederationSettings, recipe: Recipe) -> RunIdentity:
    """Say which run a federation's rounds belong to."""
    schema = settings.schema_for(recipe)
    return RunIdentity(
        schema.digest(),
        recipe.digest(),
        settings.seed,
        settings.strategy,
        settings.local_steps,
        settings.codec,
    )


def write_model(settings: FederationSettings, recipe: Recipe, out: Path) -> Path | None:
    """Write the last finished round as a model file, and beside it one for each cluster that has a model.

    Args:
        settings: The federation.
        recipe: What the sites trained with.
        out: Folder of the run.

    Returns:
        The file of all sites; None where there is no finished round, the settings do not say which backbone
        it needs, or the recipe leaves a part of the model at the sites: each site writes its own then.

    Raises:
        CheckpointError: If the round is damaged or of another run.
    """
    backbone = settings.backbone
    if backbone.sha256 is None or recipe.private or not (out / CHECKPOINT).exists():
        return None
    state = load_round(out / CHECKPOINT, settings.schema_for(recipe), identity_of(settings, recipe))
    if state.number == 0:
        return None
    for number, model in state.models.items():
        _write(out / cluster_file(number), model, "cluster", settings, recipe, state.number)
    _write(out / MODEL, state.tensors, "federated", settings, recipe, state.number)
    return out / MODEL


def cluster_file(number: int) -> str:
    """Name the model file of a cluster."""
    return f"model-cluster-{number}.safetensors"


def _write(
    path: Path, tensors: Trainables, method: str, settings: FederationSettings, recipe: Recipe, rounds: int
) -> None:
    backbone = settings.backbone
    save_model(
        path,
        tensors,
        recipe=recipe,
        taps=settings.taps,
        backbone={"spec": backbone.spec, "sha256": str(backbone.sha256)},
        facts={
            "set": settings.name,
            "method": method,
            "rounds": rounds,
            "shots": settings.shots,
            "seed": settings.seed,
            "preprocess": Preprocess(recipe.image_size).settings(),
            "calibration": None,
        },
    )


def model_for(
    settings: FederationSettings, recipe: Recipe, out: Path, descriptor: Descriptor
) -> tuple[Path, int | None]:
    """Find the model for a site that has not trained, by what its scans look like.

    Args:
        settings: The federation.
        recipe: What the sites trained with.
        out: Folder of the run, with the files of :func:`write_model`.
        descriptor: What ``mediclip client describe`` gave at the site.

    Returns:
        A model file, and the number of its cluster: the nearest one that has a model; or the model of all
        sites and None.

    Raises:
        CheckpointError: If the run has no clusters, or descriptors of another length, or no model file.
    """
    checkpoint = out / CHECKPOINT
    state = load_round(checkpoint, settings.schema_for(recipe), identity_of(settings, recipe))
    clusters = Clusters.restore(settings.cluster_distance, state.clusters)
    if clusters.length != len(descriptor):
        message = (
            f"A descriptor must be as long as those of the run, {clusters.length or 0} numbers. It has "
            f"{len(descriptor)}; use the run's taps, and a run of strategy 'clustered'."
        )
        raise CheckpointError(message)
    number = clusters.nearest(descriptor)
    number = number if number in state.models else None
    path = out / (MODEL if number is None else cluster_file(number))
    if not path.exists():
        message = (
            f"The run must have left {path.name}. It has not; 'sha256' in [backbone] must be set and the run "
            "have ended."
        )
        raise CheckpointError(message)
    return path, number
