import json

import pytest

from mediclip.errors import FederationError, MediClipError, QuorumError
from server.app import OUTCOME
from server.outcome import ERRORS, judge, raise_failure


def write_outcome(out, **values):
    out.mkdir(exist_ok=True)
    (out / OUTCOME).write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("outcome", "status", "error", "words"),
    [
        ({"status": "failed", "code": "quorum", "message": "Two."}, "finished:failed", QuorumError, "Two"),
        ({"status": "failed", "code": "quorum", "message": "Two."}, "finished:completed", QuorumError, "Two"),
        ({"status": "failed", "code": "new", "message": "It."}, "finished:failed", FederationError, "It"),
        ({"status": "finished"}, "finished:failed", FederationError, "ended as 'finished:failed'"),
        ({}, "finished:completed", FederationError, "without a word"),
        ({}, "not started", FederationError, r"flower/flwr\.log"),
    ],
)
def test_how_a_run_ended_is_read_from_what_the_server_wrote_and_what_flower_says(
    tmp_path, outcome, status, error, words
):
    if outcome:
        write_outcome(tmp_path, **outcome)
    with pytest.raises(error, match=words):
        raise_failure(tmp_path, status)


def test_a_run_that_finished_raises_nothing(tmp_path):
    write_outcome(tmp_path, status="finished")
    raise_failure(tmp_path, "finished:completed")


def test_every_error_that_an_outcome_can_name_can_be_raised_from_its_sentence():
    for code, kind in ERRORS.items():
        error = kind("A sentence.")
        assert isinstance(error, MediClipError)
        assert (error.code, str(error)) == (code, "A sentence.")


@pytest.mark.parametrize(
    ("outcome", "status", "verdict"),
    [
        ({"status": "finished"}, "finished:completed", "finished"),
        ({"status": "finished"}, "finished:failed", "crashed"),
        ({}, "finished:failed", "crashed"),
        ({"status": "failed", "code": "failed", "message": "It."}, "finished:failed", "crashed"),
        ({"status": "failed", "code": "quorum", "message": "Two."}, "finished:failed", "failed"),
    ],
)
def test_a_run_is_tried_again_only_if_no_known_error_ended_it(tmp_path, outcome, status, verdict):
    if outcome:
        write_outcome(tmp_path, **outcome)
    assert judge(tmp_path, status) == verdict
