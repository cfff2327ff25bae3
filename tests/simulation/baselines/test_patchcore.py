"""PatchCore against anomalib 2.7.0's, whose numbers stand here, and as a detector."""

import numpy as np
import pytest
import torch

from mediclip.config import load_recipe
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.network import MediClip
from simulation.baselines.patchcore import PatchCore, farthest_first, patch_and_image_scores

# PatchcoreModel.nearest_neighbors and compute_anomaly_score, nine neighbours, on what `drawn` gives.
PATCHES = [
    [0.948091, 1.718436, 1.974691, 0.820322, 1.315807, 0.944513, 0.797638, 1.207109, 1.207516],
    [1.631630, 1.477724, 1.023138, 1.418520, 2.814955, 1.664470, 1.973941, 1.209305, 1.744262],
]
IMAGES = [1.909090, 2.662543]
# KCenterGreedy of 40 % of the rows below, without its projection, beginning with row 16.
CORESET = [16, 12, 28, 7, 11, 10, 27, 20, 13, 24, 23, 21]


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    shapes = (2, 3, 3, 5), (20, 5), (30, 4)
    return [torch.from_numpy(rng.standard_normal(shape).astype(np.float32)) for shape in shapes]


def test_distances_and_weighted_scores_are_those_of_anomalib(drawn):
    features, bank, _ = drawn
    distance, scores = patch_and_image_scores(features, bank)
    torch.testing.assert_close(distance.flatten(1), torch.tensor(PATCHES), rtol=0, atol=2e-6)
    torch.testing.assert_close(scores, torch.tensor(IMAGES), rtol=0, atol=2e-6)


def test_the_coreset_is_that_of_anomalib(drawn):
    assert farthest_first(drawn[2], 12, CORESET[0]).tolist() == CORESET


def test_a_bank_smaller_than_the_neighbourhood_is_used_whole(drawn):
    features, bank, _ = drawn
    _, scores = patch_and_image_scores(features, bank[:1])
    assert scores.tolist() == [0.0, 0.0]  # the only neighbour has all the weight, as in equation 7
    _, scores = patch_and_image_scores(features, bank[:3])
    assert (scores > 0).all()


def test_a_lesion_stands_out_of_remembered_images_and_the_seed_decides_the_bank():
    network = MediClip(load_backbone("embedded"), load_recipe("default"))
    y, x = np.mgrid[-1:1:224j, -1:1:224j]
    rng = np.random.default_rng(1)
    normal = np.stack([(0.6 - 0.3 * (x**2 + y**2) * rng.uniform(0.8, 1.2)).clip(0, 1) for _ in range(4)])
    support = normal[:3].astype(np.float32)
    found = PatchCore.of(network, support, seed=0)
    ill = normal[3].copy()
    ill[60:90, 120:150] = 1.0
    images = torch.from_numpy(np.stack([normal[3], ill]).astype(np.float32))
    with torch.inference_mode():
        said = found.judge(found.tokens(images))
        again, other = (PatchCore.of(network, support, seed=n).judge(found.tokens(images)) for n in (0, 1))
    assert said.scores[1] > said.scores[0]
    row, column = divmod(int(said.maps[1].argmax()), 224)
    assert 50 <= row <= 100
    assert 110 <= column <= 160
    assert said.maps.min() >= 0
    assert said.maps.max() < 1
    torch.testing.assert_close(again.scores, said.scores, rtol=0, atol=0)
    assert not torch.equal(other.scores, said.scores)
