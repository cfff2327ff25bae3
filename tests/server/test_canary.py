"""A patient's name, number and UIDs, and the folder that they lie in, are nowhere outside their site."""

import os

import pydicom
import pytest

from client.kit import Kit
from client.service.audit import read
from mediclip.errors import QuorumError
from mediclip.protocol import SENTENCES
from server.app import HISTORY
from server.federation import load_federation
from server.flower_processes import free_port
from server.history import History
from server.provision import Kits, provision
from simulation.phantom.dicom import write_phantom_dicom
from tests.canaries import database_content, found_in
from tests.deployment import ENVIRONMENT, complete_kit, coordinator, running_sites
from tests.kits import PATIENCE_S
from tests.tiny import SHOTS
from tests.tls_tap import TlsTap

pytestmark = pytest.mark.slow
NAME = "Xanthippe-Canary"
WARD = "ward-of-canaries"


def identifiers(scans):
    """List what tells who the patients are, and where their scans lie."""
    found = {NAME, WARD}
    for path in scans.rglob("*.dcm"):
        header = pydicom.dcmread(path, stop_before_pixels=True)
        keys = ("PatientName", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        found |= {str(header[key].value) for key in (*keys, "ReferringPhysicianName", "StudyDescription")}
        found |= {path.name, path.parent.name}
    return sorted(found)


def test_no_identifier_of_a_patient_is_in_a_message_or_a_file_outside_the_site(write_federation, tmp_path):
    address, behind = free_port(), free_port()
    changes = {
        "address": f"127.0.0.1:{address}",
        "listen": f"127.0.0.1:{behind}",
        "sites": ["north", "south"],
        "join_timeout_s": 300.0,
        "round_timeout_s": 90.0,
    }
    provision(load_federation(write_federation(**changes))[0], tmp_path / "kits")
    north, south = tmp_path / "kits" / "north", tmp_path / "kits" / "south"
    scans = write_phantom_dicom(
        north / WARD, "brain", seed=0, train_normal=SHOTS, test_normal=1, test_abnormal=1, size=64,
        patient_names=[NAME],
    )  # fmt: skip
    complete_kit(north, 0, data=WARD)
    complete_kit(south, 1)
    secrets = identifiers(scans)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**ENVIRONMENT, "TMPDIR": str(temporary)}
    out, log = tmp_path / "run", tmp_path / "run.log"

    def end_of_run(rounds, *options, **more):
        federation = write_federation(rounds=rounds, **changes, **more)
        with coordinator(federation, out, *options, environment=environment) as process:
            return process.wait(PATIENCE_S)

    with TlsTap(address, behind, Kits(tmp_path / "kits")) as tap:
        with running_sites([north, south], environment):
            assert end_of_run(2, quorum=1) == 0, log.read_text()
        # An image is damaged: the site refuses, by a word.
        victim = min(scans.rglob("*.dcm"))
        victim.write_bytes(victim.read_bytes()[:-1000])
        with running_sites([north, south], environment):
            assert end_of_run(3, "--resume", quorum=1) == 0, log.read_text()
            # Where every site is needed, the run fails, and so does the command.
            failure = end_of_run(4, "--resume", quorum=2, retries=0)
    assert failure == QuorumError.exit_code, log.read_text()
    assert "at least 2 sites. Round 4 had 1" in log.read_text()

    *entries, failed = History(out / HISTORY).read()
    assert (failed["round"], failed["failed"]) == (4, "quorum")
    assert [sorted(row["site"] for row in entry["sites"]) for entry in entries] == [
        ["north", "south"],
        ["north", "south"],
        ["south"],
    ]
    (refused,) = entries[-1]["refused"]
    assert refused["site"] == "north"
    assert refused["reason"].removeprefix("site-") in set(SENTENCES) - {"failed"}
    assert len([line for line in read(Kit(north).audit) if line["event"] == "answered"]) == 2

    said = tap.conversations()
    assert sum(map(len, said)) > 2 * 4 * 100_000  # the tensors went this way
    assert found_in(scans.joinpath("manifest.csv").read_bytes(), secrets)  # that is how they would be found
    for conversation in said:
        assert found_in(conversation, secrets) == []
    files = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(north)]
    assert {"state.db", "history.jsonl", "checkpoint.safetensors", "north.log"} <= {
        path.name for path in files
    }
    for path in files:
        content = path.read_bytes() + os.fsencode(path.relative_to(tmp_path))
        content += database_content(path) if path.suffix == ".db" else b""
        assert found_in(content, secrets) == [], path.name
