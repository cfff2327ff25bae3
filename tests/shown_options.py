"""The options that a command's help shows, for pages whose commands must exist."""

import os
import re
import subprocess
import sys
from pathlib import Path


def shown_options(*command):
    """Give the long options that ``mediclip COMMAND --help`` names."""
    done = subprocess.run(
        [Path(sys.executable).with_name("mediclip"), *command, "--help"],
        env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"--[a-z][a-z-]*", done.stdout))
