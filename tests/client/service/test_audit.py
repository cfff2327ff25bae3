import hashlib
import json

import pytest

from client.service.audit import START, AuditLog, ChainEnd, read, verify
from mediclip.errors import CheckpointError


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for number in range(1, 5):
        log.append("answered", round=number, norm=0.5)
    return path


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def test_every_line_holds_the_digest_of_the_one_before_it(path):
    previous = START
    for number, text in enumerate(lines(path), start=1):
        line = json.loads(text)
        assert (line["line"], line["previous"], line["round"]) == (number, previous, number)
        previous = hashlib.sha256(text.rstrip(b"\n")).hexdigest()
    assert verify(path) == ChainEnd(4, previous)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_is_opened_again_goes_on_where_it_was(path):
    log = AuditLog(path)
    log.append("refused", code="policy-norm")
    assert log.end.lines == verify(path).lines == 5
    assert [line["event"] for line in read(path)] == ["answered"] * 4 + ["refused"]


def test_a_log_that_is_not_there_is_empty(tmp_path):
    assert verify(tmp_path / "audit.jsonl") == ChainEnd()
    assert read(tmp_path / "audit.jsonl") == []


def changed(found):
    return [found[0], found[1].replace(b'"round":2', b'"round":9'), *found[2:]]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (changed, "line 3 does not follow"),
        (lambda found: [*found[:3], found[3].replace(b'"round":4', b'"round":9')], "line 4 is not the one"),
        (lambda found: found[:1] + found[2:], "line 2 does not follow"),
        (lambda found: [found[1], found[0], *found[2:]], "line 1 does not follow"),
        (lambda found: found[1:], "line 1 does not follow"),
        (lambda found: found[:-1], "it has 3 lines where 4 were written"),
        (lambda _: [], "it has 0 lines where 4 were written"),
        (lambda found: [*found, found[-1]], "line 5 does not follow"),
        (lambda found: [*found, b"junk\n"], "line 5 does not follow"),
        (lambda found: [*found[:3], found[3].rstrip(b"\n")], "its last line is cut off"),
    ],
)
def test_whatever_is_changed_from_outside_is_found_and_the_line_is_named(path, tamper, words):
    path.write_bytes(b"".join(tamper(lines(path))))
    for check in (verify, AuditLog):
        with pytest.raises(CheckpointError, match=words):
            check(path)


def test_an_end_that_cannot_be_read_is_no_end(path):
    path.with_name("audit.jsonl.end").write_text("{")
    with pytest.raises(CheckpointError, match="the file of its end cannot be read"):
        verify(path)


def test_a_crash_between_line_and_end_is_no_fault(path):
    end = path.with_name("audit.jsonl.end")
    before = end.read_bytes()
    AuditLog(path).append("answered", round=5)
    end.write_bytes(before)
    assert AuditLog(path).end.lines == 5
    assert json.loads(end.read_bytes())["lines"] == 5


def test_the_torn_line_of_a_crash_is_dropped(path):
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"line":5,"ti')
    assert AuditLog(path).end.lines == 4
    assert path.read_bytes() == whole
