"""What a reader copies from docs/deployment.md: commands that exist, and settings that parse."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from client.settings import SiteSettings
from mediclip.errors import MediClipError
from server.federation import FederationSettings
from tests.shown_options import shown_options

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
LINES = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
COMMANDS = [shlex.split(line.partition(" > ")[0]) for line in LINES]
SETTINGS = [tomllib.loads(block) for kind, block in BLOCKS if kind == "toml"]
INLINE = re.findall(r"`(mediclip [^`]+)`", GUIDE)


def test_every_block_is_of_a_kind_that_is_checked_here_or_for_root_alone():
    assert {kind for kind, _ in BLOCKS} == {"sh", "toml", "console"}
    assert {words[0] for words in COMMANDS} == {"mediclip"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_takes_the_options_that_it_is_given(words):
    named = words[1 : 3 if words[1] in {"client", "server"} else 2]
    assert {word for word in words if word.startswith("--")} <= shown_options(*named)


def test_the_settings_are_those_of_a_federation_and_of_a_site():
    federation, site = SETTINGS
    assert set(federation) <= set(FederationSettings.model_fields)
    model = {"spec": "embedded", "width": 1, "embed_dim": 1, "text_width": 1}
    base = {"name": "n", "address": "a:1", "sites": ["b", "c", "d"], "taps": [1], "backbone": model}
    assert FederationSettings.parse(base | federation, source="guide").quorum == 3
    assert SiteSettings.parse(site, source="guide").name == "north"


def test_every_key_of_the_sites_table_exists_and_every_policy_key_is_in_it():
    keys = set(re.findall(r"^\| `(\w+)` \| [^|]*\| (?:`|none|\|)", GUIDE, re.MULTILINE))
    assert keys
    assert keys <= set(SiteSettings.model_fields)
    assert {"max_rounds", "min_images", "metrics", "max_update_norm", "recipe", "clientapp_user"} <= set(
        re.findall(r"^\| `(\w+)` \|", GUIDE, re.MULTILINE)
    )


def test_the_exit_codes_are_those_of_the_errors():
    kinds = [MediClipError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    told = {int(code) for code in re.findall(r"^\| (\d)\b[^|]* \|", GUIDE, re.MULTILINE)}
    assert told <= {kind.exit_code for kind in kinds}


def test_nothing_is_left_to_be_filled_in():
    assert "MANY" not in GUIDE
    assert re.findall(r"<!--.*?-->", GUIDE, re.DOTALL) == []
