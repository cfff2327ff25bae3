"""The wheel: what is in it, what an installation of it can do, and the versions it was tested with."""

import io
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from flwr.cli.build import build_fab_from_disk
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mediclip

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
APPLICATION = ("client", "server", "simulation")
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines())


def files_below(folder: Path, prefix: str = "") -> set[str]:
    found = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {prefix + p.relative_to(folder).as_posix() for p in found}


def run(*command: str, cwd: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(target: str, *, source: Path, out: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out), cwd=source)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return build("wheel", source=ROOT, out=tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel unpacked by pip into an empty folder, as site-packages would have it."""
    folder = tmp_path_factory.mktemp("site")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    run(*pip, "--target", str(folder), str(wheel), cwd=folder)
    return folder


def python_beside(installed: Path, code: str, *, cwd: Path) -> str:
    """Run code that sees the installed wheel and the libraries, but not this checkout's editable install."""
    libraries = f"{installed}{os.pathsep}{sysconfig.get_path('purelib')}"
    return run(sys.executable, "-S", "-P", "-c", code, cwd=cwd, PYTHONPATH=libraries)


def test_the_wheel_holds_the_library_and_the_application_below_it_and_nothing_else(wheel):
    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}
    expected = files_below(ROOT / "mediclip", "mediclip/")
    for package in APPLICATION:
        expected |= files_below(ROOT / package, f"mediclip/_bundle/{package}/")
    assert names == expected | {"mediclip/_bundle/pyproject.toml", "mediclip/_bundle/README.md"}


def test_an_installed_wheel_brings_no_packages_named_client_server_or_simulation(installed):
    info = f"mediclip_fl-{mediclip.__version__}.dist-info"
    assert {entry.name for entry in installed.iterdir()} == {"mediclip", info, "bin"}


def test_an_installed_wheel_imports_and_finds_its_own_application(installed, tmp_path):
    code = """
import importlib.util
import mediclip, mediclip.config
from mediclip import bundle
assert importlib.util.find_spec("client") is None
root = bundle.put_first_on_path()
import client, server, simulation
print(mediclip.__version__, *mediclip.config.recipe_names())
for module in (mediclip, client, server, simulation):
    print(module.__file__)
print(root)
"""
    first, *places, root = python_beside(installed, code, cwd=tmp_path).splitlines()
    assert first.split() == [mediclip.__version__, "default", "reference"]
    assert Path(root) == installed / "mediclip" / "_bundle"
    assert [Path(p).parent for p in places] == [installed / "mediclip"] + [
        Path(root) / n for n in APPLICATION
    ]


def test_in_a_checkout_the_application_is_the_checkout_and_comes_before_a_package_of_the_same_name(tmp_path):
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "__init__.py").touch()
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from mediclip import bundle
root = bundle.put_first_on_path()
once = list(sys.path)
assert bundle.put_first_on_path() == bundle.application_root() == root
assert sys.path == once
import client
print(root, client.__file__)
"""
    root, found = run(sys.executable, "-c", code, cwd=ROOT).split()
    assert Path(root) == ROOT
    assert Path(found) == ROOT / "client" / "__init__.py"


def test_the_installed_command_answers_with_its_help(installed, tmp_path):
    code = "import sys; from mediclip.cli.main import main; sys.argv = ['x', '--help']; main()"
    assert "simulate" in python_beside(installed, code, cwd=tmp_path)


def test_the_console_scripts_are_declared(wheel):
    (name,) = [n for n in zipfile.ZipFile(wheel).namelist() if n.endswith("entry_points.txt")]
    lines = zipfile.ZipFile(wheel).read(name).decode().replace(" ", "").split()
    assert lines == [
        "[console_scripts]",
        "flower-server=mediclip.cli.main:flower_server",
        "mediclip=mediclip.cli.main:main",
    ]


def test_an_editable_install_copies_no_code(tmp_path):
    run(
        sys.executable,
        "-c",
        f"from hatchling.build import build_editable as b; b({str(tmp_path)!r})",
        cwd=ROOT,
    )
    (made,) = tmp_path.iterdir()
    archive = zipfile.ZipFile(made)
    names = [n for n in archive.namelist() if ".dist-info/" not in n]
    assert [Path(name).suffix for name in names] == [".pth"]
    assert Path(archive.read(names[0]).decode().strip()) == ROOT


def test_a_source_archive_builds_the_same_wheel(wheel, tmp_path):
    archive = build("sdist", source=ROOT, out=tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build("wheel", source=source, out=tmp_path / "again")
    contents = [
        {n: zipfile.ZipFile(w).read(n) for n in zipfile.ZipFile(w).namelist()} for w in (wheel, again)
    ]
    assert contents[0] == contents[1]


def test_version_is_one_and_the_same_everywhere(wheel):
    assert mediclip.__version__ == PYPROJECT["project"]["version"]
    assert wheel.name == f"mediclip_fl-{mediclip.__version__}-py3-none-any.whl"
    assert f"\n## [{mediclip.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_flower_bundle_holds_the_application_alone_and_is_the_same_from_the_wheel(installed):
    bundles = [build_fab_from_disk(folder) for folder in (ROOT, installed / "mediclip" / "_bundle")]
    names = [set(zipfile.ZipFile(io.BytesIO(b)).namelist()) for b in bundles]
    modules = {n for p in ("client", "server") for n in files_below(ROOT / p, f"{p}/") if n.endswith(".py")}
    assert names[0] == names[1] == modules | {"README.md", "pyproject.toml", ".info/CONTENT"}
    assert bundles[0] == bundles[1]


def test_the_flower_app_names_plain_assignments():
    for reference in PYPROJECT["tool"]["flwr"]["app"]["components"].values():
        module, _, attribute = reference.partition(":")
        source = ROOT.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        assert f"\n{attribute} = " in source  # `flwr run` reads the source and understands nothing else


def test_constraints_are_exact_versions_and_nothing_else():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.+!]*", line)] == []
    assert len({canonicalize_name(line.split("==")[0]) for line in lines}) == len(lines)
    assert lines == sorted(lines, key=str.casefold)


def test_constraints_pin_every_declared_library_within_its_declared_range():
    pins = {canonicalize_name(name): version for name, version in PINS.items()}
    declared = PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]
    for requirement in map(Requirement, declared + PYPROJECT["build-system"]["requires"]):
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), f"{requirement} does not admit {pin}"


def test_the_tested_versions_are_the_pinned_ones():
    found = {canonicalize_name(d.name): d.version for d in metadata.distributions()}
    differing = {
        n: found.get(canonicalize_name(n)) for n, v in PINS.items() if found.get(canonicalize_name(n)) != v
    }
    assert differing == {}
