"""Brings a model file back to life for the commands that use one."""

from dataclasses import dataclass
from pathlib import Path

from mediclip.data.dicom_tree import TreeChoice
from mediclip.data.manifest import open_dataset
from mediclip.data.policies import check_same, parse_choices
from mediclip.data.preprocess import Preprocess
from mediclip.data.samples import Dataset
from mediclip.errors import CheckpointError, ManifestError
from mediclip.evaluation.calibration import Calibration
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip
from mediclip.training.checkpoint import ModelFile, load_model
from mediclip.training.private import stored_calibration, stored_memory


@dataclass(frozen=True)
class Detector:
    """A model file with its backbone, ready to use.

    Attributes:
        network: The detector, with the site's memory where the file has one.
        preprocess: How its images are read.
        file: The file.
        calibration: The site's calibration, if there is one and it holds for this model and preprocessing.
        is_void: Whether the file has a calibration that does not hold.
    """

    network: MediClip
    preprocess: Preprocess
    file: ModelFile
    calibration: Calibration | None
    is_void: bool


def load_detector(
    path: Path, *, backbone: str | None, device: str, policy: list[str] | None = None
) -> Detector:
    """Load a model and the backbone that it needs.

    Args:
        path: Model file.
        backbone: Spec of the backbone on this machine; the one stored in the file when None.
        device: Torch device name.
        policy: Policies that the user expects, as ``--policy`` has them.

    Returns:
        The detector.

    Raises:
        BackboneError: If the backbone cannot be loaded or is not the one that the model was made with.
        CheckpointError: If the file cannot be used.
        SchemaError: If its tensors do not fit the model that it describes.
        SettingsError: If it was trained under another policy than is expected.
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
    preprocess = Preprocess.from_settings(stored)
    check_same(preprocess.policies, parse_choices(policy), name="--policy")
    memory = stored_memory(file)
    if memory is not None:
        network.memory = memory.to(loaded.device)
    found = stored_calibration(file)
    holds = found is not None and found.holds_for(model=file.digest(), preprocess=preprocess.digest())
    return Detector(
        network.eval(), preprocess, file, found if holds else None, found is not None and not holds
    )


def open_test_set(data: Path, preprocess: Preprocess, choice: TreeChoice) -> Dataset:
    """Open a data folder to test a detector on.

    Args:
        data: The folder.
        preprocess: The detector's.
        choice: What to take of a folder of DICOM files.

    Returns:
        The set.

    Raises:
        DataError: If it cannot be used or has no test images.
        SettingsError: If it asks for another policy than the detector was trained under.
    """
    dataset = open_dataset(data, choice=choice)
    check_same(preprocess.policies, dataset.policies, name=dataset.name)
    if not dataset.test:
        message = (
            f"The set {dataset.name!r} must have test images. It has none; add abnormal/ or a test list."
        )
        raise ManifestError(message)
    return dataset
