"""A site's descriptor: a few numbers of length 1 that say what its scans are like."""

import numpy as np
import pytest
import torch

from mediclip.model.descriptor import PROJECTED, describe
from mediclip.model.network import MediClip
from tests.tiny import tiny_backbone, tiny_recipe, tiny_scans, tiny_tensors


@pytest.fixture(scope="module")
def network():
    return MediClip(tiny_backbone(), tiny_recipe())


def test_it_has_length_one_and_few_numbers(network):
    found = describe(network, tiny_scans(0))
    assert len(found) == 2 * len(network.taps) * PROJECTED
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-4)


def test_neither_the_order_of_the_images_nor_trained_tensors_have_a_part_in_it(network):
    plain = describe(network, tiny_scans(0))
    assert describe(network, tiny_scans(0)[::-1].copy()) == pytest.approx(plain, abs=2e-6)
    network.load(tiny_tensors(3))
    assert describe(network, tiny_scans(0)) == plain


def test_twice_the_same_images_say_the_same(network):
    # Of moments, unlike sums, repetition changes nothing.
    scans = tiny_scans(0)
    assert describe(network, np.concatenate([scans, scans])) == pytest.approx(
        describe(network, scans), abs=2e-6
    )


def test_like_scans_are_nearer_than_unlike_ones(network):
    first, second = (np.array(describe(network, tiny_scans(n))) for n in (0, 1))
    other = np.array(describe(network, 1 - tiny_scans(2)))
    assert first @ second > first @ other
    assert first @ second > second @ other


def test_the_projection_keeps_angles_roughly(network):
    # The independent reference: cosines of the moments themselves, tap by tap, without a projection.
    def moments(scans):
        with torch.no_grad():
            tokens = [t.flatten(0, 2).double().numpy() for t in network.tokens(torch.from_numpy(scans))]
        parts = [m / np.linalg.norm(m) for t in tokens for m in (t.mean(0), t.std(0))]
        return np.concatenate(parts) / len(parts) ** 0.5

    sets = [tiny_scans(0), 1 - tiny_scans(1), tiny_scans(2)[:, ::-1] ** 4]
    sets = [np.ascontiguousarray(s, dtype=np.float32) for s in sets]
    whole, few = [moments(s) for s in sets], [np.array(describe(network, s)) for s in sets]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert few[i] @ few[j] == pytest.approx(whole[i] @ whole[j], abs=0.15)
