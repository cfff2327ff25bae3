"""The commands do their job on files, as a person would call them."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.mediclip.cli.conftest import call


def size_of(path):
    with Image.open(path) as picture:
        return picture.size


def test_training_writes_model_history_and_configuration(train, tmp_path):
    answer = train()
    assert answer.code == 0
    told = json.loads(answer.out)
    assert told["steps"] == 2
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["run"]["shots"] == 4
    assert config["network"]["taps"] == [5, 7, 9]
    assert len(config["network"]["backbone"]["sha256"]) == 64
    lines = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert json.loads(lines[-1])["loss"] == pytest.approx(told["loss"], abs=1e-6)


def test_the_same_seed_trains_the_same_model_and_another_seed_another(train, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert train("--seed", seed, out=tmp_path / name).code == 0
    a, b, c = (load_file(tmp_path / n / "model.safetensors") for n in "abc")
    assert all(np.array_equal(a[k], b[k]) for k in a)
    assert not all(np.array_equal(a[k], c[k]) for k in a)


def test_show_config_prints_what_is_in_force_and_trains_nothing(train, tmp_path):
    answer = train("--show-config", "--taps", "1,4")
    assert answer.code == 0
    shown = json.loads(answer.out)
    assert shown["run"]["taps"] == [1, 4]
    assert shown["recipe"]["name"] == "small"
    assert not (tmp_path / "run").exists()


def test_evaluation_writes_metrics_scores_overlays_and_a_report(model, scans, tmp_path):
    out = tmp_path / "judged"
    answer = call("evaluate", "--model", model, "--data", scans, "--out", out, "--json")
    assert answer.code == 0, answer.err
    metrics = json.loads((out / "metrics.json").read_text())
    assert json.loads(answer.out) == metrics
    assert (metrics["n_normal"], metrics["n_abnormal"]) == (6, 4)
    for name in ("image_auroc", "image_ap", "pixel_auroc", "aupro", "best_dice"):
        assert 0 <= metrics[name] <= 1
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(10))
    pictures = sorted((out / "overlays").iterdir())
    assert pictures
    assert size_of(pictures[0]) == (128, 128)
    page = (out / "report.html").read_text()
    assert "Research use only" in page
    assert str(scans / "normal") not in page


def test_evaluation_without_json_prints_the_table_and_where_the_report_is(model, scans, tmp_path):
    answer = call("evaluate", "--model", model, "--data", scans, "--out", tmp_path / "judged")
    assert answer.code == 0
    assert "image AUROC" in answer.out
    assert "report.html" in answer.out


def test_scoring_prints_one_line_an_image_that_agrees_with_evaluation(model, scans, tmp_path):
    out = tmp_path / "scores"
    chosen = [scans / "abnormal" / "a0.png", scans / "abnormal" / "a3.png"]
    answer = call("score", "--model", model, *chosen, "--out", out)
    assert answer.code == 0, answer.err
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert [row["index"] for row in rows] == [0, 1]
    assert (out / "scores.jsonl").read_text() == answer.out
    assert size_of(out / rows[0]["overlay"]) == (128, 128)
    call("evaluate", "--model", model, "--data", scans, "--out", out, "--json")
    judged = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    abnormal = [row["score"] for row in judged if row["label"] == 1]
    assert [row["score"] for row in rows] == pytest.approx([abnormal[0], abnormal[3]], abs=1e-5)


def test_inspection_counts_and_draws_the_sheet(scans, tmp_path):
    copy = scans / "normal" / "zz.png"
    copy.write_bytes((scans / "normal" / "n0.png").read_bytes())
    answer = call("inspect", scans, "--synthesis", "--out", tmp_path / "look", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["train_normal"] + found["test_normal"] == 13
    assert found["test_abnormal"] == found["masks"] == 4
    assert found["sizes"] == {"80x80": 17}
    assert found["copies"]["identical"] == 1
    with Image.open(tmp_path / "look" / "synthesis.png") as sheet:
        assert np.asarray(sheet.convert("L")).std() > 10
    assert call("inspect", scans).code == 0


@pytest.mark.shared
def test_verification_passes_on_the_golden_numbers_and_fails_on_a_changed_one(shared, tmp_path):
    from safetensors.numpy import save_file

    case = shared / "parity" / "small"
    answer = call("verify", case)
    assert answer.code == 0, answer.err
    assert "within tolerance" in answer.out
    for name in ("case.json", "clip.safetensors"):
        (tmp_path / name).symlink_to(case / name)
    golden = load_file(case / "golden.safetensors")
    golden["loss.dice"] = golden["loss.dice"] + 1e-3
    save_file(golden, tmp_path / "golden.safetensors")
    answer = call("verify", tmp_path, "--json")
    assert answer.code == 8
    assert "loss.dice" in answer.err
    outside = [row["name"] for row in json.loads(answer.out) if not row["is_within"]]
    assert outside == ["loss.dice"]


@pytest.mark.parametrize("command", ["train", "evaluate", "score", "inspect", "verify"])
def test_every_help_shows_an_example(command):
    answer = call(command, "--help")
    assert answer.code == 0
    assert f"Example: mediclip {command}" in " ".join(answer.out.replace("│", " ").split())


def test_the_program_is_installed_and_says_its_version():
    done = subprocess.run(
        [sys.executable, "-c", "from mediclip.cli.main import main; main(['--version'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("mediclip 0.")
