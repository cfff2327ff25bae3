"""The bank of views: what it holds at a step follows from seed, stream and step, wherever it lies."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from mediclip.model.network import MediClip
from mediclip.rng import generator
from mediclip.synthesis import Mixture
from mediclip.synthesis.batched import BatchedMixture
from mediclip.training.loop import train
from mediclip.training.token_bank import TokenBank
from tests.tiny import tiny_backbone, tiny_recipe, tiny_scans

SHOTS = 4


def network(**changes):
    return MediClip(tiny_backbone(), tiny_recipe().model_copy(update=changes)).initialise(1)


def contents(bank, step, views):
    """All views of all images at a step, ``(V·K, ...)``."""
    found = []
    for seed in range(40 * views):
        batch = bank.batch(np.arange(SHOTS), generator(seed, "look"), step=step)
        found.append(batch.labels.numpy().tobytes())
    return set(found)


def batches(bank, steps):
    return [bank.batch(np.arange(SHOTS), generator(step, "step"), step=step) for step in steps]


def same(one, other):
    return torch.equal(one.labels, other.labels) and all(map(torch.equal, one.tokens, other.tokens))


@pytest.mark.parametrize("lean", [True, False])
def test_a_bank_gives_the_tokens_of_its_views_up_to_half_precision(lean):
    changes = {"lean": lean, "precision": "float32"}
    net, scans = network(**changes), tiny_scans(1)
    recipe = net.recipe
    bank = TokenBank(net, scans, seed=5, stream=("s",))
    images, labels = [], []
    for group in range(recipe.bank_views * SHOTS // recipe.batch_size):
        members, rng = np.arange(SHOTS), generator(5, "s", "bank", group)
        if lean:
            made = BatchedMixture(recipe.tasks, recipe.second_anomaly, scans).draw(members, rng)
        else:
            made = Mixture(recipe.tasks, recipe.second_anomaly).draw_batch(scans, scans, rng)
        images.append(made[0])
        labels.append(made[1])
    indexes = np.array([2, 0, 2, 3])
    chosen = generator(9, "step").integers(recipe.bank_views, size=4)
    batch = bank.batch(indexes, generator(9, "step"))
    for row, (view, index) in enumerate(zip(chosen, indexes, strict=True)):
        assert np.allclose(batch.labels[row].numpy(), labels[view][index], atol=1e-3)
        exact = net.tokens(torch.from_numpy(images[view][index][None]))
        for found, want in zip(batch.tokens, exact, strict=True):
            assert torch.allclose(found[row], want[0], rtol=2e-3, atol=2e-3)


def test_a_bank_says_how_far_it_is():
    told = []
    TokenBank(network(bank_views=3), tiny_scans(1), seed=1, on_progress=lambda *news: told.append(news))
    assert told == [(4, 12), (8, 12), (12, 12)]


def test_a_bank_of_another_seed_or_stream_holds_other_views():
    net, scans = network(), tiny_scans(1)
    labels = [
        TokenBank(net, scans, seed=seed, stream=stream).batch(np.arange(4), generator(0, "x")).labels
        for seed, stream in ((1, ()), (1, ("site",)), (2, ()))
    ]
    assert len({one.numpy().tobytes() for one in labels}) == 3


def test_a_bank_on_disk_gives_the_batches_of_one_in_memory():
    net, scans = network(), tiny_scans(1)
    memory, disk = TokenBank(net, scans, seed=1), TokenBank(net, scans, seed=1, memory_limit=0)
    assert (memory.is_on_disk, disk.is_on_disk) == (False, True)
    pairs = zip(batches(memory, range(6)), batches(disk, range(6)), strict=True)
    assert all(same(one, other) for one, other in pairs)


def test_what_a_bank_holds_changes_after_each_interval_and_not_between():
    net, scans = network(bank_views=2, bank_refresh=3), tiny_scans(1)
    bank = TokenBank(net, scans, seed=1)
    held = [contents(bank, step, 2) for step in range(8)]
    assert held[0] == held[1] == held[2]
    assert held[3] == held[4] == held[5]
    assert held[6] == held[7]
    assert len({frozenset(one) for one in held}) == 3


@given(steps=st.lists(st.integers(0, 60), min_size=1, max_size=5), refresh=st.integers(1, 5))
@settings(max_examples=15, deadline=None)
def test_a_bank_that_jumps_holds_what_one_that_walks_holds(steps, refresh):
    net, scans = network(bank_views=3, bank_refresh=refresh), tiny_scans(1)
    jumping, walking = (TokenBank(net, scans, seed=4) for _ in range(2))
    jumped = dict(zip(steps, batches(jumping, steps), strict=True))
    walked = batches(walking, range(max(steps) + 1))
    assert all(same(batch, walked[step]) for step, batch in jumped.items())


def test_the_schedule_is_of_steps_and_not_of_time():
    net, scans = network(bank_views=2, bank_refresh=1), tiny_scans(1)
    fast, slow = TokenBank(net, scans, seed=4), TokenBank(net, scans, seed=4)
    quick = batches(fast, range(5))
    for step, batch in enumerate(quick):
        time.sleep(0.05)  # whatever was begun in the background is done by now
        assert same(batch, batches(slow, [step])[0])


def test_a_training_in_parts_with_new_banks_sees_the_views_of_the_whole():
    scans, changes = tiny_scans(1), {"bank_views": 2, "bank_refresh": 2, "learning_rate": 1e-12}
    whole = train(network(**changes), scans, seed=3, steps=6).losses
    parts = [train(network(**changes), scans, seed=3, steps=3, first_step=first).losses for first in (0, 3)]
    assert np.allclose(whole, np.concatenate(parts), rtol=1e-6)


@pytest.mark.parametrize(("views", "batch_size"), [(3, 8), (1, 16), (5, 3)])
def test_views_that_fill_no_whole_batch_are_kept_too(views, batch_size):
    told = []
    net = network(bank_views=views, batch_size=batch_size)
    bank = TokenBank(net, tiny_scans(1), seed=1, on_progress=lambda *news: told.append(news))
    assert told[-1] == (views * SHOTS, views * SHOTS)
    assert torch.isfinite(bank.batch(np.arange(4), generator(0, "x")).labels).all()
