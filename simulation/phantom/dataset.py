"""A folder of phantoms in the layout of the published MediCLIP sets: sample lists, images and masks."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mediclip.errors import ManifestError, SettingsError
from mediclip.rng import generator
from simulation.phantom.draw import Phantom, draw_phantom, finding_names
from simulation.phantom.fields import Field
from simulation.phantom.scanner import Scanner


def write_phantom_set(
    directory: Path,
    organ: str,
    *,
    seed: int,
    train_normal: int = 24,
    test_normal: int = 30,
    test_abnormal: int = 30,
    size: int = 256,
    scanner: Scanner | None = None,
) -> Path:
    """Write a set of phantoms that the project's loaders read like a real one.

    Each image has its own stream, so a larger set with the same seed begins with the images of a smaller one,
    and two sets with the same arguments agree byte for byte. The findings of the organ take turns.
    ``samples/*.json`` hold one object a line: filename, label, label_name, clsname ("normal" or the finding)
    and, for abnormal images, mask.

    Args:
        directory: Folder to write into; it must be empty or not there yet.
        organ: "chest", "brain" or "breast".
        seed: The set's seed.
        train_normal: Number of training images, at least 0; none of them has a finding.
        test_normal: Number of test images without a finding, at least 0.
        test_abnormal: Number of test images with one, at least 0.
        size: Side of the images in pixels, in [64, 2048].
        scanner: The hospital's scanner; a middling one if not given.

    Returns:
        The folder.

    Raises:
        ManifestError: The folder is not empty.
        SettingsError: Unknown organ, size outside its range or a negative number of images.
    """
    findings = finding_names(organ)
    for name, count in (
        ("train_normal", train_normal),
        ("test_normal", test_normal),
        ("test_abnormal", test_abnormal),
    ):
        if count < 0:
            message = f"'{name}' of a phantom set must be at least 0. Got {count!r} instead."
            raise SettingsError(message)
    if directory.exists() and any(directory.iterdir()):
        message = "A phantom set must go into an empty or a new folder. Remove what is in it or name another."
        raise ManifestError(message)

    def draw(split: str, index: int, finding: str | None) -> Phantom:
        rng = generator(seed, "phantom", organ, split, index)
        return draw_phantom(organ, rng, size=size, finding=finding, scanner=scanner)

    train = [_save(directory, draw("train", i, None), "train/normal", i) for i in range(train_normal)]
    test = [_save(directory, draw("test", i, None), "test/normal", i) for i in range(test_normal)]
    for i in range(test_abnormal):
        phantom = draw("abnormal", i, findings[i % len(findings)])
        test.append(_save(directory, phantom, "test/abnormal", i))
    _save_list(directory / "samples" / "train.json", train)
    _save_list(directory / "samples" / "test.json", test)
    return directory


def _save(directory: Path, phantom: Phantom, folder: str, index: int) -> dict[str, str | int]:
    """Write image and mask and return the sample list's entry."""
    is_abnormal = phantom.finding is not None
    name = f"{phantom.organ}_{index:04d}.png"
    _save_grey(directory / "images" / folder / name, phantom.image)
    entry: dict[str, str | int] = {
        "filename": f"{folder}/{name}",
        "label": int(is_abnormal),
        "label_name": "abnormal" if is_abnormal else "normal",
        "clsname": phantom.finding or "normal",
    }
    if is_abnormal:
        entry["mask"] = f"test/ground_true/{name}"
        _save_grey(directory / "images" / "test" / "ground_true" / name, phantom.mask.astype(np.float32))
    return entry


def _save_grey(path: Path, image: Field) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(path, compress_level=3)


def _save_list(path: Path, entries: Sequence[dict[str, str | int]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
