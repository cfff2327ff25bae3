"""What a site's model file keeps for itself: memory, calibration, and how to share a model without either."""

import json

import numpy as np
import pytest
from PIL import Image

from mediclip.training.checkpoint import load_model, load_tensors
from tests.mediclip.cli.conftest import RECIPE, call, write_scan

MEMORY = "top_share = 0.05\n"
SECTION = "\n[memory]\nviews = 1\n"


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE.replace("[prompts]", MEMORY + "[prompts]", 1) + SECTION)
    return path


def score(model, out, *images, level=None):
    more = [] if level is None else ["--level", level]
    answer = call("score", *images, "--model", model, "--out", out, *more)
    assert answer.code == 0, answer.err
    return [json.loads(line) for line in answer.out.splitlines()]


def test_a_site_calibrates_scores_and_evaluates_with_its_own_memory(model, scans, tmp_path):
    file = load_model(model)
    assert {"memory.focal", "memory.diffuse"} == set(file.private_tensors)
    assert len(file.private_facts["support"]) == 4

    held = tmp_path / "held" / "normal"
    held.mkdir(parents=True)
    for number in range(12):  # of them the training's own are passed over
        Image.open(scans / "normal" / f"n{number}.png").save(held / f"n{number}.png")
    for number in range(200, 216):
        write_scan(held / f"n{number}.png", number)
    done = json.loads(call("calibrate", "--model", model, "--normals", held.parent, "--json").out)
    assert done["passed_over"] == 4
    assert done["n"] == 24
    assert done["least_p"] == pytest.approx(1 / 25)

    lines = score(model, tmp_path / "scores", scans / "abnormal" / "a0.png", held / "n3.png")
    assert all(line["p"] >= 1 / 25 - 1e-6 for line in lines)
    assert {line["decision"] for line in lines} <= {"normal", "abnormal"}
    (strict,) = score(model, tmp_path / "strict", scans / "abnormal" / "a0.png", level=0.01)
    assert strict["decision"] == ("uncertain" if lines[0]["p"] == pytest.approx(1 / 25) else "normal")

    out = tmp_path / "evaluated"
    answer = call("evaluate", "--model", model, "--data", scans, "--out", out)
    assert "Decisions at 5%" in answer.out
    decisions = json.loads((out / "metrics.json").read_text())["decisions"]
    assert decisions["n_calibration"] == 24
    assert 0 <= decisions["rate"] <= 1
    assert "Reliability" in (out / "report.html").read_text()


def test_a_changed_model_has_no_calibration_any_more(model, scans, tmp_path):
    assert call("calibrate", "--model", model, "--normals", scans, "--json").code == 0
    other = tmp_path / "other.safetensors"
    assert (
        call("remember", "--model", model, "--data", scans, "--shots", 5, "--out", other, "--json").code == 0
    )
    assert "calibration" not in load_model(other).private_facts

    from mediclip.training.checkpoint import rewrite_model

    file, newer = load_model(model), load_model(other)
    facts = {**newer.private_facts, "calibration": file.private_facts["calibration"]}
    rewrite_model(other, newer, private_tensors=newer.private_tensors, private_facts=facts)
    answer = call("score", scans / "abnormal" / "a0.png", "--model", other, "--out", tmp_path / "s")
    assert "has changed since it was calibrated" in answer.err
    assert "decision" not in json.loads(answer.out)


def test_a_shareable_model_holds_nothing_that_is_made_of_the_scans(model, scans, tmp_path):
    assert call("calibrate", "--model", model, "--normals", scans, "--json").code == 0
    shared = tmp_path / "shared.safetensors"
    proof = json.loads(call("export", "--model", model, "--shareable", "--out", shared, "--json").out)
    assert proof["private"] is False
    assert set(proof["left_out"]) == {"memory.focal", "memory.diffuse", "memory", "support", "calibration"}

    full, bare = load_model(model), load_model(shared)
    tensors, facts = load_tensors(shared)
    assert tensors.keys() == full.tensors.keys()
    for name, value in tensors.items():
        np.testing.assert_array_equal(value, full.tensors[name])
    assert "private" not in facts
    assert not bare.private_tensors
    written = shared.read_bytes()
    for array in full.private_tensors.values():
        for token in array.reshape(-1, array.shape[-1]):
            assert token.tobytes() not in written
    for digest in full.private_facts["support"]:
        assert digest.encode() not in written
    for value in full.private_facts["calibration"]["scores"]:
        assert repr(value).encode() not in written


def test_another_site_gives_a_shared_model_its_own_memory(model, scans, tmp_path):
    shared, own = tmp_path / "shared.safetensors", tmp_path / "own.safetensors"
    assert call("export", "--model", model, "--shareable", "--out", shared, "--json").code == 0
    picture = scans / "abnormal" / "a0.png"
    (bare,) = score(shared, tmp_path / "bare", picture)
    assert 0.3 < bare["score"] < 0.7  # the text map alone, a softmax without temperature
    assert (
        call("remember", "--model", shared, "--data", scans, "--shots", 4, "--out", own, "--json").code == 0
    )
    assert (
        score(own, tmp_path / "a", picture)[0]["score"] == score(model, tmp_path / "b", picture)[0]["score"]
    )


def test_what_cannot_be_done_is_said_in_a_sentence(model, scans, tmp_path):
    shared = tmp_path / "shared.safetensors"
    assert call("export", "--model", model, "--shareable", "--out", shared).code == 0
    answer = call("calibrate", "--model", shared, "--normals", scans)
    assert answer.code == 3
    assert "must say which images it was made from" in answer.err
