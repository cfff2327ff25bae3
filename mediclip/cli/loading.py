"""Brings a model file back to life for the commands that use one."""

from dataclasses import dataclass
from pathlib import Path

from mediclip.data.preprocess import Preprocess
from mediclip.errors import CheckpointError
from mediclip.model.backbone import load_backbone
from mediclip.model.network import MediClip
from mediclip.training.checkpoint import ModelFile, load_model


@dataclass(frozen=True)
class Detector:
    """A model file with its backbone, ready to use."""

    network: MediClip
    preprocess: Preprocess
    file: ModelFile


def load_detector(path: Path, *, backbone: str | None, device: str) -> Detector:
    """Load a model and the backbone that it needs.

    Args:
        path: Model file.
        backbone: Spec of the backbone on this machine; the one stored in the file when None.
        device: Torch device name.

    Returns:
        The detector.

    Raises:
        BackboneError: If the backbone cannot be loaded or is not the one that the model was made with.
        CheckpointError: If the file cannot be used.
        SchemaError: If its tensors do not fit the model that it describes.
    """
    file = load_model(path)
    recipe = file.recipe
    loaded = load_backbone(
        backbone or file.backbone_spec,
        image_size=recipe.image_size,
        expected_sha256=file.backbone_sha256,
        device=device,
    )
    network = MediClip(loaded, recipe, file.taps)
    network.load(file.tensors)
    stored = file.facts.get("preprocess")
    if not isinstance(stored, dict):
        message = f"A model file must name its preprocessing. {path.name!r} does not; train again."
        raise CheckpointError(message)
    return Detector(network.eval(), Preprocess.from_settings(stored), file)
