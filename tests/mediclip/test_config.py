"""Recipes: what they hold, and how a fault is told."""

import json
from importlib import resources

import pytest
from pydantic import ValidationError

from mediclip.config import PromptSettings, Recipe, load_recipe, recipe_names
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
    cheap = {"causal_text", "trim_text", "lean", "precision", "bank_views"}
    assert differing == {"name", *cheap, "top_share", "memory"}


@pytest.mark.parametrize(("shots", "steps"), [(1, 200), (8, 200), (9, 400), (16, 400), (32, 800)])
def test_steps_count_whole_and_partial_batches(shots, steps):
    assert load_recipe("reference").steps(shots) == steps


def test_a_recipe_reads_the_same_from_a_file_and_by_name(tmp_path):
    path = tmp_path / "copy.toml"
    path.write_text(text_of())
    assert load_recipe(str(path)) == load_recipe("reference")
    assert load_recipe(str(path)).digest() == load_recipe("reference").digest()
    assert load_recipe("default").digest() != load_recipe("reference").digest()


TASKS = "'cut_paste', 'gaussian_intensity', 'source', 'sink', 'smooth_intensity' or 'identity'"
PROMPTS = "abnormal, class_specific, n_ctx, normal, positions"
USABLE = "The key '{}' of recipe '{}' is not usable: "


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ("batch_size = 8", "batch_size = 0", "batch_size", "it must be in [1, 1024]. Got 0; correct it."),
        (
            "batch_size = 8",
            "batch_size = 8.5",
            "batch_size",
            "it must be a whole number in [1, 1024]. Got 8.5; correct it.",
        ),
        (
            "epochs = 200",
            'epochs = "many"',
            "epochs",
            "it must be a whole number of at least 1. Got 'many'; correct it.",
        ),
        (
            "learning_rate = 1e-3",
            "learning_rate = inf",
            "learning_rate",
            "it must be a finite number above 0. Got inf; correct it.",
        ),
        (
            "learning_rate = 1e-3",
            "learning_rate = nan",
            "learning_rate",
            "it must be a finite number above 0. Got nan; correct it.",
        ),
        (
            "learning_rate = 1e-3",
            "learning_rate = 0",
            "learning_rate",
            "it must be above 0. Got 0; correct it.",
        ),
        (
            "second_anomaly = 0.5",
            "second_anomaly = 2",
            "second_anomaly",
            "it must be in [0, 1]. Got 2; correct it.",
        ),
        ("betas = [0.5, 0.999]", "betas = [0.5, 1.0]", "betas.1", "it must be below 1. Got 1.0; correct it."),
        ("betas = [0.5, 0.999]", "betas = [0.5]", "betas.1", "it is required and missing; add it."),
        (
            "cut_paste = 0.25",
            "cut = 0.25",
            "tasks.cut",
            f"it must be {TASKS}. Got 'cut'; correct it.",
        ),
        (
            "cut_paste = 0.25",
            "cut_paste = -1",
            "tasks.cut_paste",
            "it must be at least 0. Got -1; correct it.",
        ),
        (
            "cut_paste = 0.25",
            "cut_paste = inf",
            "tasks.cut_paste",
            "it must be a finite number. Got inf; correct it.",
        ),
        (
            'positions = ["end"]',
            'positions = ["end", "end"]',
            "prompts",
            "each phrase position may stand once; correct it.",
        ),
        (
            'positions = ["end"]',
            'positions = ["last"]',
            "prompts.positions.0",
            "it must be 'front', 'middle' or 'end'. Got 'last'; correct it.",
        ),
        (
            'positions = ["end"]',
            "positions = []",
            "prompts.positions",
            "it must be a list of at least 1. Got []; correct it.",
        ),
        ("n_ctx = 8", "n_ctx = 65", "prompts.n_ctx", "it must be in [1, 64]. Got 65; correct it."),
        (
            "n_ctx = 8",
            "nctx = 8",
            "prompts.nctx",
            f"it must be one of {PROMPTS}. It is none of them; correct its name or remove it.",
        ),
        (
            "causal_text = false",
            'causal_text = "sometimes"',
            "causal_text",
            "it must be true or false. Got 'sometimes'; correct it.",
        ),
        ('name = "reference"', "", "name", "it is required and missing; add it."),
        ('name = "reference"', "name = 3", "name", "it must be text. Got 3; correct it."),
    ],
)
def test_a_key_that_cannot_be_used_is_told_with_its_range_what_was_found_and_what_to_do(
    old, new, key, said, tmp_path
):
    path = changed(tmp_path, old, new)
    with pytest.raises(SettingsError) as raised:
        load_recipe(path)
    assert str(raised.value) == USABLE.format(key, path) + said


def test_settings_that_contradict_each_other_are_told_as_such(tmp_path):
    path = changed(tmp_path, "trim_text = false", "trim_text = true")
    with pytest.raises(SettingsError) as raised:
        load_recipe(path)
    assert str(raised.value) == (
        f"The content of recipe '{path}' is not usable: trim_text needs causal_text: without the mask the "
        "padding takes part; correct it."
    )


@pytest.mark.parametrize("value", ["long " * 5000, "line\n" * 3, {"deep": ["x" * 500]}, None])
def test_whatever_was_found_the_message_is_one_short_line(value):
    values = load_recipe("reference").model_dump() | {"batch_size": value}
    with pytest.raises(SettingsError, match="'batch_size' of here") as raised:
        Recipe.parse(values, source="here")
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 250
    assert "pydantic" not in str(raised.value)


def test_what_is_no_table_of_settings_is_refused():
    with pytest.raises(
        SettingsError, match=r"^The content of here is not usable: it must be a table of keys\. Got 'text'; "
    ):
        Recipe.parse("text", source="here")


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
    with pytest.raises(SettingsError, match="must be a readable TOML file"):
        load_recipe(str(path))
    path.write_bytes(b"name = '\xff\xfe'")
    with pytest.raises(SettingsError, match="must be a readable TOML file") as raised:
        load_recipe(str(path))
    assert "\n" not in str(raised.value)
    assert recipe_names() == ("default", "reference")


def test_the_digest_is_of_what_the_recipe_says_not_of_the_order_it_is_said_in():
    values = load_recipe("reference").model_dump()
    turned = dict(reversed(values.items())) | {"tasks": dict(reversed(values["tasks"].items()))}
    assert Recipe.parse(turned, source="here").digest() == load_recipe("reference").digest()
    for change in ({"epochs": 201}, {"tasks": {"identity": 1.0}}, {"name": "other"}):
        assert Recipe.parse(values | change, source="here").digest() != load_recipe("reference").digest()


def test_settings_cannot_be_changed_after_they_were_checked():
    recipe = load_recipe("reference")
    with pytest.raises(ValidationError):
        recipe.epochs = 0
    with pytest.raises(ValidationError):
        recipe.prompts.n_ctx = 0


def test_prompts_alone_name_the_class_without_a_phrase():
    with pytest.raises(PromptError, match=r"^The class 'abnormal' must .* Got \[\]; name at least one"):
        PromptSettings.parse({"normal": ["fine"], "abnormal": []}, source="here")


def test_a_recipe_survives_the_way_to_a_site_as_json():
    recipe = load_recipe("default")
    assert Recipe.parse(json.loads(recipe.model_dump_json()), source="the server's recipe") == recipe
