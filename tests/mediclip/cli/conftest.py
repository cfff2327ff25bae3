"""A small real set, the embedded backbone at a small size, and the command line as a function."""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

from mediclip.cli.main import main

RECIPE = """
name = "small"
image_size = 64
causal_text = true
trim_text = true
batch_size = 4
epochs = 2
bank_views = 2

[prompts]
n_ctx = 2
normal = ["normal"]
abnormal = ["lesion", "disease"]

[tasks]
cut_paste = 1
source = 1
"""


@dataclass(frozen=True)
class Answer:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str


def call(*arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return Answer(int(end.value.code or 0), out.getvalue(), " ".join(err.getvalue().split()))


def write_scan(path, number, *, lesion=False):
    rng = np.random.default_rng(number)
    y, x = np.mgrid[:80, :80] / 80
    cy, cx = rng.uniform(0.4, 0.6, 2)
    scan = np.exp(-6 * ((y - cy) ** 2 + (x - cx) ** 2)) + rng.normal(0, 0.02, (80, 80))
    spot = (y - 0.5) ** 2 + (x - 0.3) ** 2 < 0.01
    if lesion:
        scan = np.where(spot, 1.0 - scan, scan)
    Image.fromarray(np.uint8(255 * scan.clip(0, 1))).save(path)
    return spot


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    for name in ("normal", "abnormal", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(12):
        write_scan(folder / "normal" / f"n{number}.png", number)
    for number in range(4):
        spot = write_scan(folder / "abnormal" / f"a{number}.png", 100 + number, lesion=True)
        Image.fromarray(np.uint8(255 * spot)).save(folder / "masks" / f"a{number}.png")
    return folder


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def train(scans, recipe, tmp_path):
    def run(*more, out=tmp_path / "run", shots=4):
        words = ("train", "--data", scans, "--backbone", "embedded", "--recipe", recipe, "--out", out)
        return call(*words, "--shots", shots, "--json", *more)

    return run


@pytest.fixture
def model(train, tmp_path):
    assert train().code == 0
    return tmp_path / "run" / "model.safetensors"
