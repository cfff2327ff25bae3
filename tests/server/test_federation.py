import pytest

from mediclip.errors import SettingsError
from server.federation import load_federation, split_address
from tests.tiny import tiny_recipe, tiny_schema


def test_the_schema_is_the_one_that_a_site_finds_with_its_backbone(write_federation):
    settings, recipe = load_federation(write_federation())
    assert recipe == tiny_recipe()
    assert settings.schema_for(recipe) == tiny_schema()


@pytest.mark.parametrize(
    ("listen", "listener"),
    [(None, ("0.0.0.0", 18443)), ("127.0.0.1:9000", ("127.0.0.1", 9000))],  # noqa: S104
)
def test_the_public_listener_takes_the_addresss_port_unless_told_otherwise(
    write_federation, listen, listener
):
    settings, _ = load_federation(write_federation(listen=listen))
    assert settings.listener == listener


def test_an_address_is_split_at_its_last_colon():
    assert split_address("[::1]:8443") == ("::1", 8443)
    assert split_address("fl.example.org:443") == ("fl.example.org", 443)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sites": []}, "'sites'.*at least 1"),
        ({"sites": ["a", "A"]}, "a name of its own"),
        ({"sites": ["../up"]}, r"'sites\.0'"),
        ({"sites": ["_coordinator"]}, r"'sites\.0'"),
        ({"quorum": 4}, "at most the number of sites, 3"),
        ({"address": "fl.example.org"}, "'address'"),
        ({"address": "fl.example.org:70000"}, r"\[1, 65535\]"),
        ({"taps": [3, 2]}, "taps must rise"),
        ({"name": None}, "'name'.*required"),
        ({"valid_days": 0}, "'valid_days'"),
        ({"colour": 1}, "'colour'"),
        ({"recipe": "other.toml"}, "other.toml"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(write_federation, changes, words):
    with pytest.raises(SettingsError, match=words):
        load_federation(write_federation(**changes))


def test_a_file_that_is_no_toml_is_named(tmp_path):
    (tmp_path / "federation.toml").write_text("name =")
    with pytest.raises(SettingsError, match=r"readable TOML file. federation\.toml is not"):
        load_federation(tmp_path / "federation.toml")


def test_hospitals_are_at_least_three_unless_the_coordinator_says_otherwise(write_federation):
    settings, _ = load_federation(write_federation(min_sites=None))
    assert settings.min_sites == 3
    two = ["north", "south"]
    with pytest.raises(SettingsError, match="min_sites is 3 and must be at most the number of sites, 2"):
        load_federation(write_federation(sites=two, min_sites=None))
    assert load_federation(write_federation(sites=two, min_sites=2))[0].min_sites == 2
