"""The commands as a person meets them; those that start processes are in test_deployment.py."""

import json

import pytest

from mediclip.cli.main import flower_server, main
from server.app import CHECKPOINT
from server.authority import make_server_certificate, now_utc
from server.provision import Kits
from server.status import locked, write_status
from tests.server.test_status import status


def run(capsys, *arguments, command=main):
    with pytest.raises(SystemExit) as exit_:
        command(arguments)
    written = capsys.readouterr()
    return exit_.value.code, written.out, written.err


@pytest.fixture
def provisioned(write_federation, tmp_path, capsys):
    path = write_federation()
    assert run(capsys, "server", "provision", str(path))[0] == 0
    return path, Kits(tmp_path / "kits")


def test_provisioning_names_what_it_made_and_what_it_kept(write_federation, tmp_path, capsys):
    path = write_federation()
    code, out, _ = run(capsys, "server", "provision", str(path), "--out", str(tmp_path / "k"), "--json")
    first = json.loads(out)
    assert (code, first["made"], first["refreshed"]) == (0, ["north", "south", "west"], [])
    code, out, _ = run(
        capsys, "provision", str(path), "--out", str(tmp_path / "k"),
        "--add-site", "east", "--revoke-site", "south", command=flower_server,
    )  # fmt: skip
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert "revoked south" in lines
    assert any(line.startswith("made") for line in lines)
    assert "certificate is good until" in lines[-3]
    assert lines[-2].startswith("Hand each SITE.zip")
    assert lines[-1].startswith("Next: mediclip server start")
    assert {path.name for path in (tmp_path / "k").glob("*.zip")} == {
        "north.zip",
        "south.zip",
        "west.zip",
        "east.zip",
    }


def test_the_settings_in_force_are_shown_without_doing_anything(write_federation, tmp_path, capsys):
    path = write_federation()
    for arguments in (("provision",), ("start", "--out", str(tmp_path / "run"))):
        code, out, _ = run(capsys, "server", arguments[0], str(path), *arguments[1:], "--show-config")
        assert code == 0
        assert "three-hospitals" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["federation.toml", "tiny.toml"]


def start(capsys, path, tmp_path, *options):
    return run(capsys, "server", "start", str(path), "--out", str(tmp_path / "run"), *options)


def test_a_start_without_kits_says_how_to_make_them(write_federation, tmp_path, capsys):
    code, _, err = start(capsys, write_federation(), tmp_path)
    assert code == 2
    assert "run 'mediclip server provision' first" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("provisioned")
def test_a_start_with_too_few_sites_says_how_many_there_are(tmp_path, capsys, write_federation):
    path = write_federation(quorum=3)
    assert run(capsys, "server", "provision", str(path), "--revoke-site", "west")[0] == 0
    code, _, err = start(capsys, path, tmp_path)
    assert code == 2
    assert "at least 3 sites whose keys count. It has 2" in err


def test_an_earlier_run_is_resumed_or_left_alone(provisioned, tmp_path, capsys):
    path, _ = provisioned
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"damaged")
    code, _, err = start(capsys, path, tmp_path)
    assert (code, "must hold no earlier run" in err) == (6, True)
    assert start(capsys, path, tmp_path, "--resume")[0] == 6
    assert [p.name for p in (tmp_path / "run").iterdir()] == [CHECKPOINT]


def test_a_folder_with_a_coordinator_takes_no_second_one(provisioned, tmp_path, capsys):
    path, _ = provisioned
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        code, _, err = start(capsys, path, tmp_path)
    assert (code, "must have one coordinator" in err) == (7, True)


@pytest.mark.usefixtures("provisioned")
def test_an_address_that_cannot_be_listened_on_is_named(tmp_path, capsys, write_federation):
    path = write_federation(listen="203.0.113.1:1443")  # documentation's own network, nobody's address
    code, _, err = start(capsys, path, tmp_path)
    assert (code, "203.0.113.1:1443 is not" in err) == (2, True)
    code, out, _ = run(capsys, "server", "status", "--out", str(tmp_path / "run"), "--json")
    assert (code, json.loads(out)["phase"]) == (7, "failed")


def test_status_is_json_or_a_picture_and_says_what_expires_soon(tmp_path, capsys):
    write_status(tmp_path, status(phase="finished"))
    code, out, _ = run(capsys, "server", "status", "--out", str(tmp_path), "--json")
    found = json.loads(out)
    assert (code, found["phase"], found["round"], found["online"]) == (0, "finished", 2, 1)
    assert found["sites"][0] == {"name": "north", "online": True, "key_expires": "2030-01-02T00:00:00Z"}
    write_status(tmp_path, status(certificate_expires="2020-01-01T00:00:00Z"))
    code, out, _ = run(capsys, "server", "status", "--out", str(tmp_path))
    assert code == 0
    assert "the server's certificate: good until 2020-01-01 only" in out
    assert "interrupted" in out


def test_what_does_not_run_cannot_be_stopped(tmp_path, capsys):
    assert run(capsys, "server", "stop", "--out", str(tmp_path))[0] == 2
    write_status(tmp_path, status())
    code, _, err = run(capsys, "server", "stop", "--out", str(tmp_path))
    assert (code, "there is nothing to do" in err) == (7, True)


def test_a_stop_that_takes_too_long_says_so(tmp_path, capsys):
    write_status(tmp_path, status())
    with locked(tmp_path):
        code, _, err = run(capsys, "server", "stop", "--out", str(tmp_path), "--timeout", "0.1")
    assert (code, "must end within 0.1 seconds" in err) == (7, True)
    assert (tmp_path / "stop").exists()


def test_a_server_whose_certificate_has_expired_does_not_start(provisioned, tmp_path, capsys):
    path, kits = provisioned
    certificate, key = make_server_certificate(
        (kits.authority.read_bytes(), (kits.coordinator / "ca.key").read_bytes()), "127.0.0.1", now_utc(), 0
    )
    kits.certificate.write_bytes(certificate)
    kits.key.write_bytes(key)
    code, _, err = start(capsys, path, tmp_path)
    assert (code, "It expired on" in err) == (2, True)
