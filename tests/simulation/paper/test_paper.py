import csv
import json
from pathlib import Path

import pytest
from scipy import stats

from mediclip.config import load_recipe
from mediclip.errors import DataError, SettingsError
from simulation.paper.catalogue import find_sets
from simulation.paper.grid import PARTS, Cell, PaperSettings, make_grid, make_variants
from simulation.paper.summary import ALL_SETS, lines_from, spread, summarise_rows, to_plain
from simulation.paper.tables import make_tables, to_markdown, write_csv
from simulation.phantom import write_phantom_set
from tests.mediclip.cli.conftest import RECIPE, call


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with two sets, an empty folder, and a recipe that trains in a second."""
    root = tmp_path_factory.mktemp("ground")
    for organ, name in (("brain", "BrainMRI"), ("breast", "mine")):
        write_phantom_set(
            root / "data" / name, organ, seed=1, train_normal=5, test_normal=4, test_abnormal=4, size=64
        )
    (root / "data" / "notes").mkdir()
    (root / "small.toml").write_text(RECIPE)
    return root


def words(ground: Path, out: Path, **changes: object) -> list[object]:
    options = {
        "data-root": ground / "data", "backbone": "embedded", "out": out, "recipes": ground / "small.toml",
        "shots": "2,4", "seeds": 1, "sites": 2, "rounds": 2, "jobs": 2,
    } | changes  # fmt: skip
    return ["simulate", "paper", *(word for name, value in options.items() for word in (f"--{name}", value))]


def test_sets_are_found_whatever_their_case_and_what_lacks_is_named(ground: Path):
    found = find_sets(ground / "data")
    assert list(found.folders) == ["brainmri", "mine"]
    assert found.absent == ("busi", "chexpert")
    assert list(found.unreadable) == ["notes"]
    assert list(find_sets(ground / "data", ("mine", "busi")).folders) == ["mine"]
    assert find_sets(ground / "data", ("mine", "busi")).absent == ("busi",)
    with pytest.raises(DataError, match="must be a folder with one subfolder a set"):
        find_sets(ground / "nothing")


def test_a_set_of_normals_alone_cannot_be_tested(tmp_path: Path):
    write_phantom_set(
        tmp_path / "busi", "breast", seed=1, train_normal=2, test_normal=2, test_abnormal=0, size=64
    )
    assert "has not both" in find_sets(tmp_path).unreadable["busi"]


def test_the_grid_has_every_combination_once_and_says_where_a_set_is_too_small(ground: Path):
    datasets = find_sets(ground / "data").datasets
    settings = PaperSettings(
        parts=PARTS,
        shots=(2, 4),
        seeds=(0, 1),
        sites=2,
        site_counts=(2, 3),
        round_counts=(1, 2),
        ablation_shots=4,
    )
    grid = make_grid(settings, ("a", "b"), datasets, ("x", "y"))
    names = [cell.name for cell in grid.cells]
    assert len(set(names)) == len(names)
    assert all(cell.sites * cell.shots <= 5 for cell in grid.cells)
    assert {(cell.part, cell.sites * cell.shots, pool) for cell, pool in grid.too_few} == {
        ("federated", 8, 5), ("sites", 6, 5)
    }  # fmt: skip
    counts = {part: sum(cell.part == part for cell in grid.cells) for part in PARTS}
    # 2 sets x 2 seeds, times: 2 recipes x 2 shots; 2 x 1 of 2 shots; 1 of 2 counts; 2; 3 variants; 1.
    trained = {"alone": 16, "federated": 8, "sites": 4, "rounds": 8, "ablation": 12, "transfer": 4}
    assert counts == trained | {"zero_shot": 2}
    assert {cell.tested_on for cell in grid.cells if cell.part == "transfer"} == {("brainmri",), ("mine",)}


def test_ablations_change_one_thing_each():
    recipe = load_recipe("default")
    variants = make_variants(recipe)
    assert len(variants) >= 14
    for name, variant in variants.items():
        before, after = recipe.model_dump(), variant.recipe.model_dump()
        changed = [key for key in before if before[key] != after[key]]
        assert (changed == []) == name.startswith("tap-"), name
        assert len(changed) <= 1
    assert variants["only-cut_paste"].recipe.tasks == {"cut_paste": 0.25, "identity": 0.25}
    assert "source" not in variants["without-source"].recipe.tasks
    assert "phrase-end" not in variants  # that is the recipe itself


def test_a_spread_is_students():
    values = [0.8, 0.9, 0.85, 0.7]
    found = spread(values)
    expected = stats.t.interval(0.95, 3, loc=0.8125, scale=stats.sem(values))
    assert found.mean == pytest.approx(0.8125)
    assert found.interval == pytest.approx(expected)
    assert str(found) == "0.812 ± 0.085"
    assert spread([0.5]).interval is None


def row(set_name: str, seed: int, auroc: float, pixel: float | None, **changes: object) -> dict[str, object]:
    return {
        "part": "alone", "set_name": set_name, "tested_on": set_name, "sites": 1, "shots": 4, "rounds": 1,
        "seed": seed, "recipe": "default", "variant": "", "method": "local",
        "image_auroc": auroc, "unique_image_auroc": auroc, "image_ap": 0.5,
        "sensitivity_at_95_specificity": 0.5, "pixel_auroc": pixel, "unique_pixel_auroc": pixel,
        "aupro": pixel, "best_dice": pixel, "n_normal": 4, "n_abnormal": 4,
    } | changes  # fmt: skip


def test_seeds_are_put_together_and_sets_averaged_seed_by_seed():
    rows = [row("a", 0, 0.8, None), row("a", 1, 0.9, None), row("b", 0, 0.6, 0.7), row("b", 1, 0.5, 0.9)]
    lines = summarise_rows(rows)
    by_set = {line.facts["tested_on"]: line.metrics for line in lines}
    assert by_set["a"]["image_auroc"].mean == pytest.approx(0.85)
    assert "pixel_auroc" not in by_set["a"]
    assert by_set["b"]["pixel_auroc"].mean == pytest.approx(0.8)
    # (0.8 + 0.6) / 2 and (0.9 + 0.5) / 2 are equal: no spread over seeds is left.
    assert by_set[ALL_SETS]["image_auroc"].mean == pytest.approx(0.7)
    assert by_set[ALL_SETS]["image_auroc"].deviation == pytest.approx(0, abs=1e-12)
    assert lines_from(json.loads(json.dumps(to_plain(lines))))[0].facts == lines[0].facts


def test_no_mean_over_sets_is_claimed_where_a_set_lacks():
    rows = [row("a", 0, 0.8, None), row("b", 0, 0.6, None), row("a", 0, 0.9, None, shots=8)]
    means = [line for line in summarise_rows(rows) if line.facts["set_name"] == ALL_SETS]
    assert [line.facts["shots"] for line in means] == [4]


def test_tables_show_what_differs_and_copies_where_they_matter():
    rows = [
        row("a", 0, 0.8, None, unique_image_auroc=0.7),
        row("a", 0, 0.9, None, method="untrained"),
        row("b", 0, 0.6, 0.7),
    ]
    image, pixel = make_tables(summarise_rows(rows))
    assert (
        list(image.columns) == ["method", "a, image AUROC", "b, image AUROC"] or ALL_SETS in image.columns[-1]
    )
    cells = {line[0]: line[1:] for line in image.rows}
    assert cells["local"][0] == "0.800 (0.700 without copies)"
    assert cells["untrained"][1] == "–"
    assert list(pixel.columns) == ["method", "b, pixel AUROC"]
    assert to_markdown(pixel).splitlines()[:2] == ["| method | b, pixel AUROC |", "| --- | --: |"]
    table = list(csv.DictReader(write_csv(rows).splitlines()))
    assert [line["image_auroc"] for line in table] == ["0.8", "0.9", "0.6"]
    assert table[0]["pixel_auroc"] == ""


def test_the_benchmark_runs_resumes_and_says_what_lacks(ground: Path, tmp_path: Path):
    out = tmp_path / "out"
    told = json.loads(call(*words(ground, out), "--json").out)
    assert told["sets"] == ["brainmri", "mine"]
    assert told["absent"] == ["busi", "chexpert"]
    assert any("CheXpert is absent: Irvin et al." in note for note in told["notes"])
    assert any("8 normal training images are needed, for it has 5" in note for note in told["notes"])
    assert told["failed"] == []
    # alone: 2 sets x 2 shots x 3 methods; federated: 2 x 1 x 3.
    assert len(told["rows"]) == 12 + 6
    assert {line["tested_on"] for line in told["summary"]} == {"brainmri", "mine", ALL_SETS}
    page = (out / "report.html").read_text()
    assert "ROC curves" in page
    assert "How it grows" in page
    assert str(ground) not in page.replace(str(ground / "data"), "", 1).replace(
        str(ground / "small.toml"), "", 1
    )
    assert "## One site, k normal images" in (out / "results.md").read_text()
    cells = {path: path.stat().st_mtime_ns for path in (out / "cells").iterdir()}
    assert len(cells) == 4 + 2

    victim = next(path for path in cells if "federated" in path.name)
    before = json.loads(victim.read_text())
    victim.unlink()
    again = json.loads(call(*words(ground, out, jobs=1), "--json").out)
    assert again["rows"] == told["rows"]
    assert {p for p, at in cells.items() if p.stat().st_mtime_ns != at} == {victim}
    assert json.loads(victim.read_text())["rows"] == before["rows"]

    other = call(*words(ground, out, taps="1,2"))
    assert other.code != 0
    assert "must hold cells of the same data, backbone and recipes" in other.err


def test_ray_gives_the_same_numbers_as_processes(ground: Path, tmp_path: Path):
    few = {"part": "transfer", "ablation-shots": 2, "jobs": 1}
    here, there = (
        json.loads(call(*words(ground, tmp_path / on, on=on, **few), "--json").out)
        for on in ("processes", "ray")
    )
    assert here["rows"] == there["rows"]
    assert {(r["set_name"], r["tested_on"]) for r in here["rows"]} == {
        (a, b) for a in ("brainmri", "mine") for b in ("brainmri", "mine")
    }


def test_a_cell_that_fails_leaves_the_others_and_a_code(ground: Path, tmp_path: Path):
    root = tmp_path / "data"
    for name in ("good", "bad"):
        write_phantom_set(
            root / name, "brain", seed=1, train_normal=2, test_normal=2, test_abnormal=2, size=64
        )
    next((root / "bad" / "images" / "test" / "abnormal").iterdir()).write_bytes(b"no picture")
    answer = call(*words(ground, tmp_path / "out", **{"data-root": root, "shots": 2, "jobs": 1}))
    assert answer.code != 0
    assert "1 did not" in answer.err
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [cell["set_name"] for cell in result["failed"]] == ["bad"]
    assert {line["set_name"] for line in result["rows"]} == {"good"}
    assert any(note.startswith("A cell failed: ") for note in result["notes"])


def test_what_cannot_run_is_said_before_anything_does(ground: Path, tmp_path: Path):
    plan = call(*words(ground, tmp_path / "out"), "--plan")
    assert len(json.loads(plan.out)) == 6
    assert "CheXpert is absent" in plan.err
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty").mkdir()
    answer = call(*words(ground, tmp_path / "out", **{"data-root": tmp_path / "empty"}))
    assert "must hold a set" in answer.err
    with pytest.raises(SettingsError):
        PaperSettings.parse({"parts": ["everything"]}, source="the benchmark")


def test_a_cells_name_says_all_that_it_is():
    cell = Cell("ablation", "busi", 1, 16, 1, 3, "default", "tap-last", ("local",))
    assert cell.name == "ablation-busi-default-tap-last-1x16-s3"
    assert Cell("rounds", "busi", 4, 4, 20, 0, "default").name == "rounds-busi-default-4x4-r20-s0"
