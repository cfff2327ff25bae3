"""The attacks: they find what is there to be found, and nothing where nothing is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.stats import beta

from mediclip.errors import DataError
from mediclip.model.network import MediClip
from mediclip.privacy.membership import detect, loss_scores, span_scores
from mediclip.privacy.views import OwnViews
from mediclip.training.loop import train
from tests.tiny import tiny_backbone, tiny_recipe, tiny_scans


def network(**changes):
    return MediClip(tiny_backbone(), tiny_recipe().model_copy(update=changes)).initialise(1)


@settings(deadline=None)
@given(st.integers(20, 300), st.integers(1, 50), st.integers(0, 10**6))
def test_the_threshold_lets_at_most_five_percent_of_the_others_pass(others, members, seed):
    rng = np.random.default_rng(seed)
    found = detect(rng.integers(0, 9, members).astype(float), rng.integers(0, 9, others).astype(float))
    assert found.false_positive_rate <= 0.05
    assert found.low <= found.true_positive_rate <= found.high


def test_the_interval_is_that_of_clopper_and_pearson():
    found = detect(np.array([9.0, 9.0, 9.0, 0.0]), np.arange(40) / 10)
    assert found.true_positive_rate == 0.75
    assert (found.low, found.high) == pytest.approx((beta.ppf(0.025, 3, 2), beta.ppf(0.975, 4, 1)))
    assert (found.members, found.others, found.false_positive_rate) == (4, 40, 0.05)


def test_where_nothing_leaks_about_five_percent_are_found():
    rng = np.random.default_rng(0)
    rates = [detect(rng.normal(size=50), rng.normal(size=100)).true_positive_rate for _ in range(200)]
    assert np.mean(rates) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(("members", "others"), [(0, 50), (3, 19)])
def test_too_few_scores_say_nothing(members, others):
    with pytest.raises(DataError, match="at least 20 others"):
        detect(np.zeros(members), np.zeros(others))


def test_a_plain_gradient_step_on_one_image_gives_that_image_away():
    """The closed form: a gradient of a linear map lies in the span of the tokens that it saw."""
    made, scans = network(), np.concatenate([tiny_scans(n) for n in range(3)])
    tokens = made.tokens(torch.from_numpy(scans))
    made.load(made.trainables())
    before = made.trainables()
    probabilities = made.probabilities([t[:1] for t in tokens])
    weights = torch.rand(probabilities.shape[2:], generator=torch.Generator().manual_seed(0))
    (probabilities[:, 1] * weights).sum().backward()
    with torch.no_grad():
        for parameter in made.adapter.parameters():
            parameter.sub_(0.1 * parameter.grad)
    scores = span_scores(before, made.trainables(), tokens, made.taps)
    assert scores[0] > 0.999
    assert scores[1:].max() < scores[0] - 1e-3


def test_of_a_change_of_low_rank_the_product_is_looked_at_and_without_adapters_there_is_none():
    scans = torch.from_numpy(tiny_scans(0))
    made = network(adapter_rank=1)
    before = made.trainables()
    direction = made.tokens(scans[:1])[0][0, 0, 0].numpy()
    after = {n: v.copy() for n, v in before.items()}
    for tap in made.taps:
        after[f"adapter.{tap}.up"] += 1
        after[f"adapter.{tap}.down"][0] = direction
    scores = span_scores(before, after, made.tokens(scans), made.taps)
    unit = direction / np.linalg.norm(direction)
    tokens = [t.flatten(1, 2).double().numpy() for t in made.tokens(scans)]
    expected = [
        np.mean([np.linalg.norm(t[i] @ unit) / np.linalg.norm(t[i]) for t in tokens]) for i in range(4)
    ]
    assert scores == pytest.approx(expected, abs=1e-5)
    bare = network(adapter_rank=0)
    assert span_scores(bare.trainables(), bare.trainables(), bare.tokens(scans), bare.taps) is None


def test_training_lowers_the_loss_and_no_training_lowers_it_by_nothing():
    made, scans = network(), tiny_scans(1)
    views = OwnViews(made, scans, list("abcd"), seed=9)
    before = made.trainables()
    train(made, scans, seed=1, steps=60)
    after = made.trainables()
    assert loss_scores(made, before, after, views).mean() > 0
    assert np.array_equal(loss_scores(made, before, before, views), np.zeros(4))
