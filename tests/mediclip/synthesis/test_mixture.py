"""What every task promises, and how the mixture draws them."""

import copy
import re

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays

from mediclip.config import TaskName, load_recipe
from mediclip.errors import DataError, SettingsError
from mediclip.synthesis import TASKS, Mixture

every_task = pytest.mark.parametrize("name", TASKS)
seeds = st.integers(0, 2**32 - 1)
sides = st.integers(32, 80)
LOADED = "load it as the test images are loaded."


def textured(shape, seed):
    """Low and high frequencies with some saturated pixels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    waves = 0.5 + 0.4 * np.sin(rows / rng.uniform(2, 20)) * np.cos(columns / rng.uniform(2, 20))
    return np.clip(waves + rng.normal(0, 0.2, shape), 0, 1).astype(np.float32)


def test_the_registry_holds_exactly_the_names_that_recipes_know():
    assert tuple(TASKS) == TaskName.__args__


@every_task
@given(seed=seeds, height=sides, width=sides)
@settings(max_examples=25, deadline=None)
def test_a_task_keeps_shape_type_and_range_and_changes_nothing_outside_its_label(name, seed, height, width):
    image, source = textured((height, width), seed), textured((width, height), seed + 1)
    kept, kept_source = image.copy(), source.copy()
    changed, label = TASKS[name](image, source, np.random.default_rng(seed))
    for array in (changed, label):
        assert array.shape == image.shape
        assert array.dtype == np.float32
        assert array.min() >= 0
        assert array.max() <= 1
    np.testing.assert_array_equal(changed[label == 0], image[label == 0])
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(source, kept_source)
    assert not np.shares_memory(changed, image)
    assert label.any() == (name != "identity")


@every_task
@given(seed=seeds, image=arrays(np.float32, (32, 32), elements=st.floats(0, 1, width=32)))
@settings(max_examples=15, deadline=None)
def test_a_task_takes_any_tiny_image_and_stays_finite(name, seed, image):
    changed, label = TASKS[name](image, image, np.random.default_rng(seed))
    assert 0 <= changed.min() <= changed.max() <= 1
    assert 0 <= label.min() <= label.max() <= 1
    np.testing.assert_array_equal(changed[label == 0], image[label == 0])


@every_task
@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_a_task_takes_an_even_image(name, level):
    even = np.full((48, 40), level, np.float32)
    changed, label = TASKS[name](even, even, np.random.default_rng(0))
    assert np.isfinite(changed).all()
    if name != "gaussian_intensity":
        np.testing.assert_allclose(changed, even, atol=1e-6)
    assert label.any() == (name not in {"identity", "cut_paste"})


def test_identity_returns_the_image_and_draws_no_number():
    image, rng = textured((32, 32), 0), np.random.default_rng(0)
    changed, label = TASKS["identity"](image, image, rng)
    np.testing.assert_array_equal(changed, image)
    assert not label.any()
    assert rng.bit_generator.state == np.random.default_rng(0).bit_generator.state


@every_task
def test_the_same_generator_state_gives_the_same_image_and_another_one_does_not(name):
    image, sources = textured((64, 64), 0), np.stack([textured((64, 64), k) for k in (1, 2)])
    mixture = Mixture({name: 1.0}, 0.5)
    first, again, other = (mixture.draw(image, sources, np.random.default_rng(s)) for s in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert first.task == name
    assert np.array_equal(first.image, other.image) == (name == "identity")


def test_global_randomness_is_neither_read_nor_changed():
    image = textured((48, 48), 0)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what must not move
    Mixture(dict.fromkeys(TASKS, 1.0), 0.5).draw_batch(image[None], image[None], np.random.default_rng(0))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("probability", [0.0, 0.5, 1.0])
def test_a_second_anomaly_comes_with_its_probability(probability):
    image, sources = textured((32, 32), 0), np.zeros((3, 32, 32), np.float32)
    mixture, rng, twice = Mixture({"identity": 1.0}, probability), np.random.default_rng(0), 0
    for _ in range(1000):
        # Identity draws nothing itself, so the numbers used say how often a source was taken.
        replay = copy.deepcopy(rng)
        replay.choice(len(TASKS), p=[0, 0, 0, 0, 0, 1])
        replay.random()
        replay.integers(3)
        mixture.draw(image, sources, rng)
        if replay.bit_generator.state != rng.bit_generator.state:
            replay.integers(3)
            twice += 1
        assert replay.bit_generator.state == rng.bit_generator.state
    assert twice / 1000 == pytest.approx(probability, abs=0.05)


def test_two_anomalies_are_applied_one_after_the_other_and_share_a_label():
    image = textured((64, 64), 0)
    rng = np.random.default_rng(3)
    made = Mixture({"gaussian_intensity": 1.0}, 1.0).draw(image, image[None], rng)
    # The same numbers by hand: one for the task, one for the count, one for each source.
    rng = np.random.default_rng(3)
    rng.choice(len(TASKS), p=[0, 1, 0, 0, 0, 0])
    rng.random()
    rng.integers(1)
    once, first = TASKS["gaussian_intensity"](image, image, rng)
    rng.integers(1)
    twice, second = TASKS["gaussian_intensity"](once, image, rng)
    np.testing.assert_array_equal(made.image, twice)
    np.testing.assert_array_equal(made.label, np.maximum(first, second))


def test_tasks_come_with_their_weights():
    image = textured((32, 32), 0)
    weights = {"cut_paste": 1.0, "sink": 0.0, "source": 2.0, "identity": 5.0}
    mixture = Mixture(weights, 0.0)
    assert mixture.probabilities == {"cut_paste": 0.125, "source": 0.25, "identity": 0.625}
    _, _, tasks = mixture.draw_batch(np.stack([image] * 800), image[None], np.random.default_rng(0))
    for name, probability in mixture.probabilities.items():
        assert tasks.count(name) / 800 == pytest.approx(probability, abs=0.05)


def test_the_order_in_which_tasks_are_listed_does_not_count():
    image = textured((48, 48), 0)
    weights = load_recipe("reference").tasks
    forth, back = Mixture(weights, 0.5), Mixture(dict(reversed(weights.items())), 0.5)
    for seed in range(8):
        one, two = (m.draw(image, image[None], np.random.default_rng(seed)) for m in (forth, back))
        assert one.task == two.task
        np.testing.assert_array_equal(one.image, two.image)


def test_a_batch_is_the_images_drawn_one_by_one():
    images = np.stack([textured((40, 56), k) for k in range(6)])
    mixture = Mixture(dict.fromkeys(TASKS, 1.0), 0.5)
    made, labels, tasks = mixture.draw_batch(images, images, np.random.default_rng(9))
    rng = np.random.default_rng(9)
    for index, image in enumerate(images):
        one = mixture.draw(image, images, rng)
        np.testing.assert_array_equal(made[index], one.image)
        np.testing.assert_array_equal(labels[index], one.label)
        assert tasks[index] == one.task
    assert made.dtype == labels.dtype == np.float32


def test_pieces_are_cut_from_all_sources():
    image = np.zeros((48, 48), np.float32)
    sources = np.stack([np.full((48, 48), level, np.float32) for level in (0.25, 0.5, 0.75)])
    mixture, rng = Mixture({"cut_paste": 1.0}, 0.0), np.random.default_rng(0)
    seen = [float(mixture.draw(image, sources, rng).image.max()) for _ in range(150)]
    assert {level: seen.count(level) > 30 for level in sorted(set(seen))} == {
        0.25: True,
        0.5: True,
        0.75: True,
    }


NAMES = "cut_paste, gaussian_intensity, source, sink, smooth_intensity, identity"
WEIGHTS = "The weights of the synthesis tasks must be finite, at least 0 and not all 0."
PROBABILITY = "The 'second_anomaly' setting must lie in [0, 1]."
FORM = "with sides of at least 32 pixels, the longer at most 4 times the shorter."


@pytest.mark.parametrize(
    ("tasks", "second", "reason"),
    [
        (
            {"cutpaste": 1.0},
            0.5,
            f"A synthesis task must be one of {NAMES}. Got 'cutpaste'; correct its name.",
        ),
        ({}, 0.5, f"{WEIGHTS} Got {{}}; give at least one task a weight above 0."),
        ({"sink": 0.0}, 0.5, f"{WEIGHTS} Got {{'sink': 0.0}};"),
        ({"sink": 1.0, "source": -1.0}, 0.5, f"{WEIGHTS} Got {{'sink': 1.0, 'source': -1.0}};"),
        ({"sink": float("nan")}, 0.5, f"{WEIGHTS} Got {{'sink': nan}};"),
        ({"sink": 1.0}, 1.5, f"{PROBABILITY} Got 1.5; correct it."),
        ({"sink": 1.0}, float("nan"), f"{PROBABILITY} Got nan; correct it."),
    ],
)
def test_settings_that_cannot_be_drawn_from_are_refused(tasks, second, reason):
    with pytest.raises(SettingsError, match=f"^{re.escape(reason)}"):
        Mixture(tasks, second)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (np.zeros((64, 64)), "float64 of shape (64, 64)"),
        (np.zeros((1, 64, 64), np.float32), "float32 of shape (1, 64, 64)"),
        (np.zeros((31, 64), np.float32), "float32 of shape (31, 64)"),
        (np.zeros((32, 160), np.float32), "float32 of shape (32, 160)"),
        (np.zeros((0, 64), np.float32), "float32 of shape (0, 64)"),
        (np.float32(0.5), "float32 of shape ()"),
    ],
)
def test_an_image_of_another_form_is_refused(image, found):
    expected = (
        f"The image of a synthesis must be float32 of shape (H, W), not empty, {FORM} Got {found}; {LOADED}"
    )
    even = np.full((1, 64, 64), 0.5, np.float32)
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        Mixture({"sink": 1.0}, 0.5).draw(image, even, np.random.default_rng(0))


@pytest.mark.parametrize("level", [255, -0.1, np.nan])
@pytest.mark.parametrize("name", ["image", "sources"])
def test_values_outside_the_unit_interval_are_refused(name, level):
    arrays_ = {"image": np.full((64, 64), 0.5, np.float32), "sources": np.full((2, 64, 64), 0.5, np.float32)}
    arrays_[name][..., 3, 3] = level
    found = f"float32 of shape {arrays_[name].shape}"
    expected = f"The {name} of a synthesis must lie in [0, 1]. Some values of {found} do not; {LOADED}"
    with pytest.raises(DataError, match=f"^{re.escape(expected)}$"):
        Mixture({"sink": 1.0}, 0.5).draw(**arrays_, rng=np.random.default_rng(0))


def test_no_source_and_a_single_image_in_place_of_a_stack_are_refused():
    even, mixture = np.full((64, 64), 0.5, np.float32), Mixture({"sink": 1.0}, 0.5)
    for sources in (even[None][:0], even):
        with pytest.raises(
            DataError, match=re.escape("The sources of a synthesis must be float32 of shape (K, ")
        ):
            mixture.draw(even, sources, np.random.default_rng(0))
    with pytest.raises(
        DataError, match=re.escape("The images of a synthesis must be float32 of shape (B, H, W)")
    ):
        mixture.draw_batch(even, even[None], np.random.default_rng(0))
