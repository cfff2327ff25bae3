"""Backbones with random weights, of the shapes that times are wanted for, and images to go with them."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.model import CLIP
from scipy import ndimage

from mediclip.model.backbone import Backbone
from mediclip.model.backbone_loading import backbone_from_weights, load_backbone
from mediclip.rng import generator

SIZE = 224
_TINY = {
    "embed_dim": 192,
    "vision_cfg": {"image_size": SIZE, "layers": 12, "width": 192, "head_width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 4},
}
SHAPES = {"vit-tiny": "vit-tiny", "ViT-B/16": "ViT-B-16:random", "ViT-L/14": "ViT-L-14:random"}


@functools.lru_cache(maxsize=1)
def backbone_of(shape: str) -> Backbone:
    """Make the backbone of one of :data:`SHAPES`, or ``embedded``, with seeded random weights."""
    if shape != "vit-tiny":
        return load_backbone(SHAPES.get(shape, shape), image_size=SIZE)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        weights = CLIP(**_TINY).state_dict()
    return backbone_from_weights(_TINY, weights, spec=shape)


def draw_images(count: int) -> NDArray[np.float32]:
    """Draw smooth images with an even border, ``(count, 224, 224)`` in [0, 1]."""
    noise = generator(0, "benchmark").standard_normal((count, SIZE, SIZE))
    fields = ndimage.gaussian_filter(noise, (0, 7, 7))
    fields -= fields.min(axis=(1, 2), keepdims=True)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    images = fields / fields.max(axis=(1, 2), keepdims=True) * (x**2 + y**2 < 0.8)
    return np.ascontiguousarray(images, np.float32)
