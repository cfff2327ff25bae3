import io
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from rich.console import Console

from mediclip.errors import FederationError, SettingsError
from server.status import STATUS, SiteStatus, Status, is_running, locked, read_status, write_status
from server.view import Rounds, render, round_line


def status(**changes):
    soon = datetime(2030, 1, 2, tzinfo=UTC)
    values = {
        "federation": "three-hospitals",
        "phase": "running",
        "round": 2,
        "rounds": 5,
        "quorum": 2,
        "sites": tuple(SiteStatus(name=n, online=n != "west", key_expires=soon) for n in ("north", "west")),
        "metrics": {"train_loss": 0.5},
        "refused": {"west": "not-finite"},
        "restarts": {"superlink": 1, "superexec": 0, "run": 0},
        "certificate_expires": soon,
        "message": "",
        "pid": 1,
        "updated": soon,
    }
    return Status(**{**values, **changes})


def test_a_status_is_read_as_it_was_written_while_its_coordinator_runs(tmp_path):
    write_status(tmp_path, status())
    with locked(tmp_path):
        assert is_running(tmp_path)
        assert read_status(tmp_path) == status()


@pytest.mark.parametrize("phase", ["starting", "waiting", "running", "stopping"])
def test_a_coordinator_that_is_gone_was_interrupted(tmp_path, phase):
    write_status(tmp_path, status(phase=phase))
    assert read_status(tmp_path).phase == "interrupted"


@pytest.mark.parametrize("phase", ["finished", "stopped", "failed"])
def test_an_end_stays_an_end(tmp_path, phase):
    write_status(tmp_path, status(phase=phase))
    assert read_status(tmp_path).phase == phase


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_a_folder_without_a_status_is_said_to_be_none(tmp_path, text):
    if text is not None:
        (tmp_path / STATUS).write_text(text)
    with pytest.raises(SettingsError, match=r"holds no coordinator\.json"):
        read_status(tmp_path)


def test_two_coordinators_do_not_share_a_folder_and_a_killed_one_leaves_it_free(tmp_path):
    code = f"""
import pathlib, time
from server.status import locked
with locked(pathlib.Path({str(tmp_path)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FederationError, match="One works in"), locked(tmp_path):
            pass
    finally:
        other.kill()
        other.wait(10)
        other.stdout.close()
    with locked(tmp_path):
        pass


def drawn(*statuses):
    rounds, file = Rounds(), io.StringIO()
    for one in statuses:
        rounds.see(one)
    Console(file=file, width=400).print(render(statuses[-1], rounds))
    return file.getvalue()


def test_the_view_shows_rounds_sites_loss_refusals_and_restarts():
    text = drawn(status(round=1, refused={}), status())
    for words in (
        "three-hospitals  running  round 2 of 5  1 of 2 sites online, 2 needed",
        "● north",
        "○ west",
        "train_loss 0.5",
        "west (not-finite)",
        "started again: superlink 1×",
    ):
        assert words in text


def test_the_view_shows_the_latest_rounds_alone_and_of_many_sites_only_who_is_away():
    soon = datetime(2030, 1, 2, tzinfo=UTC)
    sites = tuple(SiteStatus(name=f"s{n}", online=n > 29, key_expires=soon) for n in range(200))
    text = drawn(*(status(round=number, rounds=20, sites=sites) for number in range(1, 21)))
    assert "away: s0, s1" in text
    assert "and 6 more" in text
    assert [row.split("│")[1].strip() for row in text.splitlines() if row.startswith("│")] == [
        str(number) for number in range(13, 21)
    ]


@pytest.mark.parametrize("phase", ["finished", "stopped", "failed", "interrupted"])
def test_of_a_federation_that_has_ended_no_site_is_called_online(phase):
    text = drawn(status(phase=phase))
    assert f"three-hospitals  {phase}  round 2 of 5" in text
    assert "online" not in text
    assert "north" not in text


def test_a_failure_is_shown_with_its_sentence():
    assert "A round must have" in drawn(status(phase="failed", message="A round must have two updates."))


def test_a_log_gets_one_line_for_each_round():
    assert round_line(status()) == "round 2 of 5: train_loss 0.5; refused: west (not-finite)"
    assert round_line(status(metrics={}, refused={})) == "round 2 of 5: no metric was sent"
    rounds = Rounds()
    assert [rounds.see(status(round=number)) for number in (0, 1, 1, 2)] == [False, True, False, True]
