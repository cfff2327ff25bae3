"""What a reader copies from README.md and CONTRIBUTING.md exists."""

import re
import shlex
from pathlib import Path

import pytest

from tests.shown_options import shown_options

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines() if line]
MEDICLIP = [words[1:] for words in COMMANDS if words[0] == ".venv/bin/mediclip"]


def test_every_command_is_one_that_is_checked_here():
    assert {words[0] for words in COMMANDS} == {"make", ".venv/bin/mediclip"}


def test_every_make_target_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = {word for words in COMMANDS if words[0] == "make" for word in words[1:]}
    asked |= set(re.findall(r"make ([a-z]+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert asked <= targets


@pytest.mark.parametrize("words", MEDICLIP, ids=" ".join)
def test_every_command_takes_the_options_that_it_is_given(words):
    name = words[: 2 if words[0] in {"simulate", "client", "server"} else 1]
    assert {word for word in words if word.startswith("--")} <= shown_options(*name)


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_every_link_and_picture_leads_to_a_file(target):
    assert (ROOT / target).is_file()


def test_every_folder_of_the_map_exists():
    named = re.findall(r"^\| `([a-z]+)/` \|", README, re.MULTILINE)
    assert named
    assert [name for name in named if not (ROOT / name).is_dir()] == []


def test_nothing_is_left_to_be_filled_in():
    assert re.findall(r"<!--.*?-->", README, re.DOTALL) == []
