"""The ledger: it adds up over runs, refuses to overspend, and survives whatever ends its process."""

import json
import math
import os
import signal
import subprocess
import sys

import pytest

from mediclip.errors import CheckpointError, PolicyError
from mediclip.privacy.accounting import Mechanism, epsilon
from mediclip.privacy.ledger import Charge, Ledger

DELTA = 1e-5
ROUND = Mechanism(4.0)
STEPS = Mechanism(8.0, 0.5, 40)


def charge(question, *images, unit="image", mechanism=ROUND):
    return Charge(question, unit, images or ("x", "y"), mechanism)


def pay(ledger, *charges, budget=100.0):
    return [ledger.charge(one, delta=DELTA, budget=budget) for one in charges]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def test_what_is_spent_is_composed_and_goes_on_after_a_restart(path):
    pay(Ledger(path), charge("1"), charge("2"))
    (third,) = pay(Ledger(path), charge("3", mechanism=STEPS))
    assert third == pytest.approx(epsilon([ROUND, ROUND, STEPS], DELTA))
    assert Ledger(path).spent("image", ["x"], DELTA) == pytest.approx(third)


def test_another_run_on_the_same_images_goes_on_with_their_account(path):
    """The account is the image's: another federation, seed or support set changes nothing."""
    pay(Ledger(path), charge("run 1", "x", "y"), charge("run 2", "y", "z"))
    ledger = Ledger(path)
    assert ledger.spent("image", ["x", "z"], DELTA) == pytest.approx(epsilon([ROUND], DELTA))
    assert ledger.spent("image", ["z", "y"], DELTA) == pytest.approx(epsilon([ROUND] * 2, DELTA))
    assert ledger.spent("image", ["new"], DELTA) == 0


@pytest.mark.parametrize("unit", ["site", "patient"])
def test_a_site_and_its_patients_have_one_account_whatever_the_images(path, unit):
    ledger = Ledger(path)
    first, second = pay(ledger, charge("1", "x", unit=unit), charge("2", "y", unit=unit))
    assert first < second == pytest.approx(epsilon([ROUND] * 2, DELTA))


def test_the_step_that_would_overspend_is_refused_and_costs_nothing(path):
    budget = epsilon([ROUND] * 3, DELTA) + 1e-9
    ledger = Ledger(path)
    pay(ledger, charge("1"), charge("2"), charge("3"), budget=budget)
    lines = path.read_bytes()
    for one in (charge("4"), charge("5", "y", "new")):
        with pytest.raises(
            PolicyError, match=r"Each image may spend at most ε = 1\.\d+ at δ = 1e-05"
        ) as caught:
            pay(ledger, one, budget=budget)
        assert caught.value.code == "policy-budget"
    assert path.read_bytes() == lines
    pay(ledger, charge("6", "new"), budget=budget)


def test_a_charge_that_was_left_open_is_not_paid_twice(path):
    before = pay(Ledger(path), charge("1"))
    assert pay(Ledger(path), charge("1")) == before
    assert Ledger(path).end.lines == 1
    ledger = Ledger(path)
    ledger.close("1")
    ledger.close("1")
    assert ledger.end.lines == 2
    (again,) = pay(Ledger(path), charge("1"))  # its answer left: this is new noise on the same images
    assert again > before[0]


def test_an_open_charge_pays_for_nothing_else(path):
    ledger = Ledger(path)
    pay(ledger, charge("1"))
    pay(ledger, charge("1", "x", "z"), charge("1", mechanism=STEPS), charge("2"))
    assert ledger.end.lines == 4


def test_images_that_left_without_noise_have_no_epsilon_any_more(path):
    ledger = Ledger(path)
    ledger.note_without_noise(["x"])
    ledger.note_without_noise(["x"])
    assert ledger.end.lines == 1
    for one in (charge("1", "x", "y"), charge("1", unit="site"), charge("1", unit="patient")):
        with pytest.raises(PolicyError, match="it would be inf"):
            pay(Ledger(path), one, budget=1e9)
    pay(ledger, charge("1", "y"))


@pytest.mark.parametrize(
    ("earlier", "unit", "is_bounded"),
    [
        ("site", "image", True),
        ("patient", "image", True),
        ("site", "patient", True),
        ("image", "patient", False),
        ("image", "site", False),
        ("patient", "site", False),
    ],
)
def test_noise_that_hides_more_counts_for_less_and_not_the_other_way(path, earlier, unit, is_bounded):
    ledger = Ledger(path)
    pay(ledger, charge("1", unit=earlier))
    assert math.isfinite(ledger.spent(unit, ["x"], DELTA)) is is_bounded


def test_what_was_paid_is_on_the_disk_before_the_noise_is_drawn_and_survives_a_kill(path):
    code = f"""
import os, signal
from pathlib import Path
from mediclip.privacy.accounting import Mechanism
from mediclip.privacy.ledger import Charge, Ledger
Ledger(Path({str(path)!r})).charge(Charge("1", "image", ("x",), Mechanism(4.0)), delta=1e-5, budget=9.0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert Ledger(path).spent("image", ["x"], DELTA) == pytest.approx(epsilon([ROUND], DELTA))


@pytest.mark.parametrize("keep", [slice(0, 1), slice(1, None), slice(0, 0)])
def test_a_line_that_was_taken_out_is_missed(path, keep):
    pay(Ledger(path), charge("1"), charge("2"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[keep]))
    with pytest.raises(CheckpointError, match="The privacy ledger must be as it was written"):
        Ledger(path)


def test_a_price_that_was_changed_is_found(path):
    pay(Ledger(path), charge("1"), charge("2"))
    path.write_bytes(path.read_bytes().replace(b'"noise_multiplier":4.0', b'"noise_multiplier":9.0'))
    with pytest.raises(CheckpointError, match="ledger"):
        Ledger(path)


def test_a_line_says_price_and_digests_and_nothing_of_the_run(path):
    pay(Ledger(path), charge("1"))
    (line,) = map(json.loads, path.read_text().splitlines())
    assert set(line) == {
        *("line", "time", "previous", "event", "question", "unit", "images", "mechanism", "epsilon", "delta")
    }
