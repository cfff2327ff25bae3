"""A federation's first settings: they can be used as they are, and name every key there is."""

import json
import re
import tomllib

import pytest

from mediclip.cli.backbone import describe
from mediclip.cli.main import main
from server.federation import BackboneSettings, FederationSettings, load_federation
from tests.tiny import tiny_backbone


@pytest.fixture(scope="module")
def facts():
    return describe("embedded")


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    written = capsys.readouterr()
    return end.value.code, written.out, written.err


def printed(capsys, *arguments):
    code, out, err = run(capsys, "server", "new", *arguments)
    assert (code, err) == (0, "")
    return out


def test_what_is_printed_can_be_provisioned_and_fits_the_backbone(capsys, tmp_path):
    text = printed(capsys, "--backbone", "embedded", "--site", "north", "--site", "sud-1", "--site", "west")
    (tmp_path / "federation.toml").write_text(text)
    settings, recipe = load_federation(tmp_path / "federation.toml")
    shapes = tiny_backbone().shapes
    assert (settings.sites, recipe.name) == (("north", "sud-1", "west"), "default")
    found = (settings.backbone.width, settings.backbone.embed_dim, settings.backbone.text_width)
    assert found == (shapes.width, shapes.embed_dim, shapes.text_width)
    assert len(settings.backbone.sha256) == 64
    assert list(settings.taps) == list(tiny_backbone().default_taps())
    code, out, _ = run(capsys, "server", "provision", str(tmp_path / "federation.toml"))
    assert (code, "Next:  mediclip server start" in out) == (0, True)


def test_the_facts_of_another_machine_serve_as_well(capsys, tmp_path, facts):
    code, out, _ = run(capsys, "backbone", "embedded", "--json")
    assert (code, json.loads(out)) == (0, facts)
    (tmp_path / "facts.json").write_text(out)
    assert printed(capsys, "--facts", str(tmp_path / "facts.json")) == printed(
        capsys, "--backbone", "embedded"
    )
    code, out, _ = run(capsys, "backbone", "embedded")
    assert (code, facts["sha256"] in out, "taps" in out) == (0, True, True)


def test_every_key_is_there_with_its_meaning_and_its_default(capsys):
    text = printed(capsys, "--backbone", "embedded")
    top, _, model = text.partition("[backbone]\n")
    for part, kind in ((top, FederationSettings), (model, BackboneSettings)):
        keys = re.findall(r"^(?:# )?(\w+) = ", part, re.MULTILINE)
        assert sorted(keys) == sorted(set(kind.model_fields) - {"backbone"})
        entries = re.findall(r"^# ([A-Z].*)\n(?:# )?(\w+) = ", part, re.MULTILINE)
        assert [key for _, key in entries] == keys
        assert all(meaning.endswith(".") for meaning, _ in entries)
    given, everything = tomllib.loads(text), tomllib.loads(re.sub(r"(?m)^# (?=\w+ = )", "", text))
    del everything["listen"]  # has no default that could be written down
    as_given = FederationSettings.parse(given, source="test")
    assert FederationSettings.parse(everything, source="test") == as_given


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "must have one backbone"),
        (("--backbone", "embedded", "--facts", "x"), "must have one backbone"),
        (("--facts", "nowhere.json"), "must be what 'mediclip backbone SPEC --json' printed"),
        (("--backbone", "ViT-Q:x"), "must be an open_clip model"),
        (("--backbone", "embedded", "--address", "here"), "'address'"),
        (("--backbone", "embedded", "--site", "a/b"), "'sites"),
        (("--backbone", "embedded", "--site", "a", "--site", "A", "--site", "b"), "a name of its own"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(capsys, arguments, words):
    code, out, err = run(capsys, "server", "new", *arguments)
    assert code in {2, 4}
    assert (out, words in " ".join(err.split())) == ("", True), err
