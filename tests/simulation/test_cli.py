"""The comparison from the command line, as a person and a script run it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mediclip.training.checkpoint import load_model
from simulation.phantom import write_phantom_set
from tests.mediclip.cli.conftest import RECIPE, call

METHODS = ["untrained", "local", "federated", "centralised"]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulation")
    for organ in ("brain", "breast"):
        write_phantom_set(
            root / organ, organ, seed=1, train_normal=8, test_normal=3, test_abnormal=3, size=64
        )
    (root / "small.toml").write_text(RECIPE)
    return root


def words(ground, out, *more, sets=("brain",), sites=2, rounds=2):
    data = [word for name in sets for word in ("--data", f"{name}={ground / name}")]
    fixed = ("--backbone", "embedded", "--recipe", ground / "small.toml", "--shots", 3, "--seed", 4)
    return ["simulate", "run", *data, *fixed, "--sites", sites, "--rounds", rounds, "--out", out, *more]


def tensors(out, name="federated"):
    return load_model(out / "models" / f"{name}.safetensors").tensors


def test_one_set_is_split_over_sites_and_every_method_has_its_rows(ground, tmp_path):
    answer = call(*words(ground, tmp_path / "run", "--json"))
    assert answer.code == 0, answer.err
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert json.loads(answer.out) == result
    assert result["schema"] == 1
    rows = result["rows"]
    assert [(r["method"], r["site"]) for r in rows] == [
        (method, site) for method in METHODS for site in ("all", "site-1", "site-2")
    ]
    for row in rows:
        assert row["set"] == "brain"
        assert (row["n_normal"], row["n_abnormal"]) == (3, 3)
        for metric in ("image_auroc", "image_ap", "pixel_auroc", "aupro"):
            assert 0 <= row[metric] <= 1
    alone = {row["site"]: row for row in rows if row["method"] == "local"}
    mean = (alone["site-1"]["image_auroc"] + alone["site-2"]["image_auroc"]) / 2
    assert alone["all"]["image_auroc"] == pytest.approx(mean)
    values = sum(value.size for value in tensors(tmp_path / "run").values())
    for direction in ("up", "down"):
        assert 2 * 4 * values < result[f"bytes_{direction}_per_round"] < 2 * 4 * values + 20_000
    assert result["seconds"] > 0


def test_every_model_file_of_a_run_scores_an_image(ground, tmp_path):
    assert call(*words(ground, tmp_path / "run")).code == 0
    files = sorted((tmp_path / "run" / "models").iterdir())
    names = ["centralised", "federated", "local-site-1", "local-site-2"]
    assert [file.stem for file in files] == names
    image = next((ground / "brain" / "images" / "test" / "abnormal").iterdir())
    for file in files:
        answer = call("score", "--model", file, image, "--out", tmp_path / "scores")
        assert answer.code == 0, answer.err


def test_two_sets_give_sites_a_set_each_and_the_table_and_report_name_both(ground, tmp_path):
    answer = call(*words(ground, tmp_path / "run", sets=("brain", "breast")))
    assert answer.code == 0, answer.err
    rows = json.loads((tmp_path / "run" / "result.json").read_text())["rows"]
    assert {(r["set"], r["site"]) for r in rows} == {
        ("brain", "all"), ("brain", "site-1"), ("breast", "all"), ("breast", "site-2")
    }  # fmt: skip
    assert "brain: 3 normal and 3 abnormal" in answer.out
    assert "breast: 3 normal and 3 abnormal" in answer.out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "breast" in page
    assert str(ground / "brain" / "images") not in page


def test_a_folder_with_an_earlier_run_is_left_alone_and_another_run_does_not_resume_it(ground, tmp_path):
    out = tmp_path / "run"
    assert call(*words(ground, out)).code == 0
    before = (out / "result.json").read_bytes()
    again = call(*words(ground, out))
    assert again.code == 6
    assert "--resume" in again.err
    other = call(*words(ground, out, "--resume", rounds=3))
    assert other.code == 6
    assert "settings of the run" in other.err
    assert (out / "result.json").read_bytes() == before
    assert call(*words(ground, out, "--resume")).code == 0


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (("--data", "nameless"), 2, "--data must be NAME=DIR"),
        (("--sites", "9"), 3, "9 sites of at least 3 images need 27 images"),
        (("--taps", "99"), 4, "Taps must be rising block numbers in [1, 9]"),
        (("--engine", "cloud"), 2, "cloud"),
        (("--strategy", "best"), 2, "best"),
        (
            ("--methods", "local,magic"),
            2,
            "--methods must be some of untrained,winclip,patchcore,local,federated,kept,centralised",
        ),
        (("--partition", "dirichlet", "--alpha", "-1"), 2, "'alpha' of a Dirichlet split must be in (0"),
        (("--data", "brain2=nowhere"), 3, "The data folder of 'brain2' must exist"),
    ],
)
def test_bad_input_is_one_sentence_and_makes_no_folder(more, code, said, ground, tmp_path):
    answer = call(*words(ground, tmp_path / "run", *more))
    assert answer.code == code
    assert said in answer.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("images/train/normal", "Cannot use train image 7 of brain: it must be a"),
        ("images/test/abnormal", "Cannot use test image 5 of brain: it must be a"),
        ("images/test/ground_true", "Cannot use the mask of test image 5 of brain"),
    ],
)
def test_a_broken_scan_is_found_before_anything_is_trained_or_written(place, said, ground, tmp_path):
    shutil.copytree(ground / "brain", tmp_path / "brain")
    shutil.copy(ground / "small.toml", tmp_path)
    sorted((tmp_path / "brain" / place).iterdir())[-1].write_text("no picture")
    answer = call(*words(tmp_path, tmp_path / "run"))
    assert answer.code == 3
    assert said in answer.err
    assert "local and centralised" not in answer.err
    assert not (tmp_path / "run").exists()


def test_an_out_that_is_a_file_or_below_one_is_refused(ground, tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    for out in (file, file / "run"):
        answer = call(*words(ground, out))
        assert answer.code == 2
        assert "--out must be a folder that can be written" in answer.err
    assert file.read_text() == "mine"


@pytest.mark.parametrize("resume", [(), ("--resume",)])
def test_models_of_an_unknown_run_are_never_taken_for_this_one(resume, ground, tmp_path):
    models = tmp_path / "run" / "models"
    models.mkdir(parents=True)
    (models / "local-site-1.safetensors").write_bytes(b"another run's")
    answer = call(*words(ground, tmp_path / "run", *resume))
    assert answer.code == 6
    assert "holds models but no settings.json" in answer.err
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["models"]


def test_damaged_settings_are_not_resumed(ground, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{")
    answer = call(*words(ground, tmp_path / "run", "--resume"))
    assert answer.code == 6
    assert "differ or are damaged" in answer.err
    assert (tmp_path / "run" / "settings.json").read_text() == "{"


def test_some_methods_can_be_compared_and_the_rest_added_without_training_those_again(ground, tmp_path):
    out = tmp_path / "run"
    assert call(*words(ground, out, "--methods", "local,untrained")).code == 0
    some = json.loads((out / "result.json").read_text())
    assert list(dict.fromkeys(row["method"] for row in some["rows"])) == ["untrained", "local"]
    assert some["bytes_up_per_round"] == some["bytes_down_per_round"] == 0
    assert not (out / "federated").exists()
    file = out / "models" / "local-site-1.safetensors"
    written = file.stat().st_mtime_ns
    assert call(*words(ground, out, "--resume")).code == 0
    whole = json.loads((out / "result.json").read_text())
    assert list(dict.fromkeys(row["method"] for row in whole["rows"])) == METHODS
    assert [row for row in whole["rows"] if row["method"] in {"untrained", "local"}] == some["rows"]
    assert file.stat().st_mtime_ns == written


def test_a_federation_of_one_round_and_one_site_is_that_site_alone(ground, tmp_path):
    answer = call(*words(ground, tmp_path / "run", "--methods", "local,federated", sites=1, rounds=1))
    assert answer.code == 0, answer.err
    alone, together = tensors(tmp_path / "run", "local-site-1"), tensors(tmp_path / "run")
    assert all(np.array_equal(alone[key], together[key]) for key in alone)


def test_local_takes_as_many_steps_as_all_rounds_together(ground, tmp_path):
    # 2 epochs of one batch are 2 steps. Three rounds need one step each, so local takes 3, as it does in one
    # round of 3 epochs.
    (tmp_path / "three.toml").write_text(RECIPE.replace("epochs = 2", "epochs = 3"))
    runs = {
        "rounded": call(*words(ground, tmp_path / "rounded", "--methods", "local", "--json", rounds=3)),
        "whole": call(*words(ground, tmp_path / "whole", "--methods", "local", rounds=2)),
        "three": call(
            *words(ground, tmp_path / "three", "--methods", "local", rounds=1),
            *("--recipe", tmp_path / "three.toml"),
        ),
    }
    assert [answer.code for answer in runs.values()] == [0, 0, 0]
    assert json.loads(runs["rounded"].out)["steps_per_round"] == 1
    rounded, whole, three = (tensors(tmp_path / name, "local-site-1") for name in runs)
    assert all(np.array_equal(rounded[key], three[key]) for key in three)
    assert not all(np.array_equal(rounded[key], whole[key]) for key in whole)


def test_show_config_trains_nothing(ground, tmp_path):
    answer = call(*words(ground, tmp_path / "run", "--show-config"))
    assert answer.code == 0
    assert json.loads(answer.out)["run"]["sites"] == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_killed_in_round_6_of_10_and_resumed_ends_with_the_same_tensors(ground, tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert call(*words(ground, whole, rounds=10)).code == 0
    program = "from mediclip.cli.main import main; import sys; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, *map(str, words(ground, broken, rounds=10))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    history = broken / "federated" / "history.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if history.exists() and len(history.read_text().splitlines()) >= 5:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait(30) == -signal.SIGKILL
    assert not (broken / "result.json").exists()
    assert call(*words(ground, broken, "--resume", rounds=10)).code == 0
    for name in ("federated", "centralised", "local-site-1"):
        one, other = tensors(whole, name), tensors(broken, name)
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_the_demo_does_not_replace_what_it_did_not_make(tmp_path):
    (tmp_path / "demo" / "mine").mkdir(parents=True)
    answer = call("simulate", "demo", "--out", tmp_path / "demo")
    assert answer.code == 2
    assert "earlier demo" in answer.err
    assert (tmp_path / "demo" / "mine").is_dir()


@pytest.mark.slow
def test_the_demo_leaves_a_report_that_a_browser_shows(tmp_path):
    out = tmp_path / "demo"
    (out / "old").mkdir(parents=True)
    (out / "demo.json").write_text("{}")  # an earlier demo, which is replaced
    program = [sys.executable, "-c", "from mediclip.cli.main import main; import sys; main(sys.argv[1:])"]
    done = subprocess.run(
        [*program, "simulate", "demo", "--out", out], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    assert "report.html" in done.stdout
    assert not (out / "old").exists()
    rows = json.loads((out / "result.json").read_text())["rows"]
    assert {row["set"] for row in rows} == {"brain", "chest", "breast"}
    assert {row["method"] for row in rows} == set(METHODS)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    picture = tmp_path / "page.png"
    subprocess.run(
        [
            "chromium",
            *flags,
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1200,16000",
            f"--screenshot={picture}",
            (out / "report.html").as_uri(),
        ],
        capture_output=True,
        check=True,
        timeout=120,
    )
    with Image.open(picture) as page:
        pixels = np.asarray(page.convert("RGB")).reshape(-1, 3).astype(int)
    colourful = (pixels.max(1) - pixels.min(1) > 60).mean()
    assert colourful > 0.01  # the maps are there; charts and marks alone come to a third of that


@pytest.mark.parametrize("strategy", ["personal", "clustered"])
def test_sites_that_end_with_models_of_their_own_are_tested_with_them(ground, tmp_path, strategy):
    out = tmp_path / "run"
    chosen = ("--strategy", strategy, "--methods", "local,federated,kept", "--json")
    answer = call(*words(ground, out, *chosen, sets=("brain", "breast"), sites=4))
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)["rows"]
    assert {row["method"] for row in rows} == {"local", "federated", "kept"}
    files = {file.stem for file in (out / "models").iterdir()}
    sites = [f"site-{number}" for number in range(1, 5)]
    assert files == {f"{method}-{site}" for method in ("local", "federated", "kept") for site in sites}
    scored = {(r["method"], r["site"]): r["image_auroc"] for r in rows}
    for site in sites:
        kept = tensors(out, f"kept-{site}")
        (same,) = {
            name
            for name in ("local", "federated")
            if all(np.array_equal(kept[n], v) for n, v in tensors(out, f"{name}-{site}").items())
        } or {"tuned"}
        if same != "tuned":
            assert scored["kept", site] == scored[same, site]
