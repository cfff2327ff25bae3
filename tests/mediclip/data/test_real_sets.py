import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mediclip.data.manifest import has_masks, open_dataset
from mediclip.data.preprocess import Preprocess, load_images

pytestmark = pytest.mark.shared

# train normal, test normal, test abnormal, masks: from the README beside the images.
COUNTS = {"brainmri": (32, 65, 155, 0), "busi": (32, 101, 647, 647), "chestxray": (64, 200, 200, 0)}


@pytest.mark.parametrize("name", COUNTS)
def test_each_set_has_the_counts_of_its_description(shared: Path, name: str):
    data = open_dataset(shared / "data" / name)
    labels = Counter(s.label for s in data.test)
    assert {s.label for s in data.train} == {0}
    masks = sum(s.mask is not None for s in data.test)
    assert (len(data.train), labels[0], labels[1], masks) == COUNTS[name]
    assert has_masks(data.test) == (masks > 0)
    assert [s.index for s in data.test] == list(range(len(data.test)))
    assert data.name == name


@pytest.mark.parametrize("name", COUNTS)
def test_training_images_have_contrast_and_fill_the_range(shared: Path, name: str):
    images = load_images(open_dataset(shared / "data" / name).train, Preprocess())
    assert images.shape == (COUNTS[name][0], 224, 224)
    assert images.min() >= 0
    assert 0.6 < images.max() <= 1
    assert (images.std(axis=(1, 2)) > 0.05).all()


def test_masks_of_busi_mark_a_part_of_their_image(shared: Path):
    test = [s for s in open_dataset(shared / "data" / "busi").test if s.label]
    shares = np.array([Preprocess().load_mask(s).mean() for s in test[::10]])
    assert ((shares > 0) & (shares < 0.9)).all()


def test_brainmri_holds_229_different_files_as_described(shared: Path):
    data = open_dataset(shared / "data" / "brainmri")
    digests = {hashlib.sha256(s.image.read_bytes()).digest() for s in (*data.train, *data.test)}
    assert len(digests) == 229
