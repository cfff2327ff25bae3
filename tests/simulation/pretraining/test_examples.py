import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy import ndimage

from mediclip.rng import generator
from simulation.phantom import ORGANS, finding_names
from simulation.pretraining.captions import FOREIGN, TEXTURE, VIEWS, write_caption
from simulation.pretraining.examples import HEALTHY_SHARE, TEXTURE_SHARE, draw_example
from simulation.pretraining.textures import draw_texture


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 2**20))
def test_any_example_is_an_image_with_a_mask_that_says_whether_anything_is_wrong(seed: int, index: int):
    example = draw_example(seed, index, 64)
    assert example.image.shape == example.mask.shape == (64, 64)
    assert (example.image.dtype, example.mask.dtype) == (np.uint8, np.bool_)
    assert example.image.std() > 1
    assert example.mask.any() == (example.finding is not None)
    assert example.organ == TEXTURE or example.organ in ORGANS


def test_an_example_depends_on_seed_and_number_alone():
    first, again, other, next_one = (draw_example(*at, 64) for at in ((1, 5), (1, 5), (2, 5), (1, 6)))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert not np.array_equal(first.image, other.image)
    assert not np.array_equal(first.image, next_one.image)


def test_all_organs_textures_and_findings_come_in_the_stated_shares():
    drawn = [draw_example(3, i, 64) for i in range(300)]
    kinds = {(example.organ, example.finding) for example in drawn}
    wanted = {(organ, finding) for organ in ORGANS for finding in (None, FOREIGN, *finding_names(organ))}
    assert kinds >= wanted | {(TEXTURE, None), (TEXTURE, FOREIGN)}
    # Four standard errors of 300 draws; some synthesised anomalies are too faint and count as healthy.
    textures = np.mean([example.organ == TEXTURE for example in drawn])
    assert abs(textures - TEXTURE_SHARE) < 4 * np.sqrt(TEXTURE_SHARE * (1 - TEXTURE_SHARE) / 300)
    healthy = np.mean([example.finding is None for example in drawn])
    assert HEALTHY_SHARE - 0.115 < healthy < HEALTHY_SHARE + 0.2


@pytest.mark.parametrize("seed", range(12))
def test_a_patch_of_a_texture_shows_inside_its_mask_alone(seed: int):
    plain, none = draw_texture(generator(seed, "t"), 96, with_patch=False)
    patched, mask = draw_texture(generator(seed, "t"), 96, with_patch=True)
    assert not none.any()
    assert mask.any()
    away = ndimage.distance_transform_edt(~mask) > 8
    assert np.array_equal(plain[away], patched[away])
    assert np.abs(plain - patched)[mask].mean() > np.abs(plain - patched)[~mask].mean()


def mask_at(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    mask[rows, columns] = True
    return mask


def captions(organ: str, finding: str | None, mask: np.ndarray) -> set[str]:
    return {write_caption(organ, finding, mask, generator(i, "words")) for i in range(400)}


@pytest.mark.parametrize(
    ("rows", "columns", "place"),
    [
        (slice(0, 20), slice(0, 20), "in the upper left"),
        (slice(80, 100), slice(80, 100), "in the lower right"),
        (slice(45, 55), slice(0, 20), "on the left"),
        (slice(80, 100), slice(45, 55), "in the lower part"),
        (slice(45, 55), slice(45, 55), "in the middle"),
    ],
)
def test_a_caption_says_where_the_finding_is(rows: slice, columns: slice, place: str):
    told = {
        text
        for text in captions("brain", "mass", mask_at(rows, columns))
        if " in the " in text or " on the " in text
    }
    assert any(place in text for text in told)
    others = {"left", "right", "upper", "lower", "middle"} - set(place.split())
    assert not any(f" {word}" in text for text in told for word in others)


def test_captions_name_view_size_and_finding_and_healthy_ones_no_finding():
    ill = captions("chest", "nodule", mask_at(slice(0, 5), slice(0, 5)))
    assert len(ill) > 60
    assert all(any(view in text for view in VIEWS["chest"]) for text in ill)
    assert any("small nodule" in text for text in ill)
    assert any("large" in text for text in captions("chest", "nodule", mask_at(slice(0, 50), slice(0, 50))))
    healthy = captions("chest", None, mask_at(slice(0, 0), slice(0, 0)))
    assert not any("nodule" in text or " left" in text for text in healthy)
    assert not healthy & ill
    assert not any(
        " a effusion" in text or " a abnormal" in text
        for text in captions("chest", "effusion", mask_at(slice(0, 9), slice(0, 9)))
    )


def test_every_finding_of_every_organ_has_its_own_words():
    mask = mask_at(slice(0, 9), slice(0, 9))
    for organ in ORGANS:
        foreign = captions(organ, FOREIGN, mask)
        for finding in finding_names(organ):
            assert captions(organ, finding, mask) - foreign
