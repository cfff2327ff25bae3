"""The generated code is that of the proto file."""

import subprocess
import sys

import pytest

from tests.kits import ROOT

PROTO = "client/service/site_service.proto"


@pytest.mark.parametrize("suffix", ["_pb2.py", "_pb2.pyi", "_pb2_grpc.py"])
def test_the_committed_code_is_what_the_documented_command_writes(tmp_path, suffix):
    (command,) = [
        line.strip()
        for line in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
        if "grpc_tools.protoc" in line
    ]
    options = command.split()[1:]
    assert options[-1] == PROTO
    subprocess.run(
        [sys.executable, *[o.replace("_out=.", f"_out={tmp_path}") for o in options]], cwd=ROOT, check=True
    )
    name = PROTO.replace(".proto", suffix)
    assert (tmp_path / name).read_text() == (ROOT / name).read_text()
