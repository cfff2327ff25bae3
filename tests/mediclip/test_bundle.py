import shutil
import subprocess
import sys
from pathlib import Path

from mediclip.bundle import application_root

ROOT = Path(__file__).resolve().parents[2]


def test_in_a_checkout_the_application_is_the_repository():
    assert application_root() == ROOT
    assert (application_root() / "pyproject.toml").is_file()


def test_a_library_without_its_application_says_so_in_one_sentence(tmp_path):
    shutil.copytree(ROOT / "mediclip", tmp_path / "mediclip")
    code = "from mediclip.bundle import application_root; application_root()"
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
    done = subprocess.run(
        [sys.executable, "-c", start], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "FederationError: The folder of the Flower application must hold client/app.py" in done.stderr
