import numpy as np

from mediclip.data.moved import moved_copies


def blob(cx):
    y, x = np.mgrid[:56, :56] / 56
    return np.exp(-20 * ((y - 0.5) ** 2 + (x - cx) ** 2)).astype(np.float32)


def test_copies_differ_a_little_and_stay_in_range():
    images = np.stack([blob(0.4), blob(0.6)])
    copies = moved_copies(images, 3, np.random.default_rng(0))
    assert copies.shape == (6, 56, 56)
    assert copies.dtype == np.float32
    assert copies.min() >= 0
    assert copies.max() <= 1
    own = np.abs(copies.reshape(2, 3, 56, 56) - images[:, None]).mean((1, 2, 3))
    other = np.abs(copies.reshape(2, 3, 56, 56) - images[::-1, None]).mean((1, 2, 3))
    assert (own > 1e-3).all()
    assert (own < 0.6 * other).all()


def test_no_copy_is_mirrored_and_a_constant_image_moves_to_itself_but_for_contrast():
    copies = moved_copies(np.full((1, 32, 32), 0.5, np.float32), 20, np.random.default_rng(1))
    assert np.ptp(copies, axis=(1, 2)).max() < 1e-6
    right = moved_copies(blob(0.8)[None], 20, np.random.default_rng(2))
    assert (right[:, :, 28:].sum((1, 2)) > right[:, :, :28].sum((1, 2))).all()


def test_the_same_generator_gives_the_same_copies_and_none_are_none():
    images = blob(0.5)[None]
    first, second = (moved_copies(images, 2, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert moved_copies(images, 0, np.random.default_rng(0)).shape == (0, 56, 56)
