"""The federation's result as a model file that every site can evaluate and score with."""

from pathlib import Path
from typing import Final

from mediclip.config import Recipe
from mediclip.data.preprocess import Preprocess
from mediclip.training.checkpoint import save_model
from server.app import CHECKPOINT
from server.checkpointing import RunIdentity, load_round
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
    """Write the last finished round as a model file.

    Args:
        settings: The federation.
        recipe: What the sites trained with.
        out: Folder of the run.

    Returns:
        The file; None where there is no finished round, the settings do not say which backbone it needs, or
        the recipe leaves a part of the model at the sites: each site writes its own then.

    Raises:
        CheckpointError: If the round is damaged or of another run.
    """
    backbone = settings.backbone
    if backbone.sha256 is None or recipe.private or not (out / CHECKPOINT).exists():
        return None
    state = load_round(out / CHECKPOINT, settings.schema_for(recipe), identity_of(settings, recipe))
    if state.number == 0:
        return None
    save_model(
        out / MODEL,
        state.tensors,
        recipe=recipe,
        taps=settings.taps,
        backbone={"spec": backbone.spec, "sha256": backbone.sha256},
        facts={
            "set": settings.name,
            "method": "federated",
            "rounds": state.number,
            "shots": settings.shots,
            "seed": settings.seed,
            "preprocess": Preprocess(recipe.image_size).settings(),
            "calibration": None,
        },
    )
    return out / MODEL
