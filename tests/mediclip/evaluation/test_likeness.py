"""Near-copies: found after what happens to files on their way, and not among different scans of one organ."""

import io

import numpy as np
import pytest
from PIL import Image

from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.evaluation.likeness import MAX_DISTANCE, LikenessIndex, likeness
from mediclip.rng import generator
from simulation.phantom.draw import draw_phantom

ORGANS = ("brain", "chest", "breast")
EACH = 24


def picture(image):
    return Image.fromarray(np.uint8(np.round(255 * np.clip(image, 0, 1))))


def square(one):
    return np.asarray(one.resize((224, 224), Image.Resampling.BILINEAR), dtype=np.float32) / 255


def compressed(image, quality):
    stream = io.BytesIO()
    picture(image).save(stream, "JPEG", quality=quality)
    return square(Image.open(stream).convert("L"))


def cut(image, left, right, top, bottom):
    side = len(image)
    box = (left * side, top * side, (1 - right) * side, (1 - bottom) * side)
    return square(picture(image).resize((224, 224), Image.Resampling.BICUBIC, box=box))


COPIES = {
    "JPEG, quality 60": lambda image: compressed(image, 60),
    "JPEG, quality 30": lambda image: compressed(image, 30),
    "half the size": lambda image: square(picture(image).resize((112, 112), Image.Resampling.BICUBIC)),
    "another shape": lambda image: square(picture(image).resize((300, 180), Image.Resampling.BICUBIC)),
    "brighter": lambda image: np.clip(image + 0.15, 0, 1),
    "darker": lambda image: 0.7 * image,
    "less contrast": lambda image: 0.7 * (image - 0.5) + 0.5,
    "another gamma": lambda image: image**0.7,
    "noise": lambda image: image + generator(0, "noise").normal(0, 0.03, image.shape).astype(np.float32),
    "1 % cut off all around": lambda image: cut(image, 0.01, 0.01, 0.01, 0.01),
    "2.5 % cut off all around": lambda image: cut(image, 0.025, 0.025, 0.025, 0.025),
    "4 % cut off all around": lambda image: cut(image, 0.04, 0.04, 0.04, 0.04),
    "2 % cut off at a corner": lambda image: cut(image, 0.02, 0, 0.02, 0),
    "all at once": lambda image: compressed(0.8 * cut(image, 0.02, 0.02, 0.02, 0.02) + 0.05, 70),
}


@pytest.fixture(scope="module")
def phantoms():
    return {
        organ: [
            draw_phantom(organ, generator(3, "likeness", i), size=224).image.astype(np.float32)
            for i in range(EACH)
        ]
        for organ in ORGANS
    }


@pytest.fixture(scope="module")
def index(phantoms):
    made = LikenessIndex()
    for images in phantoms.values():
        for image in images:
            made.add(likeness(image))
    return made


@pytest.mark.parametrize("change", COPIES)
def test_every_phantom_is_known_again_and_none_is_taken_for_another(change, phantoms, index):
    changed = [likeness(COPIES[change](image)) for images in phantoms.values() for image in images]
    found = index.find(changed)
    assert [[number for number, _ in matches] for matches in found] == [[i] for i in range(len(changed))]


def test_different_phantoms_of_one_organ_are_no_copies(phantoms):
    # 0 of 828 pairs; the nearest pair of 60 phantoms an organ lay at 0.054.
    for images in phantoms.values():
        made = LikenessIndex()
        for image in images:
            assert made.find([likeness(image)]) == [[]]
            made.add(likeness(image))


def test_a_small_lesion_does_not_make_another_picture():
    pairs = [
        (
            draw_phantom("brain", generator(5, "lesion", i), size=224),
            draw_phantom("brain", generator(6, "lesion", i), size=224),
        )
        for i in range(4)
    ]
    for first, second in pairs:
        healthy = first.image.astype(np.float32)
        ill = healthy.copy()
        ill[100:110, 90:100] = second.image[100:110, 90:100]
        made = LikenessIndex()
        made.add(likeness(healthy))
        assert len(made.find([likeness(ill)])[0]) == 1


def test_the_likeness_does_not_mind_brightness_and_contrast_at_all_without_clipping():
    image = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    first, second = likeness(image), likeness(0.25 * image + 0.3)
    np.testing.assert_allclose(first.whole, second.whole, atol=1e-5)
    np.testing.assert_allclose(first.cut, second.cut, atol=1e-5)
    assert np.linalg.norm(first.whole) == pytest.approx(1, abs=1e-6)


def test_an_image_of_one_grey_is_like_nothing():
    flat = likeness(np.full((64, 64), 0.3, np.float32))
    made = LikenessIndex()
    made.add(flat)
    assert not flat.whole.any()
    assert made.find([flat]) == [[]]


def test_the_index_gives_what_a_plain_comparison_gives_beyond_one_block():
    rng = np.random.default_rng(1)
    base = [np.kron(rng.random((8, 8)), np.ones((8, 8))).astype(np.float32) for _ in range(270)]
    images = [likeness(one) for one in base] + [likeness(one[1:, 1:]) for one in base[::60]]
    made = LikenessIndex()
    for image in images:
        made.add(image)
    asked = images[::50] + images[-5:]
    for image, found in zip(asked, made.find(asked), strict=True):
        plain = [
            1 - max((image.whole @ o.whole, (image.cut @ o.whole).max(), (o.cut @ image.whole).max()))
            for o in images
        ]
        expected = {j: max(0, distance) for j, distance in enumerate(plain) if distance < MAX_DISTANCE}
        assert len(expected) >= 1
        assert dict(found) == pytest.approx(expected, abs=1e-5)
    assert len(made) == len(images) == 275


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "within_test", "across", "test_images_like_a_training_image"),
    [("brainmri", 47, 13, 13), ("busi", 182, 16, 16), ("chestxray", 1, 0, 0)],
)
def test_the_copies_of_the_real_sets_are_those_that_were_looked_at(
    shared, name, within_test, across, test_images_like_a_training_image
):
    # The sets' README names 2 identical and "about 12" near training images of brainmri, and 8 of busi's
    # normals; 32 of the pairs, the 20 furthest apart among them, were looked at, and none was wrong.
    dataset = open_dataset(shared / "data" / name)
    samples = [*dataset.train, *dataset.test]
    made = LikenessIndex()
    pairs = []
    for i, image in enumerate(load_images(samples, Preprocess())):
        one = likeness(image)
        pairs += [(j, i) for j, _ in made.find([one])[0]]
        made.add(one)
    crossing = [(j, i) for j, i in pairs if samples[j].split != samples[i].split]
    assert sum(samples[j].split == "test" for j, _ in pairs) == within_test
    assert len(crossing) == across
    assert len({i for _, i in crossing}) == test_images_like_a_training_image
