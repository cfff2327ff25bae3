"""ε against the closed form of Gaussian privacy, against independent figures, and in its limits."""

import math

import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from mediclip.errors import SettingsError
from mediclip.privacy.accounting import Guarantee, Mechanism, epsilon, find_noise

DELTA = 1e-5


def gaussian_epsilon(noise, steps, delta):
    """Balle and Wang 2018, theorem 8, on one Gaussian of mu = sqrt(steps)/z: the independent reference."""
    mu = math.sqrt(steps) / noise

    def excess(value):
        return norm.cdf(mu / 2 - value / mu) - math.exp(value) * norm.cdf(-mu / 2 - value / mu) - delta

    return brentq(excess, 0, 200) if excess(0) > 0 else 0.0


# The figures of the project's privacy page; computed there by another script.
@pytest.mark.parametrize(("rounds", "stated"), [(10, 3.3), (20, 5.0), (50, 8.6)])
def test_site_level_figures_are_those_stated(rounds, stated):
    assert round(epsilon([Mechanism(4.0)] * rounds, DELTA), 1) == stated


@pytest.mark.parametrize(("noise", "stated"), [(4, 13.5), (8, 5.7), (16, 2.6)])
def test_image_level_figures_are_those_stated(noise, stated):
    # 16 images, batches of 8, 400 steps
    assert round(epsilon([Mechanism(noise, 0.5, 400)], DELTA), 1) == stated


@settings(max_examples=10, deadline=None)
@given(noise=st.floats(0.5, 20), steps=st.integers(1, 60), delta=st.sampled_from([1e-3, 1e-5, 1e-7]))
def test_without_sampling_it_is_the_closed_form_of_the_gaussian(noise, steps, delta):
    exact = gaussian_epsilon(noise, steps, delta)
    found = epsilon([Mechanism(noise, 1.0, steps)], delta)
    assert exact - 1e-6 <= found <= exact * 1.001 + 1e-3  # never below: the accountant is pessimistic


def test_how_rounds_are_divided_does_not_count():
    whole = epsilon([Mechanism(8, 0.5, 400)], DELTA)
    parts = epsilon([Mechanism(8, 0.5, 40)] * 10, DELTA)
    assert parts == pytest.approx(whole, rel=1e-9)


def test_unlike_mechanisms_are_composed():
    both = epsilon([Mechanism(4.0), Mechanism(2.0)], DELTA)
    assert both == pytest.approx(gaussian_epsilon(1, 1 / 16 + 1 / 4, DELTA), rel=1e-3)


def test_more_noise_fewer_steps_and_rarer_sampling_cost_less():
    plain = epsilon([Mechanism(4, 0.5, 40)], DELTA)
    for cheaper in (Mechanism(5, 0.5, 40), Mechanism(4, 0.25, 40), Mechanism(4, 0.5, 30)):
        assert epsilon([cheaper], DELTA) < plain
    assert epsilon([Mechanism(4, 1.0, 40)], DELTA) > plain


def test_nothing_done_costs_nothing():
    assert epsilon([], DELTA) == 0


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(3.0, 1.0, 10), (8.0, 0.5, 400), (0.5, 1.0, 1), (80.0, 0.5, 100)]
)
def test_a_noise_found_for_an_epsilon_never_overspends_it_and_wastes_little(target, rate, steps):
    noise = find_noise(target, DELTA, sampling_rate=rate, steps=steps)
    reached = epsilon([Mechanism(noise, rate, steps)], DELTA)
    assert 0.96 * target <= reached <= target


def test_a_target_that_no_noise_reaches_is_refused():
    with pytest.raises(SettingsError, match="reachable with a noise multiplier"):
        find_noise(1e-9, 1e-12, sampling_rate=1.0, steps=10**6)


def test_a_guarantee_names_all_that_it_rests_on():
    values = Guarantee(3.3, DELTA, "site", "every round", "nobody").as_values()
    assert set(values) == {*("epsilon", "delta", "unit", "neighbouring", "sampling", "trust", "accountant")}
    assert all(values.values())
