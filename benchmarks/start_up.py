"""How long a command takes from its start to its end."""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks._shapes import draw_images
from benchmarks.harness import Benchmark, Outcome, compare
from mediclip.config import load_recipe
from mediclip.data.preprocess import Preprocess
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip
from mediclip.training.checkpoint import save_model

_PROGRAM = [sys.executable, "-c", "from mediclip.cli.main import main; main()"]


def _run(*arguments: str) -> None:
    subprocess.run([*_PROGRAM, *arguments], check=True, capture_output=True)  # noqa: S603


def _help(limit_s: float, *, quick: bool) -> Outcome:
    timing = compare({"help": lambda: _run("--help")}, repeats=1 if quick else 7)["help"]
    return Outcome(timing.wall_s / limit_s, {"limit_s": limit_s, **timing.as_dict()})


def _score(limit_s: float, *, quick: bool) -> Outcome:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image, model = folder / "scan.png", folder / "model.safetensors"
        Image.fromarray((255 * draw_images(1)[0]).astype(np.uint8)).save(image)
        network = MediClip(load_backbone("embedded"), load_recipe("default")).initialise(0)
        save_model(
            model,
            network.trainables(),
            recipe=network.recipe,
            taps=network.taps,
            backbone={"spec": "embedded", "sha256": network.backbone.sha256},
            facts={"preprocess": Preprocess(network.recipe.image_size).settings()},
        )
        command = ("score", "--model", str(model), str(image), "--out", str(folder / "out"))
        timing = compare({"score": lambda: _run(*command)}, repeats=1 if quick else 5)["score"]
    return Outcome(timing.wall_s / limit_s, {"limit_s": limit_s, **timing.as_dict()})


BENCHMARKS = (
    Benchmark(
        "start_help",
        "mediclip --help, wall time over its limit of 0.5 s",
        target=1,
        unit="of the limit",
        measure=partial(_help, 0.5),
        at_most=True,
        is_cheap=True,
    ),
    Benchmark(
        "start_score",
        "mediclip score of one image with the embedded backbone, wall time over its limit of 6 s",
        target=1,
        unit="of the limit",
        measure=partial(_score, 6.0),
        at_most=True,
    ),
)
