"""DP-SGD: its limit is the ordinary step, its sensitivity is the clip, and its views never mix images."""

import numpy as np
import pytest
import torch

from mediclip.model.network import MediClip
from mediclip.privacy.dp_sgd import GradientNoise, _clipped_sum, noised_values, train_with_noise
from mediclip.privacy.randomness import SecretRandom
from mediclip.privacy.views import OwnViews
from mediclip.training.batch import Batch
from mediclip.training.losses import anomaly_loss
from tests.tiny import tiny_backbone, tiny_recipe, tiny_scans

NAMES = ["a", "b", "c", "d"]
RECIPES = [{}, {"adapter_rank": 1}, {"adapter_rank": 0}]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def network(**changes):
    made = MediClip(tiny_backbone(), tiny_recipe().model_copy(update=changes)).initialise(1)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.endswith(".up"):  # zero at first, where the gradient of .down is zero too
                parameter.fill_(0.05)
    return made


def views(scans=None, names=NAMES, **changes):
    return OwnViews(network(**changes), tiny_scans(1) if scans is None else scans, names, seed=5)


class Everything:
    """Randomness that takes every image, its first view, and no noise."""

    def random(self, size):
        return np.zeros(size)

    def standard_normal(self, size):
        return np.zeros(size)


class Noiseless(Everything):
    """Counts what is drawn."""

    def __init__(self):
        self.normals = []

    def standard_normal(self, size):
        self.normals.append(size)
        return np.zeros(size)


def flat(values):
    return np.concatenate([value.astype(np.float64).ravel() for value in values.values()])


@pytest.mark.parametrize("changes", RECIPES)
def test_without_clip_and_noise_it_is_adam_on_the_gradient_of_the_whole_batch(changes):
    """Three steps against torch alone: the whole loss, back-propagated through adapters and text tower."""
    bank, private, plain = views(**changes), network(**changes), network(**changes)
    train_with_noise(private, bank, GradientNoise(1e9, 0.0, 1.0), Everything(), steps=3, proximal_mu=0.1)
    start = [p.detach().clone() for p in plain.parameters()]
    optimiser = torch.optim.Adam(plain.parameters(), lr=plain.recipe.learning_rate, betas=plain.recipe.betas)
    batch = bank.draw(np.arange(4), Everything())
    for _ in range(3):
        loss = anomaly_loss(plain.probabilities(batch.tokens), batch.labels)
        pull = sum(((p - s) ** 2).sum() for p, s in zip(plain.parameters(), start, strict=True))
        optimiser.zero_grad()
        (loss + 0.05 * pull).backward()
        optimiser.step()
    assert np.abs(flat(private.trainables()) - flat(plain.trainables())).max() < 2e-5


@pytest.mark.parametrize("changes", RECIPES)
def test_noise_is_drawn_for_every_value_that_an_image_reaches(changes):
    trained, random = network(**changes), Noiseless()
    train_with_noise(trained, views(**changes), GradientNoise(1.0, 1.0, 1.0), random, steps=1)
    assert sum(random.normals) == noised_values(trained)


def gradient_of(indexes, bank, *, clip):
    """What one step adds up before the noise."""
    made = network(adapter_rank=1)
    batch = bank.draw(np.array(indexes), Everything())
    return torch.cat([p.flatten() for p in _clipped_sum(made, batch, made.text_features().detach(), clip)])


@pytest.mark.parametrize("clip", [1e-4, 1e-2])
def test_adding_an_image_moves_the_sum_by_the_clip_at_most(clip):
    bank = views(adapter_rank=1)
    for image in range(4):
        others = [i for i in range(4) if i != image]
        moved = gradient_of(range(4), bank, clip=clip) - gradient_of(others, bank, clip=clip)
        assert float(moved.norm()) <= clip * (1 + 1e-9)
        assert float(moved.norm()) > 0


def test_an_image_whose_gradient_is_not_finite_counts_as_none():
    made, bank = network(adapter_rank=1), views(adapter_rank=1)
    batch = bank.draw(np.arange(2), Everything())
    broken = Batch([t.clone() for t in batch.tokens], batch.labels)
    broken.tokens[0][1] = torch.nan
    columns = made.text_features().detach()
    one = Batch([t[:1] for t in batch.tokens], batch.labels[:1])
    for found, expected in zip(
        _clipped_sum(made, broken, columns, 1.0), _clipped_sum(made, one, columns, 1.0), strict=True
    ):
        assert torch.equal(found, expected)


def test_the_noise_of_a_step_has_the_stated_size():
    """With no image drawn, the first step's gradient is noise over the expected batch and nothing else."""

    class Nobody(SecretRandom):
        def random(self, size):
            return np.ones(size)

    sums = []
    for _ in range(3):
        made = network(adapter_rank=4, betas=(0.0, 0.0))
        before = made.trainables()
        train_with_noise(made, views(adapter_rank=4), GradientNoise(1.0, 2.0, 0.5), Nobody(), steps=1)
        gradient = made.adapter[str(made.taps[0])].up.grad
        sums.append(gradient.flatten())
        assert any(not np.array_equal(before[n], v) for n, v in made.trainables().items())
    deviation = float(torch.cat(sums).std())
    assert deviation == pytest.approx(2.0 / (0.5 * 4), rel=0.1)


def test_the_views_of_an_image_depend_on_no_other_image():
    """What makes the clip a sensitivity: no piece of one image in another, and no shared random numbers."""
    scans = tiny_scans(1)
    whole, less = views(), views(scans[[0, 2]], ["a", "c"])
    strange = views(np.stack([scans[0], scans[1][::-1].copy(), scans[2], scans[3]]))
    for other, (mine, its) in ((less, (2, 1)), (strange, (2, 2))):
        for view in range(2):
            seen = [bank.draw(np.array([i]), At(view / 2)) for bank, i in ((whole, mine), (other, its))]
            assert torch.equal(seen[0].labels, seen[1].labels)
            for first, second in zip(seen[0].tokens, seen[1].tokens, strict=True):
                assert torch.allclose(first, second, atol=1e-3)


class At(Everything):
    def __init__(self, value):
        self.value = value

    def random(self, size):
        return np.full(size, self.value)


def test_with_secret_randomness_no_two_trainings_are_the_same():
    bank, results = views(adapter_rank=1), []
    for _ in range(2):
        made = network(adapter_rank=1)
        train_with_noise(made, bank, GradientNoise(1.0, 1.0, 0.5), SecretRandom(), steps=2)
        results.append(flat(made.trainables()))
    assert not np.array_equal(*results)
    assert np.isfinite(results).all()


def test_a_recipe_without_a_bank_gets_views_too():
    assert len(OwnViews(network(bank_views=0), tiny_scans(1)[:1], ["a"], seed=5)) == 1
