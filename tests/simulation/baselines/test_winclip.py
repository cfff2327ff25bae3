"""WinCLIP: windows and means against anomalib 2.7.0's, whose numbers stand here; scores against CLIP."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mediclip.config import load_recipe
from mediclip.errors import BackboneError
from mediclip.model.backbone_loading import load_backbone
from simulation.baselines.winclip import TEMPERATURE, WinClip, harmonic_mean, phrase_columns, window_patches

# make_masks((4, 3), 2), a window a row.
WINDOWS = [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8], [6, 7, 9, 10], [7, 8, 10, 11]]
# harmonic_aggregation of the scores on windows of 2 by 2 in a grid of 4 by 4.
SCORES = [0.324066, 0.252494, 0.790360, 0.551530, 0.487599, 0.819059, 0.168810, 0.656924, 0.362386]
MEANS = [
    [0.324066, 0.283838, 0.382721, 0.790360],
    [0.408252, 0.366627, 0.470726, 0.804454],
    [0.258500, 0.353667, 0.529555, 0.502462],
    [0.168810, 0.268598, 0.467100, 0.362386],
]


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("embedded")


def test_windows_and_harmonic_means_are_those_of_anomalib():
    assert window_patches(4, 3, 2).tolist() == WINDOWS
    found = harmonic_mean(torch.tensor([SCORES]), window_patches(4, 4, 2), 4, 4)
    torch.testing.assert_close(found, torch.tensor([MEANS]), rtol=0, atol=2e-6)


def test_an_image_scores_as_clip_itself_compares_it_with_the_phrases(backbone):
    recipe = load_recipe("default")
    images = torch.from_numpy(np.random.default_rng(0).random((2, 224, 224), dtype=np.float32))
    detector = WinClip(backbone, recipe)
    with torch.inference_mode():
        said = detector.judge(detector.tokens(images))
        feature = functional.normalize(backbone.visual(backbone.normalise(images)), dim=-1)
        wanted = (feature @ phrase_columns(backbone, recipe) / TEMPERATURE).softmax(-1)[:, 1]
    torch.testing.assert_close(said.scores, wanted, rtol=1e-4, atol=1e-5)
    assert said.maps.shape == (2, 224, 224)
    assert ((said.maps > 0) & (said.maps < 1)).all()


def test_the_map_depends_on_the_place(backbone):
    images = torch.full((1, 224, 224), 0.3)
    images[0, 32:80, 128:176] = 1.0
    detector = WinClip(backbone, load_recipe("default"))
    with torch.inference_mode():
        maps = detector.judge(detector.tokens(images)).maps[0]
    inside, far = maps[40:72, 136:168].mean(), maps[160:200, 20:60].mean()
    assert abs(inside - far) > 1e-3


@pytest.mark.parametrize("change", [{"pool_type": "avg"}, {"attn_pool": torch.nn.Identity()}, {"proj": None}])
def test_a_tower_whose_feature_is_not_at_the_class_token_is_refused(change):
    backbone = load_backbone("embedded")
    for name, value in change.items():
        setattr(backbone.visual, name, value)
    with pytest.raises(BackboneError, match="must take its feature at the class token"):
        WinClip(backbone, load_recipe("default"))
