"""The rules of the house that no single module can keep alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("mediclip", "client", "server", "simulation")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# Never written out in full, so that this file does not match itself.
HOMES = ("home", "Users", "root", "work", "mnt")
MACHINE_PATH = re.compile(rf"(?<![\w.:/~-])/(?:{'|'.join(HOMES)})/[\w.]")


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [path for name in listed.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_the_arrows_hold():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [lint, "--no-cache", "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("modules", "banned"),
    [
        (["mediclip.cli.main"], ["torch", "open_clip", "flwr", "ray", "scipy", "sklearn"]),
        (["client.app"], ["torch", "open_clip"]),
        (sorted(n for n in map(module_name, SOURCES) if n.startswith("server")), ["torch", "open_clip"]),
        (
            sorted(
                n for n in map(module_name, SOURCES) if n.startswith(("mediclip.data", "mediclip.synthesis"))
            ),
            ["torch", "open_clip", "flwr"],
        ),
    ],
    ids=["command line", "translator", "coordinator", "images and synthesis"],
)
def test_light_modules_load_nothing_heavy(modules, banned):
    code = f"""
import importlib, sys
for name in {modules!r}:
    importlib.import_module(name)
    loaded = sorted(set({banned!r}) & set(sys.modules))
    assert not loaded, f"{{name}} loads {{loaded}}"
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_everything_prints_and_writes_nothing(tmp_path):
    names = [n for n in map(module_name, SOURCES) if not n.endswith("__main__")]
    code = (
        f"import importlib, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_no_tracked_file_names_a_path_of_one_machine():
    own = [f"{folder}/" for folder in (ROOT, Path.home()) if folder != Path("/")]
    found = []
    for path in tracked_files():
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
            if MACHINE_PATH.search(line) or any(text in line for text in own):
                found.append(f"{path.relative_to(ROOT)}:{number}")
    assert found == []


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("line", ["open('/{}/ann/x')", "PATH=/{}/.cache", "see /{}/ann", '"/{}/main"'])
def test_a_path_of_one_machine_would_be_found(line, home):
    assert MACHINE_PATH.search(line.format(home))


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize("line", ["./{}/main", "https://a.b/{}/x", "client/{}/x", "/{}-of-another"])
def test_other_paths_are_left_alone(line, home):
    assert not MACHINE_PATH.search(line.format(home))


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_every_module_says_what_it_is_for(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring
    assert docstring.split("\n\n")[0].rstrip().endswith((".", ":"))


def test_the_hooks_run_exactly_the_gate():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    steps = re.search(r"^gate: ([a-z ]+) ##", makefile, re.MULTILINE)
    assert steps
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (repo,) = config["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"] for hook in repo["hooks"]] == [f"make {step}" for step in steps[1].split()]
