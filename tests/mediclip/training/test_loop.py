"""Training: what it repeats, what it visits, and that it learns."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from mediclip.errors import SettingsError
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip
from mediclip.rng import generator
from mediclip.synthesis import Mixture
from mediclip.training.batches import FreshBatches
from mediclip.training.loop import step_indexes, step_loss, train
from mediclip.training.losses import anomaly_loss
from tests.tiny import tiny_backbone, tiny_recipe, tiny_scans


def fresh(**changes):
    return MediClip(tiny_backbone(), tiny_recipe().model_copy(update=changes)).initialise(1)


def same(one, other):
    return all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("views", [0, 2])
def test_the_same_seed_and_stream_train_the_same_and_others_do_not(views):
    scans = tiny_scans(1)
    results = []
    for seed, stream in ((3, ("a",)), (3, ("a",)), (4, ("a",)), (3, ("b",))):
        network = fresh(bank_views=views)
        train(network, scans, seed=seed, stream=stream, steps=3)
        results.append(network.trainables())
    assert same(results[0], results[1])
    assert not same(results[0], results[2])
    assert not same(results[0], results[3])


def test_a_training_in_parts_sees_the_batches_of_the_whole():
    class Recorder:
        def __init__(self, inner):
            self.inner, self.labels = inner, []

        def batch(self, indexes, rng, *, step=0):
            batch = self.inner.batch(indexes, rng, step=step)
            self.labels.append(batch.labels.clone())
            return batch

    scans = tiny_scans(1)
    whole, parts = Recorder(FreshBatches(fresh(), scans)), Recorder(FreshBatches(fresh(), scans))
    train(fresh(), scans, seed=3, steps=4, source=whole)
    train(fresh(), scans, seed=3, steps=2, source=parts)
    train(fresh(), scans, seed=3, steps=2, first_step=2, source=parts)
    assert all(torch.equal(a, b) for a, b in zip(whole.labels, parts.labels, strict=True))


@given(shots=st.integers(1, 40), batch_size=st.integers(1, 16), epoch=st.integers(0, 5))
@settings(max_examples=50)
def test_every_epoch_uses_every_image_once(shots, batch_size, epoch):
    per_epoch = -(-shots // batch_size)
    used = [
        step_indexes(shots, batch_size, epoch * per_epoch + place, seed=1, stream=("x",))
        for place in range(per_epoch)
    ]
    assert sorted(np.concatenate(used)) == list(range(shots))
    assert all(1 <= len(part) <= batch_size for part in used)


def test_training_lowers_the_loss_on_anomalies_that_it_was_not_trained_on():
    # Half the size that the backbone knows: the sixteen patches of 64 px leave little to learn.
    # The start alone moves the gain by a point, so it is averaged over four.
    size, scans = 112, tiny_scans(1, 112)
    backbone = load_backbone("embedded", image_size=size)
    recipe = tiny_recipe().model_copy(update={"image_size": size, "bank_views": 16})
    kept = []
    for start in range(4):
        network = MediClip(backbone, recipe).initialise(start)
        exam = FreshBatches(network, scans).batch(np.arange(16) % 4, generator(99, "exam"))
        before = exam_loss(network, exam)
        result = train(network, scans, seed=1, steps=100)
        assert result.steps == len(result.losses) == 100
        kept.append(exam_loss(network, exam) / before)
    assert max(kept) < 1
    assert np.mean(kept) < 0.95


def exam_loss(network, exam):
    with torch.no_grad():
        return float(anomaly_loss(network.probabilities(exam.tokens), exam.labels))


def test_the_proximal_term_holds_the_model_near_its_start():
    scans, start = tiny_scans(1), fresh().trainables()
    distances = []
    for mu in (0.0, 100.0):
        network = fresh()
        train(network, scans, seed=1, steps=5, proximal_mu=mu)
        values = network.trainables()
        distances.append(sum(float(((values[name] - start[name]) ** 2).sum()) for name in start))
    assert distances[1] < 0.8 * distances[0]


def test_the_recipe_says_how_many_steps_and_progress_is_told():
    network = fresh(epochs=2)
    told = []
    result = train(network, tiny_scans(1), seed=1, on_step=lambda *news: told.append(news))
    assert result.steps == network.recipe.steps(4) == 2
    assert [news[:2] for news in told] == [(1, 2), (2, 2)]
    assert told[-1][2] == result.losses[-1]


def test_nothing_to_train_on_is_refused():
    with pytest.raises(SettingsError, match="at least 1 support image"):
        train(fresh(), tiny_scans(1)[:0], seed=1)


def test_training_leaves_the_global_random_state_and_the_backbone_alone():
    before, digest = torch.random.get_rng_state(), tiny_backbone().visual.conv1.weight.clone()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002 - that it is left alone is the point
    train(fresh(bank_views=0), tiny_scans(1), seed=1, steps=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert torch.equal(tiny_backbone().visual.conv1.weight, digest)


def test_a_part_begins_with_a_fresh_adam():
    """Two parts are not the whole: the second starts again without momentum, as documented."""
    scans = tiny_scans(1)
    whole, parts, again = fresh(), fresh(), fresh()
    train(whole, scans, seed=3, steps=4)
    for network in (parts, again):
        train(network, scans, seed=3, steps=2)
        train(network, scans, seed=3, steps=2, first_step=2)
    assert same(parts.trainables(), again.trainables())
    assert not same(parts.trainables(), whole.trainables())


def test_one_step_is_plain_adam_on_the_gradient_of_the_loss():
    network, scans = fresh(), tiny_scans(1)
    recipe, start = network.recipe, network.trainables()
    source = FreshBatches(network, scans)
    batch = source.batch(step_indexes(4, recipe.batch_size, 0, seed=3), generator(3, "step", 0))
    loss = step_loss(network, batch)
    loss.backward()
    gradients = {name: p.grad.numpy().copy() for name, p in network.named_parameters()}
    network.zero_grad()
    result = train(network, scans, seed=3, steps=1, source=source)
    assert result.losses == [pytest.approx(float(loss.detach()), abs=1e-6)]
    for name, value in network.trainables().items():
        # After one step both moments are unbiased, so Adam moves by the sign of the gradient.
        step = recipe.learning_rate * gradients[name] / (np.abs(gradients[name]) + 1e-8)
        assert np.allclose(value, start[name] - step, atol=1e-6), name


def test_the_proximal_term_enters_the_gradient_but_not_the_reported_loss():
    free, held = (train(fresh(), tiny_scans(1), seed=1, steps=1, proximal_mu=mu) for mu in (0.0, 0.5))
    assert free.losses == held.losses


@pytest.mark.parametrize("steps", [0, 1])
def test_steps_override_the_recipe(steps):
    network = fresh()
    start = network.trainables()
    result = train(network, tiny_scans(1), seed=1, steps=steps)
    assert result.steps == steps
    assert same(network.trainables(), start) is (steps == 0)


def test_epochs_have_orders_of_their_own():
    orders = {tuple(step_indexes(8, 8, epoch, seed=1)) for epoch in range(10)}
    assert len(orders) == 10


def test_fresh_batches_are_the_mixtures_own_draws_so_that_both_sources_have_one_distribution():
    """With the test of the bank's views: exact, where comparing samples of both would only be likely."""
    network, scans = fresh(), tiny_scans(1)
    indexes = np.array([3, 1, 1])
    batch = FreshBatches(network, scans).batch(indexes, generator(8, "step"))
    mixture = Mixture(network.recipe.tasks, network.recipe.second_anomaly)
    images, labels, _ = mixture.draw_batch(scans[indexes], scans, generator(8, "step"))
    assert np.array_equal(batch.labels.numpy(), labels)
    for found, exact in zip(batch.tokens, network.tokens(torch.from_numpy(images)), strict=True):
        assert torch.equal(found, exact)


def test_a_training_that_diverges_stops_and_says_what_to_lower():
    network = fresh(learning_rate=1e30)
    with pytest.raises(SettingsError, match=r"loss must stay finite\. It was nan .* lower learning_rate"):
        train(network, tiny_scans(1), seed=1, steps=5)
