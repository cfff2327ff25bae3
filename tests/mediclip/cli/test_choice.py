"""Options that choose from a folder of DICOM files, on every command that reads one."""

import json
import shutil

import pytest

from simulation.phantom import write_phantom_dicom
from tests.mediclip.cli.conftest import call

SMALL = {"seed": 3, "size": 64, "train_normal": 6, "test_normal": 3, "test_abnormal": 3}


@pytest.fixture
def tree(tmp_path):
    """Write brains (MR) with a table, and six chests (DX, PA) beside them in the same tree."""
    folder = write_phantom_dicom(tmp_path / "ward", "brain", **SMALL)
    chests = write_phantom_dicom(
        tmp_path / "others", "chest", **SMALL | {"test_abnormal": 0, "test_normal": 0}
    )
    for path in sorted(chests.rglob("*.dcm")):
        target = folder / "zz" / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    return folder


@pytest.fixture
def bare(tree):
    """Take the table out of the tree."""
    (table,) = tree.glob("manifest.*")
    return tree, table.rename(tree.parent / f"labels{table.suffix}")


def run(command, *words):
    answer = call(command, *words)
    assert answer.code == 0, answer.err
    return answer


def test_training_takes_what_is_chosen_and_tells_what_is_left_out(bare, recipe, tmp_path):
    tree, _ = bare
    words = ("--data", tree, "--backbone", "embedded", "--recipe", recipe, "--shots", 4)
    told = json.loads(run("train", *words, "--modality", "dx", "--out", tmp_path / "a", "--json").out)
    assert told["left_out"]["other modality"] == 12
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["run"]["modality"] == ["dx"]
    answer = run("train", *words, "--body-part", "CHEST", "--view", "PA", "--out", tmp_path / "b")
    assert "other body part 12" in answer.out


def test_an_option_overrides_its_key_and_leaves_the_others(bare, recipe, tmp_path):
    tree, _ = bare
    (tree / "dicom.toml").write_text('modality = ["MR"]\nbody_part = ["BRAIN", "CHEST"]\n')
    words = ("--data", tree, "--backbone", "embedded", "--recipe", recipe, "--shots", 4, "--json")
    plain = json.loads(run("train", *words, "--out", tmp_path / "a").out)
    assert plain["left_out"]["other modality"] == 6
    chosen = json.loads(run("train", *words, "--modality", "DX", "--out", tmp_path / "b").out)
    assert chosen["left_out"]["other modality"] == 12
    both = json.loads(
        run("train", *words, "--modality", "DX", "--modality", "MR", "--out", tmp_path / "c").out
    )
    assert "other modality" not in both["left_out"]
    answer = call("train", *words, "--modality", "DX", "--body-part", "BRAIN", "--out", tmp_path / "d")
    assert answer.code == 3
    assert "none is one" in answer.err


def test_labels_may_lie_elsewhere_and_scores_cover_all_that_is_chosen(bare, model, tmp_path):
    tree, labels = bare
    out = tmp_path / "judged"
    words = ("--model", model, "--data", tree, "--labels", labels, "--modality", "MR", "--out", out)
    metrics = json.loads(run("evaluate", *words, "--json").out)
    assert (metrics["n_normal"], metrics["n_abnormal"]) == (3, 3)
    assert metrics["left_out"]["other modality"] == 6
    judged = [json.loads(line)["score"] for line in (out / "scores.jsonl").read_text().splitlines()]
    answer = run("score", "--model", model, tree, "--modality", "MR", "--out", tmp_path / "scores")
    scores = [json.loads(line)["score"] for line in answer.out.splitlines()]
    assert len(scores) == 12
    assert all(min(abs(one - other) for other in scores) < 1e-5 for one in judged)
    assert "Left out:" in answer.err


def test_what_cannot_be_chosen_is_said(bare, scans, model, tmp_path):
    tree, _ = bare
    out = ("--out", tmp_path / "x")
    for words, said in (
        (
            ("score", "--model", model, scans / "normal/n0.png", "--view", "PA", *out),
            "must choose from folders",
        ),
        (("evaluate", "--model", model, "--data", scans, "--view", "PA", *out), "laid out by hand"),
        (("evaluate", "--model", model, "--data", tree, "--labels", tree / "no.csv", *out), "there is none"),
    ):
        answer = call(*words)
        assert (answer.code, said in answer.err) == (2, True), answer.err
        assert str(tree) not in answer.err
