"""The policies are part of what a model file names: they change on purpose or not at all."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from mediclip.data.dicom.levels import Levels, percentiles
from mediclip.data.dicom.policy import shown_by_percentiles
from mediclip.data.policies import (
    CT_WINDOWS,
    DEFAULT,
    POLICIES,
    policies_digest,
    policy_of,
)

# A new number here means that models made before see their DICOM images otherwise: raise a version with it.
GOLDEN = "f8f3f00dbc087b142897610afd9e6538e3aa81026a749e69e03c32b6aef14b5e"


def test_the_digest_of_all_policies_is_the_one_that_model_files_hold():
    assert policies_digest() == GOLDEN


@pytest.mark.parametrize(
    ("modality", "name"),
    [
        ("CT", "ct-window"),
        ("MR", "foreground-percentiles"),
        ("CR", "header-voi"),
        ("DX", "header-voi"),
        ("MG", "header-voi"),
        ("US", "stored-range"),
        ("OPT", "by-depth"),
        ("", "by-depth"),
    ],
)
def test_each_modality_has_its_policy(modality: str, name: str):
    assert policy_of(modality).name == name


def test_each_policy_names_its_numbers():
    assert all(policy.version >= 1 for policy in (*POLICIES.values(), DEFAULT))
    assert policy_of("CT").facts()["windows"] == CT_WINDOWS
    assert policy_of("MR").facts() == {
        "name": "foreground-percentiles",
        "version": 1,
        "crop": False,
        "low": 0.5,
        "high": 99.5,
    }
    assert [modality for modality, policy in POLICIES.items() if policy.crop] == ["US"]


IMAGES = st.one_of(
    arrays(np.int16, (5, 7)),
    arrays(">i2", (5, 7)),
    arrays(np.int8, (5, 7)),
    arrays(np.bool_, (5, 7)),
    arrays(np.uint8, (5, 7)),
    arrays(np.uint32, (5, 7)),
    arrays(np.float32, (5, 7), elements=st.floats(-1e6, 1e6, width=32)),
)


@settings(deadline=None)
@given(image=IMAGES)
def test_levels_give_back_the_image_they_are_made_of(image: np.ndarray):
    levels = Levels.of(image)
    np.testing.assert_array_equal(levels.stored[levels.index], image.astype(np.float64))
    expected = np.bincount(levels.index.ravel(), minlength=len(levels.stored))
    np.testing.assert_array_equal(levels.counts, expected)
    assert (np.diff(levels.stored) > 0).all()


@settings(deadline=None)
@given(image=IMAGES, percent=st.floats(0, 100))
def test_a_percentile_of_levels_is_that_of_the_pixels(image: np.ndarray, percent: float):
    levels = Levels.of(image)
    expected = np.percentile(image.astype(np.float64), percent)
    (found,) = percentiles(levels.stored, levels.counts, [percent])
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)


@settings(deadline=None)
@given(
    image=arrays(np.int16, (5, 7), elements=st.integers(-2000, 2000)),
    gain=st.integers(1, 7),
    shift=st.integers(-99, 99),
)
def test_gain_and_offset_of_a_scanner_do_not_show(image: np.ndarray, gain: int, shift: int):
    if image.min() == image.max():
        image = image.copy()
        image[0, 0] += 1
    first, second = Levels.of(image), Levels.of(image.astype(np.int32) * gain + shift)
    np.testing.assert_allclose(
        first.spread(shown_by_percentiles(first)), second.spread(shown_by_percentiles(second)), atol=1e-6
    )
