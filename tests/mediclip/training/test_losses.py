"""Losses at their limits and against plain NumPy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from mediclip.training.losses import anomaly_loss, dice_loss, focal_loss, proximal_penalty

FLOOR = 1e-5


def maps(seed, *, soft=True):
    rng = np.random.default_rng(seed)
    abnormal = rng.uniform(0, 1, (3, 8, 8)).astype(np.float32)
    labels = rng.uniform(0, 1, (3, 8, 8)) if soft else rng.integers(0, 2, (3, 8, 8))
    labels = labels.astype(np.float32)
    labels[:, 0] = 1
    return np.stack([1 - abnormal, abnormal], axis=1), labels


def plain_focal(p, labels, gamma):
    total = 0.0
    hard = labels.astype(int)
    for image, row, column in np.ndindex(hard.shape):
        y = np.clip(np.eye(2)[hard[image, row, column]], FLOOR, 1 - FLOOR)
        right = float((y * p[image, :, row, column]).sum()) + FLOOR
        total += -((1 - right) ** gamma) * np.log(right)
    return total / hard.size


def plain_dice(p, labels):
    return np.mean(
        [1 - (2 * (a * g).sum() + 1) / (a.sum() + g.sum() + 1) for a, g in zip(p, labels, strict=True)]
    )


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_both_losses_agree_with_plain_loops(soft, gamma):
    p, labels = maps(1, soft=soft)
    focal = focal_loss(torch.from_numpy(p), torch.from_numpy(labels), gamma=gamma)
    assert float(focal) == pytest.approx(plain_focal(p, labels, gamma), rel=1e-4)
    dice = dice_loss(torch.from_numpy(p[:, 1]), torch.from_numpy(labels))
    assert float(dice) == pytest.approx(plain_dice(p[:, 1], labels), rel=1e-5)
    both = anomaly_loss(torch.from_numpy(p), torch.from_numpy(labels))
    assert float(both) == pytest.approx(plain_focal(p, labels, 2.0) + float(dice), rel=1e-4)


def test_without_gamma_the_focal_loss_is_the_cross_entropy_up_to_its_floor():
    p, labels = maps(2, soft=False)
    expected = torch.nn.functional.nll_loss(torch.from_numpy(p).log(), torch.from_numpy(labels).long())
    found = focal_loss(torch.from_numpy(p), torch.from_numpy(labels), gamma=0.0)
    assert float(found) == pytest.approx(float(expected), abs=1e-3)


def test_a_perfect_map_costs_next_to_nothing_and_the_opposite_much():
    _, labels = maps(3, soft=False)
    right = torch.from_numpy(np.stack([1 - labels, labels], 1))
    assert float(anomaly_loss(right, torch.from_numpy(labels))) < 1e-4
    assert float(anomaly_loss(right.flip(1), torch.from_numpy(labels))) > 5


def test_an_empty_label_and_an_empty_map_overlap_fully():
    nothing = torch.zeros(2, 8, 8)
    assert float(dice_loss(nothing, nothing)) == 0.0


def test_only_a_full_one_counts_as_abnormal_in_the_focal_loss():
    p = torch.tensor([0.1, 0.9]).view(1, 2, 1, 1)
    almost, full = (torch.full((1, 1, 1), value) for value in (0.999, 1.0))
    assert float(focal_loss(p, almost)) > 1 > float(focal_loss(p, full))


@given(mu=st.floats(0, 10), shift=st.floats(-3, 3))
@settings(max_examples=30)
def test_the_proximal_penalty_is_half_mu_times_the_squared_distance(mu, shift):
    start = [torch.zeros(4), torch.ones(2, 3)]
    moved = [value + shift for value in start]
    expected = 0.5 * mu * 10 * shift**2
    assert float(proximal_penalty(moved, start, mu)) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_an_empty_label_costs_what_the_map_claims():
    """With g = 0 the Dice loss of an image is 1 - 1 / (Σ p + 1): it rises with every pixel claimed."""
    nothing = torch.zeros(1, 8, 8)
    for claimed in (0.0, 0.25, 1.0):
        found = float(dice_loss(torch.full((1, 8, 8), claimed), nothing))
        assert found == pytest.approx(1 - 1 / (64 * claimed + 1), abs=1e-6)


def test_the_dice_loss_is_a_mean_over_images_not_over_pixels():
    p, g = torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)
    p[0, 0, 0] = g[1] = 1  # one image claims one pixel for nothing, the other misses everything
    expected = ((1 - 1 / 2) + (1 - 1 / 65)) / 2
    assert float(dice_loss(p, g)) == pytest.approx(expected, abs=1e-6)


@given(seed=st.integers(0, 1000), gamma=st.floats(0, 5))
@settings(max_examples=30)
def test_the_focal_loss_falls_with_gamma_and_never_below_its_floor(seed, gamma):
    p, labels = (torch.from_numpy(part) for part in maps(seed))
    found = float(focal_loss(p, labels, gamma=gamma))
    assert -1e-4 < found <= float(focal_loss(p, labels, gamma=0.0)) + 1e-6


def test_the_focal_loss_stays_finite_where_the_map_is_certain_and_wrong():
    certain = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).requires_grad_()
    loss = focal_loss(certain, torch.ones(1, 1, 1))
    loss.backward()
    # p_t = (1 - 1e-5)·0 + 1e-5·1 + 1e-5, so the cost is bounded by -ln 2e-5.
    assert float(loss.detach()) == pytest.approx(-np.log(2e-5), rel=1e-3)
    assert torch.isfinite(certain.grad).all()


def test_gradients_agree_with_finite_differences():
    p, labels = maps(5)
    logits = torch.from_numpy(np.log(p[:, :, :3, :3] + 1e-3)).double().requires_grad_()
    label = torch.from_numpy(labels[:, :3, :3])
    assert torch.autograd.gradcheck(lambda z: anomaly_loss(z.softmax(1), label), (logits,), atol=1e-6)
