import dataclasses

import numpy as np
import pytest
from hypothesis import given, strategies as st

from mediclip.errors import SettingsError
from mediclip.rng import generator
from simulation.phantom import ORGANS, Scanner, draw_phantom, draw_scanner


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrast": 0.1}, "The 'contrast' setting of Scanner must be in [0.4, 2.5]. Got 0.1 instead."),
        ({"noise": -1}, "The 'noise' setting of Scanner must be in [0.0, 5.0]. Got -1 instead."),
        ({"blur": float("nan")}, "The 'blur' setting of Scanner must be in [0.0, 4.0]. Got nan instead."),
        (
            {"laterality": "left"},
            (
                "The 'laterality' setting of Scanner must be one of standard, mirrored, mixed. "
                "Got 'left' instead."
            ),
        ),
        (
            {"protocol": "ct"},
            "The 'protocol' setting of Scanner must be one of t1, t2, flair, mixed. Got 'ct' instead.",
        ),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str):
    with pytest.raises(SettingsError) as error:
        Scanner(**settings)
    assert str(error.value) == message


@given(st.floats(0.4, 2.5), st.floats(-1, 1))
def test_the_tone_curve_rises_and_keeps_black_and_white(contrast: float, brightness: float):
    tone = Scanner(contrast=contrast, brightness=brightness).tone(
        np.linspace(-0.5, 1.5, 201, dtype=np.float32)
    )
    assert (tone[:51] == 0).all()
    assert (tone[150:] == 1).all()
    assert (np.diff(tone) >= 0).all()


def test_a_neutral_tone_curve_changes_nothing_and_contrast_is_the_slope_at_mid_grey():
    grey = np.linspace(0, 1, 101, dtype=np.float32)
    assert np.allclose(Scanner().tone(grey), grey, atol=1e-6)
    low, high = Scanner(contrast=2).tone(np.array([0.499, 0.501], np.float32))
    assert (high - low) / 0.002 == pytest.approx(2, rel=1e-2)
    assert Scanner(brightness=1).tone(np.array([0.25], np.float32))[0] == pytest.approx(0.5)


def test_each_site_has_a_scanner_of_its_own_that_does_not_change():
    scanners = [draw_scanner(5, site) for site in range(6)]
    assert scanners == [draw_scanner(5, site) for site in range(6)]
    assert len({dataclasses.astuple(s) for s in scanners}) == 6
    assert draw_scanner(5, "1") != draw_scanner(5, 1)


def scan(organ: str, **settings) -> np.ndarray:
    return draw_phantom(organ, generator(3, "scan"), size=128, scanner=Scanner(**settings)).image


@pytest.mark.parametrize("organ", ORGANS)
def test_each_setting_changes_what_it_says(organ: str):
    def sharpness(image: np.ndarray) -> float:
        return float(np.abs(np.diff(image)).mean())

    assert sharpness(scan(organ, noise=4)) > sharpness(scan(organ, noise=0))
    assert sharpness(scan(organ, blur=3)) < sharpness(scan(organ, blur=0))
    assert scan(organ, brightness=0.6).mean() > scan(organ, brightness=-0.6).mean()
    middle = np.s_[32:96, 32:96]  # without the black round the body
    assert scan(organ, contrast=2)[middle].std() > scan(organ, contrast=0.6)[middle].std()
    halves = [np.log(scan(organ, bias=b, noise=0) + 0.1) for b in (0, 4)]
    assert (halves[1] - halves[0]).std() > 0.02


@pytest.mark.parametrize("organ", ORGANS)
def test_a_mirrored_scan_and_mask_are_the_usual_ones_left_for_right(organ: str):
    usual, mirrored = (
        draw_phantom(organ, generator(1), size=96, finding="random", scanner=Scanner(laterality=side))
        for side in ("standard", "mirrored")
    )
    assert np.array_equal(usual.image, mirrored.image[:, ::-1])
    assert np.array_equal(usual.mask, mirrored.mask[:, ::-1])


def test_a_mixed_scanner_stores_some_scans_one_way_and_some_the_other():
    ways = set()
    for seed in range(12):
        usual, mixed = (
            draw_phantom("brain", generator(seed), size=64, scanner=Scanner(laterality=side)).image
            for side in ("standard", "mixed")
        )
        ways.add(np.array_equal(usual, mixed))
        assert np.array_equal(usual, mixed) or np.array_equal(usual, mixed[:, ::-1])
    assert ways == {True, False}


def test_the_protocols_of_a_brain_scan_differ_and_mixed_draws_among_them():
    pure = [scan("brain", protocol=p) for p in ("t1", "t2", "flair")]
    assert not np.allclose(pure[0], pure[1], atol=0.1)
    assert not np.allclose(pure[0], pure[2], atol=0.1)
    drawn = set()
    for seed in range(12):
        scans = {
            p: draw_phantom("brain", generator(seed), size=64, scanner=Scanner(protocol=p)).image
            for p in ("t1", "t2", "flair", "mixed")
        }
        drawn |= {p for p in ("t1", "t2", "flair") if np.array_equal(scans[p], scans["mixed"])}
    assert drawn == {"t1", "t2", "flair"}
