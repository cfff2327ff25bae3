import math

import pytest

from mediclip.errors import SettingsError
from mediclip.privacy.accounting import Mechanism, epsilon
from mediclip.privacy.plan import make_plan
from mediclip.privacy.settings import PrivacySettings

SITE = {"mode": "site", "clip": 0.5, "noise_multiplier": 4.0, "budget": 10.0, "rounds": 20}
IMAGE = {**SITE, "mode": "image", "local_steps": 40, "rounds": 10}


def plan(values, *, images=16, batch_size=8):
    return make_plan(PrivacySettings.parse(values, source="test"), images=images, batch_size=batch_size)


def test_site_mode_counts_rounds_and_image_mode_counts_steps():
    site, image = plan(SITE), plan({**IMAGE, "noise_multiplier": 8.0})
    assert site.mechanism(40) == Mechanism(4.0, 1.0, 1)
    assert image.mechanism(40) == Mechanism(8.0, 0.5, 40)
    assert round(site.planned().epsilon, 1) == 5.0
    assert round(image.planned().epsilon, 1) == 5.7
    assert (site.planned().unit, image.planned().unit) == ("site", "image")
    assert plan({**IMAGE, "unit": "patient"}).planned().unit == "patient"


def test_a_batch_of_all_images_is_no_sampling():
    assert plan(IMAGE, images=5).sampling_rate == 1


def test_noise_shared_by_the_sites_of_a_mean_is_less_at_each_and_the_same_in_the_mean():
    alone, shared = plan({**SITE, "sites": 4}), plan({**SITE, "sites": 4, "trust": "coordinator"})
    assert (alone.noise_std, shared.noise_std) == (2.0, 1.0)
    assert shared.noise_to_signal(10_000, sites=4) == pytest.approx(100 * 4.0 / 4)
    assert alone.noise_to_signal(10_000, sites=4) == pytest.approx(100 * 4.0 / 2)
    assert "coordinator" in shared.planned().trust


def test_in_image_mode_a_larger_batch_has_less_noise():
    assert plan(IMAGE).noise_to_signal(10_000, batch=8) == pytest.approx(100 * 4.0 / 8)


@pytest.mark.parametrize("mode", [SITE, IMAGE])
def test_noise_for_a_target_keeps_to_it_over_all_planned_rounds(mode):
    values = {key: value for key, value in mode.items() if key != "noise_multiplier"}
    found = plan({**values, "target_epsilon": 6.0})
    spent = epsilon([found.mechanism(40)] * found.settings.rounds, found.settings.delta)
    assert 5.7 < spent <= 6.0
    assert found.planned().epsilon == pytest.approx(spent)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"clip": None}, "needs clip, budget"),
        ({"budget": None}, "needs clip, budget"),
        ({"noise_multiplier": None}, "either noise_multiplier or target_epsilon"),
        ({"target_epsilon": 3.0}, "either noise_multiplier or target_epsilon"),
        ({"mode": "none"}, "need a mode"),
        ({"mode": "image", "trust": "coordinator"}, "trusts nobody"),
        ({"delta": 1.0}, r"\(0, 1\)"),
        ({"noise_multiplier": 0.0}, "above 0"),
        ({"clip": math.inf}, "finite"),
    ],
)
def test_settings_that_promise_nothing_are_refused(change, words):
    with pytest.raises(SettingsError, match=words):
        PrivacySettings.parse({**SITE, **change}, source="test")


def test_a_site_adds_no_noise_unless_it_says_so():
    assert not PrivacySettings().is_on
    with pytest.raises(SettingsError, match="must have a mode"):
        make_plan(PrivacySettings(), images=16, batch_size=8)
