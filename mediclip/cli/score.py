"""``mediclip score``: score and anomaly map of single images."""

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mediclip.cli import console, options

if TYPE_CHECKING:
    from mediclip.data.dicom_tree import TreeChoice
    from mediclip.data.preprocess import Preprocess


def score(
    *,
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images to score: files, or data folders, of which all images are.",
            metavar="IMAGE...",
            show_default=False,
        ),
    ],
    model: options.Model,
    out: options.Out,
    backbone: options.OtherBackbone = None,
    policy: options.Policy = None,
    level: options.Level = 0.05,
    device: options.Device = "cpu",
    modality: options.Modality = None,
    body_part: options.BodyPart = None,
    view: options.View = None,
) -> None:
    """Score images: one JSON line each on standard output, OUT/scores.jsonl and an overlay each.

    A model that was calibrated also gives a p-value and a decision: normal, abnormal, or uncertain where the
    calibration is too small to tell. Every image is read before anything is written: one that cannot be used
    ends the command.

    Example:  mediclip score --model runs/brain/model.safetensors scan-1.png scan-2.png --out runs/scores
    """
    from mediclip.data.pool import shared_pool

    shared_pool().prepare()  # importing torch takes longer than all it does before a file is wanted

    import torch

    from mediclip.cli.loading import load_detector
    from mediclip.data.dicom_tree import TreeChoice
    from mediclip.reports.figures import display_range, overlay
    from mediclip.training.checkpoint import write_atomically

    choice = TreeChoice.of(modality, body_part, view, None)
    detector = load_detector(model, backbone=backbone, device=device, policy=policy)
    chosen = _listed(images, choice, detector.preprocess)
    if detector.is_void:
        console.err.print("The model has changed since it was calibrated: no decisions; calibrate it again.")
    with console.progress("Reading") as bar:
        for index, (path, frame) in enumerate(chosen):
            detector.preprocess.load_file(path, name=f"image {index}", frame=frame)
            bar(index + 1, len(chosen))
    folder = console.make_folder(out)
    lines = []
    with console.progress("Scoring") as bar:
        for index, (path, frame) in enumerate(chosen):
            image = detector.preprocess.load_file(path, name=f"image {index}", frame=frame)
            with torch.inference_mode():
                said = detector.network.judge(detector.network.tokens(torch.from_numpy(image).unsqueeze(0)))
            value = float(said.scores[0])
            anomaly_map = said.maps[0].float().cpu().numpy()
            name = f"overlay-{index:04d}.png"
            overlay(image, anomaly_map, value_range=display_range([anomaly_map]), scale=2).save(folder / name)
            line: dict[str, Any] = {"index": index, "score": round(value, 6)}
            if detector.calibration is not None:
                line["p"] = round(float(detector.calibration.p_values([value])[0]), 6)
                line["decision"] = detector.calibration.decide(value, level)
            lines.append(json.dumps({**line, "overlay": name}))
            sys.stdout.write(lines[-1] + "\n")
            bar(index + 1, len(chosen))
    write_atomically(folder / "scores.jsonl", ("\n".join(lines) + "\n").encode())


def _listed(
    images: Sequence[Path], choice: "TreeChoice", preprocess: "Preprocess"
) -> list[tuple[Path, int | None]]:
    """List files as they are given, and of each folder the images of its set, train before test."""
    from mediclip.data.manifest import open_dataset
    from mediclip.data.policies import check_same
    from mediclip.errors import SettingsError

    listed: list[tuple[Path, int | None]] = []
    left_out: Counter[str] = Counter()
    folders = [path for path in images if path.is_dir()]
    if choice and len(folders) < len(images):
        message = (
            "--modality, --body-part and --view must choose from folders, but a file is given; leave them "
            "out."
        )
        raise SettingsError(message)
    for path in images:
        if path not in folders:
            listed.append((path, None))
            continue
        dataset = open_dataset(path, choice=choice)
        check_same(preprocess.policies, dataset.policies, name=dataset.name)
        left_out.update(dataset.left_out)
        listed += [(sample.image, sample.frame) for sample in (*dataset.train, *dataset.test)]
    if left_out:  # standard output is for the scores
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items()))
        console.err.print(f"Left out: {reasons}.", soft_wrap=True)
    return listed
