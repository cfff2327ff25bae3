"""Recipes: what they hold, and how a fault is told."""

from importlib import resources

import pytest

from mediclip.config import load_recipe, recipe_names
from mediclip.errors import PromptError, SettingsError


def text_of(name="reference"):
    return (resources.files("mediclip") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")


def changed(tmp_path, old, new):
    text = text_of()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    return str(path)


def test_the_reference_recipe_is_the_published_one():
    recipe = load_recipe("reference")
    assert (recipe.image_size, recipe.batch_size, recipe.epochs, recipe.steps(16)) == (224, 8, 200, 400)
    assert (recipe.learning_rate, recipe.betas, recipe.prompts.n_ctx) == (1e-3, (0.5, 0.999), 8)
    assert (len(recipe.prompts.normal), len(recipe.prompts.abnormal)) == (10, 11)
    assert (recipe.causal_text, recipe.trim_text, recipe.bank_views) == (False, False, 0)
    assert recipe.tasks == dict.fromkeys(("cut_paste", "gaussian_intensity", "source", "identity"), 0.25)


def test_the_default_recipe_differs_from_the_reference_in_what_it_says_and_nothing_else():
    one, other = load_recipe("reference").model_dump(), load_recipe("default").model_dump()
    differing = {key for key in one if one[key] != other[key]}
    assert differing == {"name", "causal_text", "trim_text", "bank_views"}


@pytest.mark.parametrize(("shots", "steps"), [(1, 200), (8, 200), (9, 400), (16, 400), (32, 800)])
def test_steps_count_whole_and_partial_batches(shots, steps):
    assert load_recipe("reference").steps(shots) == steps


def test_a_recipe_reads_the_same_from_a_file_and_by_name(tmp_path):
    path = tmp_path / "copy.toml"
    path.write_text(text_of())
    assert load_recipe(str(path)) == load_recipe("reference")
    assert load_recipe(str(path)).digest() == load_recipe("reference").digest()
    assert load_recipe("default").digest() != load_recipe("reference").digest()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch_size = 8", "batch_size = 0", "'batch_size'"),
        ("batch_size = 8", "batchsize = 8", "'batchsize'"),
        ("epochs = 200", 'epochs = "many"', "'epochs'"),
        ("betas = [0.5, 0.999]", "betas = [0.5, 1.0]", "'betas.1'"),
        ("cut_paste = 0.25", "cut = 0.25", "tasks.cut"),
        ("trim_text = false", "trim_text = true", "trim_text needs causal_text"),
        ('positions = ["end"]', 'positions = ["end", "end"]', "stand once"),
        ('positions = ["end"]', 'positions = ["last"]', "positions"),
        ("n_ctx = 8", "n_ctx = 0", "n_ctx"),
    ],
)
def test_a_key_that_cannot_be_used_is_named_in_one_sentence(old, new, said, tmp_path):
    with pytest.raises(SettingsError) as raised:
        load_recipe(changed(tmp_path, old, new))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_weights_that_leave_no_task_are_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(text_of().replace("= 0.25", "= 0"))
    with pytest.raises(SettingsError, match="at least one task"):
        load_recipe(str(path))


@pytest.mark.parametrize("phrases", ["[]", '["fine", " "]'])
def test_a_class_without_a_phrase_is_named(phrases, tmp_path):
    listed = text_of()
    start = listed.index("normal = [")
    end = listed.index("]", start) + 1
    path = tmp_path / "mine.toml"
    path.write_text(f"{listed[:start]}normal = {phrases}{listed[end:]}")
    with pytest.raises(PromptError, match="The class 'normal' must have at least one phrase"):
        load_recipe(str(path))


def test_an_unknown_recipe_names_those_there_are_and_a_broken_file_says_so(tmp_path):
    with pytest.raises(SettingsError, match="default, reference"):
        load_recipe("best")
    path = tmp_path / "broken.toml"
    path.write_text("name = ")
    with pytest.raises(SettingsError, match="must be TOML"):
        load_recipe(str(path))
    assert recipe_names() == ("default", "reference")
