import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.harness import Benchmark, Outcome, compare, find_benchmarks, in_fresh_process, run

ROOT = Path(__file__).resolve().parents[2]
KNOWN = find_benchmarks()
CHEAP = [name for name, benchmark in KNOWN.items() if benchmark.is_cheap]


def hold(mib):
    return int(np.ones(mib << 20, np.uint8).sum())


def benchmark(ratio, **options):
    return Benchmark(
        "one", "a against b", 10, "times", lambda *, quick: Outcome(ratio, {"q": quick}), **options
    )


@pytest.mark.parametrize("name", KNOWN)
def test_a_benchmark_says_what_it_compares(name):
    found = KNOWN[name]
    assert found.name == name == name.lower()
    assert found.compares
    assert found.unit
    assert math.isfinite(found.target)
    assert found.target > 0


@pytest.mark.slow
def test_a_quick_run_writes_the_schema(tmp_path):
    file = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *CHEAP, "--quick", "--json", file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(file.read_text())
    assert written.keys() == {"schema", "machine", "results"}
    assert written["schema"] == 1
    assert {"processor", "cores", "python", "versions"} <= written["machine"].keys()
    assert [r["name"] for r in written["results"]] == sorted(CHEAP)
    for result in written["results"]:
        assert result.keys() == {"name", "ratio", "target", "unit", "details"}
        assert math.isfinite(result["ratio"])
        assert result["ratio"] > 0
        assert result["target"] == KNOWN[result["name"]].target
        assert result["details"]["quick"] is True
        assert result["name"] in done.stdout


def test_the_list_names_every_benchmark(capsys):
    main(["--list"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in KNOWN)


def test_an_unknown_name_runs_nothing(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["no_such_thing", "--json", str(tmp_path / "results.json")])
    assert "no benchmark is called 'no_such_thing'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("ratio", "at_most", "met"),
    [(10, False, True), (9.99, False, False), (10, True, True), (10.01, True, False)],
)
def test_a_target_is_met_from_its_own_side(ratio, at_most, met):
    result = run(benchmark(ratio, at_most=at_most), quick=True)
    assert result["details"]["met"] is met
    assert result["details"]["goal"] == ("at most 10" if at_most else "at least 10")


@pytest.mark.parametrize("ratio", [math.nan, math.inf])
def test_a_ratio_that_is_no_number_is_refused(ratio):
    with pytest.raises(ValueError, match="A ratio must be finite"):
        run(benchmark(ratio), quick=True)


def test_pieces_of_work_take_turns_and_are_timed_by_name():
    calls = []
    timings = compare(
        {"a": lambda: calls.append("a"), "b": lambda: (calls.append("b"), time.sleep(0.02))}, repeats=3
    )
    assert calls == ["a", "b"] * 4  # once to warm up
    assert timings["b"].wall_s >= 0.02
    assert timings["b"].repeats == 3
    assert timings["a"].as_dict().keys() == {"cpu_s", "wall_s", "repeats"}


def test_memory_is_that_of_the_call_and_not_of_its_parent():
    held = np.ones(300 << 20, np.uint8)
    small, large = in_fresh_process(hold, 1), in_fresh_process(hold, 200)
    del held
    assert (small.value, large.value) == (1 << 20, 200 << 20)
    assert 170 < large.peak_mib - small.peak_mib < 230
