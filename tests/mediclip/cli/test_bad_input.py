"""Each kind of bad input gets one sentence, an exit code, and leaves earlier results as they were."""

import hashlib
import re

import numpy as np
import pytest
from PIL import Image

from tests.mediclip.cli.conftest import call, write_scan


def content(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()}


def break_first_normal(data):
    def do(scans):
        for path in sorted((scans / "normal").iterdir()):
            path.write_bytes(data(path.read_bytes()))

    return do


def unreadable_mask(scans):
    (scans / "masks" / "a1.png").unlink()


def mask_of_another_size(scans):
    Image.fromarray(np.full((10, 10), 255, np.uint8)).save(scans / "masks" / "a1.png")


BROKEN_IMAGES = {
    "empty": break_first_normal(lambda _: b""),
    "truncated": break_first_normal(lambda data: data[: len(data) // 2]),
    "no image": break_first_normal(lambda _: b"not an image at all"),
}
BROKEN_MASKS = {"missing": unreadable_mask, "other size": mask_of_another_size}


@pytest.mark.parametrize("kind", BROKEN_IMAGES)
def test_an_image_that_cannot_be_used_is_named_by_its_index(kind, scans, model, train, tmp_path):
    before = content(tmp_path / "run")
    BROKEN_IMAGES[kind](scans)
    for answer in (
        train(),
        call("evaluate", "--model", model, "--data", scans, "--out", tmp_path / "run"),
        call("inspect", scans),
    ):
        assert answer.code == 3
        assert "image" in answer.err
        assert re.search(r"(train|test) image \d+[: ]", answer.err)
        assert str(scans) not in answer.err
        assert "Traceback" not in answer.err
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("kind", BROKEN_MASKS)
def test_a_mask_that_cannot_be_used_is_named_by_its_index(kind, scans, model, tmp_path):
    before = content(tmp_path / "run")
    BROKEN_MASKS[kind](scans)
    answer = call("evaluate", "--model", model, "--data", scans, "--out", tmp_path / "run")
    assert answer.code == 3
    assert "mask" in answer.err
    assert "test image" in answer.err
    assert content(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--taps", "2,10"), 4, "Taps must be rising block numbers in [1, 9]"),
        (("--taps", "two"), 2, "--taps must be whole numbers"),
        (("--recipe", "nonsense"), 2, "A recipe must be one of default, reference"),
        (("--backbone", "nonsense"), 4, "A backbone must be"),
        (("--backbone", "ViT-L-14:nonsense"), 4, "one of the tags"),
        (("--backbone", "local-dir:nowhere"), 4, "nowhere"),
    ],
)
def test_a_setting_that_cannot_be_used_says_what_can(more, code, said, train, tmp_path):
    answer = train(*more)
    assert answer.code == code
    assert said in answer.err
    assert not (tmp_path / "run").exists()


def test_fewer_normals_than_shots(train):
    answer = train(shots=40)
    assert answer.code == 3
    assert "40 shots" in answer.err
    assert "there are 6" in answer.err


def test_a_class_without_a_phrase(train, recipe):
    recipe.write_text(recipe.read_text().replace('normal = ["normal"]', "normal = []", 1))
    answer = train()
    assert answer.code == 2
    assert "The class 'normal' must have at least one phrase" in answer.err


def test_a_model_for_another_backbone(model, scans, tmp_path):
    before = content(tmp_path / "run")
    answer = call(
        "evaluate",
        "--model",
        model,
        "--data",
        scans,
        "--out",
        tmp_path / "run",
        "--backbone",
        "ViT-B-32:random",
    )
    assert answer.code == 4
    assert "SHA-256" in answer.err
    assert content(tmp_path / "run") == before


def test_a_model_file_with_a_changed_byte(model, scans, tmp_path):
    data = bytearray(model.read_bytes())
    data[-100] ^= 1
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(data)
    answer = call("score", "--model", changed, scans / "normal" / "n0.png", "--out", tmp_path / "s")
    assert answer.code == 6
    assert "has changed" in answer.err
    assert not (tmp_path / "s").exists()


def test_one_bad_image_among_those_to_score_stops_before_anything_is_written(model, scans, tmp_path):
    out = tmp_path / "s"
    good = scans / "normal" / "n0.png"
    assert call("score", "--model", model, good, "--out", out).code == 0
    before = content(out)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    answer = call("score", "--model", model, good, bad, "--out", out)
    assert answer.code == 3
    assert "image 1:" in answer.err
    assert answer.out == ""
    assert content(out) == before


def test_a_folder_without_a_layout(tmp_path):
    (tmp_path / "other").mkdir()
    write_scan(tmp_path / "other" / "x.png", 1)
    answer = call("inspect", tmp_path / "other")
    assert answer.code == 3
    assert "normal" in answer.err


def test_a_sheet_without_a_folder(scans):
    answer = call("inspect", scans, "--synthesis")
    assert answer.code == 2
    assert "add --out" in answer.err


def test_results_where_a_file_lies(train, tmp_path):
    (tmp_path / "run").write_text("mine")
    answer = train()
    assert answer.code == 2
    assert "--out must be a folder" in answer.err
    assert (tmp_path / "run").read_text() == "mine"
