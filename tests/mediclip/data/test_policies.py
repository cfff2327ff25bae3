"""Policies that are chosen by modality: part of the digest, of one mind, and never another at scoring."""

import pytest
from hypothesis import given, strategies as st

from mediclip.data.policies import (
    POLICIES,
    POLICY_NAMES,
    Choices,
    agreed,
    check_same,
    parse_choices,
    policies_digest,
    policy_of,
)
from mediclip.data.preprocess import Preprocess
from mediclip.errors import SettingsError

CHOICES = st.dictionaries(st.sampled_from([*POLICIES, "OPT"]), st.sampled_from(POLICY_NAMES), max_size=3)


@given(first=CHOICES, second=CHOICES)
def test_digests_are_equal_when_every_modality_is_shown_alike(first: Choices, second: Choices):
    alike = all(policy_of(m, first) == policy_of(m, second) for m in {*first, *second})
    assert (policies_digest(first) == policies_digest(second)) == alike


@given(choices=CHOICES)
def test_a_choice_is_kept_with_the_model_and_read_again(choices: Choices):
    settings = Preprocess(64, choices).settings()
    assert Preprocess.from_settings(settings) == Preprocess(64, choices)
    assert ("chosen_policies" in settings) == bool(choices)
    with pytest.raises(SettingsError, match=r"^The preprocessing must be 'raster' version 1"):
        Preprocess.from_settings(settings | {"policies": "0" * 64})


@pytest.mark.parametrize("chosen", [{"MR": "other"}, {"MR": 1}, ["MR"], {"MR": ["stored-range"]}])
def test_a_choice_that_this_release_does_not_know_is_refused(chosen: object):
    with pytest.raises(SettingsError, match=r"^The preprocessing must be 'raster' version 1"):
        Preprocess.from_settings(Preprocess(64).settings() | {"chosen_policies": chosen})


@given(choices=CHOICES, modality=st.sampled_from([*POLICIES, "OPT"]))
def test_what_is_cut_stays_so_whatever_is_chosen(choices: Choices, modality: str):
    assert policy_of(modality, choices).crop == (modality == "US")


def test_choices_of_a_run_and_of_a_folder_are_joined_or_refused():
    assert agreed({"MR": "stored-range"}, {"CT": "header-voi"}, name="x") == {
        "MR": "stored-range",
        "CT": "header-voi",
    }
    with pytest.raises(SettingsError) as error:
        agreed({"MR": "stored-range"}, {"MR": "header-voi"}, name="brain")
    assert str(error.value) == (
        "The policy of MR must be the same for the model and for brain, but these name 'stored-range' and "
        "'header-voi'; name one of them in both, or train again."
    )


def test_a_folder_may_ask_for_what_the_model_was_trained_with_and_for_nothing_else():
    check_same({}, {"MR": "foreground-percentiles"}, name="brain")
    check_same({"MR": "stored-range"}, {}, name="brain")
    check_same({"MR": "stored-range"}, {"MR": "stored-range"}, name="brain")
    with pytest.raises(SettingsError, match="these name 'foreground-percentiles' and 'stored-range';"):
        check_same({}, {"MR": "stored-range"}, name="brain")


def test_choices_are_read_from_the_command_line():
    assert parse_choices(None) == {}
    assert parse_choices(["mr=stored-range", " CT = header-voi"]) == {
        "MR": "stored-range",
        "CT": "header-voi",
    }


@pytest.mark.parametrize("text", ["MR", "MR=", "=header-voi", "MR=other", "header-voi"])
def test_a_choice_in_another_form_is_told(text: str):
    with pytest.raises(SettingsError) as error:
        parse_choices([text])
    assert str(error.value) == (
        "--policy must be MODALITY=POLICY, such as MR=stored-range, with one of ct-window, "
        f"foreground-percentiles, header-voi, stored-range. Got {text!r}; correct it."
    )
