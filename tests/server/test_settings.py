import tomllib
from pathlib import Path

import pytest

from mediclip.errors import SettingsError
from server.settings import RunSettings

ROOT = Path(__file__).resolve().parents[2]
NEEDED = {"out": "/r", "schema-file": "/r/s.json", "recipe-file": "/r/r.json", "sites": 3}


def test_settings_survive_the_way_through_flowers_scalars():
    settings = RunSettings.from_run_config({**NEEDED, "strategy": "fedadam", "resume": True, "seed": 2**62})
    scalars = settings.to_run_config()
    assert RunSettings.from_run_config(scalars) == settings
    assert {type(value) for value in scalars.values()} <= {str, int, float, bool}


def test_the_bundle_offers_every_key_with_the_default_that_is_in_force():
    offered = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    default = RunSettings.from_run_config(NEEDED).to_run_config()
    assert set(offered) == set(default)
    assert {key: offered[key] for key in offered if key not in NEEDED} == {
        key: default[key] for key in default if key not in NEEDED
    }
    assert {key: type(value) for key, value in offered.items()} == {
        key: type(value) for key, value in default.items()
    }


@pytest.mark.parametrize(("quorum", "needed"), [(0, 3), (1, 1), (3, 3)])
def test_a_quorum_of_zero_means_every_site(quorum, needed):
    assert RunSettings.from_run_config({**NEEDED, "quorum": quorum}).needed == needed


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"num-rounds": 3}, "num_rounds"),
        ({"out": ""}, "out"),
        ({"schema-file": "s.json"}, "schema_file"),
        ({"rounds": 0}, "rounds"),
        ({"sites": 0}, "sites"),
        ({"seed": -1}, "seed"),
        ({"strategy": "krum"}, "strategy"),
        ({"trim-fraction": 0.5}, "trim_fraction"),
        ({"max-update-norm": float("nan")}, "max_update_norm"),
        ({"proximal-mu": float("inf")}, "proximal_mu"),
        ({"round-timeout-s": 0.0}, "round_timeout_s"),
    ],
)
def test_a_key_that_is_unknown_or_out_of_range_is_named(change, key):
    with pytest.raises(SettingsError, match=f"The key '{key}' of run-config is not usable"):
        RunSettings.from_run_config({**NEEDED, **change})


def test_a_quorum_that_no_round_can_reach_is_refused():
    with pytest.raises(SettingsError, match="at most the number of sites, 3"):
        RunSettings.from_run_config({**NEEDED, "quorum": 4})


@pytest.mark.parametrize(("quorum", "least", "needed"), [(1, 3, 3), (0, 2, 3), (2, 1, 2)])
def test_a_round_needs_the_least_number_of_sites_whatever_its_quorum_is(quorum, least, needed):
    found = RunSettings.from_run_config({**NEEDED, "quorum": quorum, "min-sites": least})
    assert found.needed == needed


def test_a_least_number_that_no_round_can_reach_is_refused():
    with pytest.raises(SettingsError, match="min_sites must be at most the number of sites, 3"):
        RunSettings.from_run_config({**NEEDED, "min-sites": 4})
