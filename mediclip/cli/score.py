"""``mediclip score``: score and anomaly map of single images."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from mediclip.cli import console, options


def score(
    *,
    images: Annotated[
        list[Path],
        typer.Argument(help="Images to score: PNG or JPEG.", metavar="IMAGE...", show_default=False),
    ],
    model: options.Model,
    out: options.Out,
    backbone: options.OtherBackbone = None,
    device: options.Device = "cpu",
) -> None:
    """Score images: one JSON line each on standard output, OUT/scores.jsonl and an overlay each.

    Every image is read before anything is written: one that cannot be used ends the command.

    Example:  mediclip score --model runs/brain/model.safetensors scan-1.png scan-2.png --out runs/scores
    """
    import torch

    from mediclip.cli.loading import load_detector
    from mediclip.model.anomaly_map import image_score
    from mediclip.reports.figures import display_range, overlay
    from mediclip.training.checkpoint import write_atomically

    detector = load_detector(model, backbone=backbone, device=device)
    with console.progress("Reading") as bar:
        for index, path in enumerate(images):
            detector.preprocess.load_file(path, name=f"image {index}")
            bar(index + 1, len(images))
    folder = console.make_folder(out)
    lines = []
    with console.progress("Scoring") as bar:
        for index, path in enumerate(images):
            image = detector.preprocess.load_file(path, name=f"image {index}")
            with torch.inference_mode():
                found = detector.network(torch.from_numpy(image).unsqueeze(0))
            value = float(image_score(found)[0])
            anomaly_map = found[0].float().cpu().numpy()
            name = f"overlay-{index:04d}.png"
            overlay(image, anomaly_map, value_range=display_range([anomaly_map]), scale=2).save(folder / name)
            lines.append(json.dumps({"index": index, "score": round(value, 6), "overlay": name}))
            sys.stdout.write(lines[-1] + "\n")
            bar(index + 1, len(images))
    write_atomically(folder / "scores.jsonl", ("\n".join(lines) + "\n").encode())
