import pytest

from mediclip.errors import CheckpointError
from server.history import History


def test_entries_come_back_in_order_from_disk(tmp_path):
    history = History(tmp_path / "h.jsonl")
    assert history.read() == []
    entries = [{"round": 1, "metrics": {"val_loss": 0.1}}, {"round": 2, "metrics": {}}]
    for entry in entries:
        history.append(entry)
    assert History(tmp_path / "h.jsonl").read() == entries


def test_a_line_that_a_crash_cut_short_does_not_count_and_the_next_round_is_written_whole(tmp_path):
    path = tmp_path / "h.jsonl"
    history = History(path)
    history.append({"round": 1})
    with path.open("a") as file:
        file.write('{"round": 2, "met')
    assert history.read() == [{"round": 1}]
    history.truncate(1)
    history.append({"round": 2})
    assert history.read() == [{"round": 1}, {"round": 2}]


def test_a_resumed_run_drops_what_lies_beyond_its_checkpoint(tmp_path):
    history = History(tmp_path / "h.jsonl")
    for number in (1, 2, 3, 4):
        history.append({"round": number})
    history.truncate(2)
    assert history.read() == [{"round": 1}, {"round": 2}]
    history.truncate(0)
    assert history.read() == []


def test_damage_before_the_last_line_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "h.jsonl"
    path.write_text('{"round": 1}\nnonsense\n{"round": 3}\n')
    with pytest.raises(CheckpointError, match=r"Line 2 of h\.jsonl must be JSON"):
        History(path).read()


def test_a_number_that_is_not_finite_cannot_enter_the_history(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        History(tmp_path / "h.jsonl").append({"round": 1, "metrics": {"val_loss": float("nan")}})
