"""A folder of phantoms in the layout of the published MediCLIP sets: sample lists, images and masks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
        organ: One of :data:`simulation.phantom.ORGANS`.
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
    planned = plan_phantom_set(
        directory,
        organ,
        seed=seed,
        train_normal=train_normal,
        test_normal=test_normal,
        test_abnormal=test_abnormal,
        size=size,
        scanner=scanner,
    )
    folders = {"train": "train/normal", "test": "test/normal", "abnormal": "test/abnormal"}
    saved = [(one.stream, _save(directory, one.draw(), folders[one.stream], one.index)) for one in planned]
    _save_list(directory / "samples" / "train.json", [entry for stream, entry in saved if stream == "train"])
    _save_list(directory / "samples" / "test.json", [entry for stream, entry in saved if stream != "train"])
    return directory


@dataclass(frozen=True)
class PlannedPhantom:
    """One image of a set, to be drawn when it is written.

    Attributes:
        organ: Organ.
        stream: Which part of the set it is in; names its random numbers too.
        index: Position in that part, from 0.
        finding: Its finding, or None.
        seed: The set's seed.
        size: Side in pixels.
        scanner: The hospital's scanner, or None.
    """

    organ: str
    stream: Literal["train", "test", "abnormal"]
    index: int
    finding: str | None
    seed: int
    size: int
    scanner: Scanner | None

    def draw(self) -> Phantom:
        """Draw it from a stream of its own."""
        rng = generator(self.seed, "phantom", self.organ, self.stream, self.index)
        return draw_phantom(self.organ, rng, size=self.size, finding=self.finding, scanner=self.scanner)


def plan_phantom_set(
    directory: Path,
    organ: str,
    *,
    seed: int,
    train_normal: int,
    test_normal: int,
    test_abnormal: int,
    size: int,
    scanner: Scanner | None,
) -> list[PlannedPhantom]:
    """Say which images a set is made of, whatever files they become. See :func:`write_phantom_set`.

    Returns:
        Training images, healthy test images and ill ones, in this order.

    Raises:
        ManifestError: The folder is not empty.
        SettingsError: Unknown organ or a negative number of images.
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
    fixed = (seed, size, scanner)
    return [
        *(PlannedPhantom(organ, "train", i, None, *fixed) for i in range(train_normal)),
        *(PlannedPhantom(organ, "test", i, None, *fixed) for i in range(test_normal)),
        *(
            PlannedPhantom(organ, "abnormal", i, findings[i % len(findings)], *fixed)
            for i in range(test_abnormal)
        ),
    ]


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
