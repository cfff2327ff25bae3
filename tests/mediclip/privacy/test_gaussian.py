"""The Gaussian mechanism: its limits, its noise, and the secret source of it."""

import math

import numpy as np
import pytest
from scipy import stats

from mediclip.privacy.gaussian import noise_to_signal, release_update
from mediclip.privacy.randomness import SecretRandom

BEFORE = {"a": np.full((50, 40), 2, np.float32), "b": np.zeros(3000, np.float32)}
AFTER = {name: value + np.float32(0.01) for name, value in BEFORE.items()}
NORM = 0.01 * math.sqrt(5000)


def released(clip, std, random=None):
    return release_update(BEFORE, AFTER, clip=clip, noise_std=std, random=random or SecretRandom())


def test_without_noise_and_with_a_wide_clip_the_update_leaves_as_it_is():
    for name, value in released(1e9, 0).items():
        assert np.array_equal(value, AFTER[name])
        assert value.dtype == np.float32


def test_without_noise_it_is_clipping_alone():
    for name, value in released(NORM / 4, 0).items():
        assert np.allclose(value - BEFORE[name], 0.0025, atol=1e-6)


def test_the_noise_has_the_stated_deviation_in_every_tensor_and_is_gaussian():
    for name, value in released(NORM / 4, 0.5).items():
        noise = (value - BEFORE[name] - 0.0025).ravel()
        assert stats.kstest(noise / 0.5, "norm").pvalue > 1e-6


def test_two_inputs_of_which_one_moves_nothing_are_a_clip_apart_at_most():
    """The sensitivity that the accountant assumes, with the noise held fixed."""
    outputs = [
        release_update(BEFORE, after, clip=0.3, noise_std=1.0, random=np.random.default_rng(0))
        for after in (BEFORE, {name: value + np.float32(9) for name, value in BEFORE.items()})
    ]
    distance = math.sqrt(sum(float(((outputs[0][n] - outputs[1][n]) ** 2).sum()) for n in BEFORE))
    assert distance == pytest.approx(0.3, rel=1e-4)


def test_secret_numbers_are_uniform_and_normal_and_never_repeat():
    random = SecretRandom()
    uniform, normal = random.random(20000), random.standard_normal(20000)
    assert ((uniform >= 0) & (uniform < 1)).all()
    assert stats.kstest(uniform, "uniform").pvalue > 1e-6
    assert stats.kstest(normal, "norm").pvalue > 1e-6
    assert len({*uniform, *SecretRandom().random(20000)}) == 40000


def test_the_predicted_noise_to_signal_is_the_measured_one():
    noise = np.random.default_rng(1).normal(0, 0.7, (6, 4000)).mean(0)
    assert noise_to_signal(4000, 0.7, 0.5, sites=6) == pytest.approx(np.linalg.norm(noise) / 0.5, rel=0.03)


@pytest.mark.parametrize(("values", "stated"), [(2_490_624, 395), (12_288, 28), (5_376, 18)])
def test_with_noise_shared_by_four_sites_it_is_what_the_privacy_page_states(values, stated):
    """The full set of ViT-L-14, shared prompts and rank-1 adapters at z = 1: √d·z/n."""
    assert round(noise_to_signal(values, 1 / math.sqrt(4), 1.0, sites=4)) == stated
