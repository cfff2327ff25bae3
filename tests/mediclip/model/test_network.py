"""The detector against plain formulas, and what its state promises."""

import json

import numpy as np
import pytest
import torch

from mediclip.config import load_recipe
from mediclip.errors import SchemaError, SettingsError, TapError
from mediclip.model.anomaly_map import class_probabilities, image_score
from mediclip.model.network import MediClip
from mediclip.model.trainables import (
    BackboneShapes,
    Schema,
    check_trainables,
    initial_trainables,
    schema_for,
)
from tests.tiny import SIZE, tiny_backbone, tiny_recipe


@pytest.fixture
def network():
    return MediClip(tiny_backbone(), tiny_recipe()).initialise(7)


def images(count=2):
    return torch.rand(count, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def test_tokens_are_those_of_open_clips_own_intermediates(network):
    pixels = network.backbone.normalise(images())
    assert torch.allclose(
        pixels[:, 0] * network.backbone.std[0, 0] + network.backbone.mean[0, 0], images(), atol=1e-6
    )
    plain = network.backbone.visual.forward_intermediates(
        pixels, indices=[tap - 1 for tap in network.taps], output_fmt="NCHW"
    )["image_intermediates"]
    for ours, theirs in zip(network.tokens(images()), plain, strict=True):
        assert torch.allclose(ours, theirs.permute(0, 2, 3, 1), atol=1e-5)


def test_the_adapter_is_a_1x1_convolution_followed_by_normalisation(network):
    tokens = network.tokens(images())
    for tap, token, adapted in zip(network.taps, tokens, network.adapter(tokens), strict=True):
        linear = network.adapter[str(tap)]
        plain = torch.nn.functional.conv2d(
            token.permute(0, 3, 1, 2), linear.weight[:, :, None, None], linear.bias
        )
        plain = torch.nn.functional.normalize(plain, dim=1).permute(0, 2, 3, 1)
        assert torch.allclose(adapted, plain, atol=1e-5)


def test_the_map_is_the_softmax_of_upsampled_mean_cosines_and_the_score_its_maximum(network):
    tokens = network.tokens(images())
    with torch.no_grad():
        text = network.text_features()
        grid = torch.stack([adapted @ text for adapted in network.adapter(tokens)]).mean(0)
        found = network(images())
    for image in range(2):
        corners = torch.exp(grid[image, [0, 0, -1, -1], [0, -1, 0, -1]])
        expected = corners[:, 1] / corners.sum(1)
        assert torch.allclose(found[image, [0, 0, -1, -1], [0, -1, 0, -1]], expected, atol=1e-6)
    assert found.shape == (2, SIZE, SIZE)
    assert torch.equal(image_score(found), found.flatten(1).max(1).values)


def test_exactly_the_schemas_tensors_are_trained(network):
    assert [name for name, _ in network.named_parameters()] == sorted(
        (t.name for t in network.schema.tensors), key=[n for n, _ in network.named_parameters()].index
    )
    assert set(network.trainables()) == {t.name for t in network.schema.tensors}
    check_trainables(network.schema, network.trainables())


def test_the_published_size_for_vit_l_14():
    schema = schema_for(BackboneShapes(1024, 768, 768), (12, 18, 24), load_recipe("reference").prompts)
    assert schema.size() == 2_490_624
    assert Schema.from_json(schema.to_json()) == schema


def test_start_values_have_the_published_spread_and_depend_on_seed_and_name_alone():
    schema = schema_for(BackboneShapes(256, 128, 64), (1, 2), load_recipe("reference").prompts)
    values = initial_trainables(schema, 5)
    bound = 256**-0.5
    assert abs(values["adapter.1.weight"]).max() <= bound
    assert values["adapter.1.weight"].std() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert values["prompt.normal.end"].std() == pytest.approx(0.02, rel=0.05)
    again = initial_trainables(
        schema_for(BackboneShapes(256, 128, 64), (2,), load_recipe("reference").prompts), 5
    )
    assert np.array_equal(values["adapter.2.weight"], again["adapter.2.weight"])
    assert not np.array_equal(values["adapter.1.weight"], values["adapter.2.weight"])


def test_text_features_follow_every_change_of_the_prompts(network):
    with torch.no_grad():
        before = network.text_features()
        assert network.text_features() is before
        network.prompt.normal["end"].add_(0.5)
        moved = network.text_features()
        assert not torch.equal(before, moved)
        network.initialise(7)
        assert torch.equal(network.text_features(), before)


def damaged(values, kind):
    name = next(iter(values))
    match kind:
        case "missing":
            del values[name]
        case "unknown":
            values["scan"] = np.zeros(3, np.float32)
        case "shape":
            values[name] = values[name][:-1]
        case "dtype":
            values[name] = values[name].astype(np.float64)
        case "nan":
            values[name].flat[0] = np.nan
    return values


@pytest.mark.parametrize("kind", ["missing", "unknown", "shape", "dtype", "nan"])
def test_tensors_that_do_not_fit_are_refused_and_change_nothing(network, kind):
    before = network.trainables()
    with pytest.raises(SchemaError):
        network.load(damaged(MediClip(tiny_backbone(), tiny_recipe()).initialise(8).trainables(), kind))
    after = network.trainables()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def row(**changes):
    return json.dumps([{"name": "a", "shape": [2, 3], "dtype": "float32"} | changes])


@pytest.mark.parametrize(
    "text",
    [
        "", "{}", "[]", "5", '""', "[1]", '[{"name": "a"}]', "[" * 100_000,
        row(dtype="float16"), row(shape=[0]), row(shape=[-1]), row(shape=[1.5]), row(shape=[True]),
        row(shape="12"), row(name=3), row(mode="wb"), row()[:-1] + ", " + row()[1:],
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_a_text_that_is_no_schema_is_refused(text):
    with pytest.raises(SchemaError):
        Schema.from_json(text)


@pytest.mark.parametrize("taps", [(), (0,), (10,), (2, 2), (3, 1)])
def test_taps_outside_the_tower_are_refused(taps):
    with pytest.raises(TapError, match=r"\[1, 9\]"):
        MediClip(tiny_backbone(), tiny_recipe(), taps)


def test_another_image_size_than_the_backbones_is_refused():
    with pytest.raises(SettingsError, match="224 px"):
        MediClip(tiny_backbone(), load_recipe("default"))


def test_networks_on_one_backbone_share_it_and_do_not_own_it(network):
    other = MediClip(tiny_backbone(), tiny_recipe())
    assert other.backbone is network.backbone
    assert all("backbone" not in name for name in network.state_dict())
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())


def test_the_trainables_are_copies_in_the_schemas_order(network):
    values = network.trainables()
    assert list(values) == [t.name for t in network.schema.tensors]
    for value in values.values():
        value.fill(9)
    assert all(abs(value).max() < 9 for value in network.trainables().values())


@pytest.mark.filterwarnings("error")
def test_tensors_that_cannot_be_written_to_are_loaded_without_a_warning_or_an_alias(network):
    values = MediClip(tiny_backbone(), tiny_recipe()).initialise(8).trainables()
    for value in values.values():
        value.flags.writeable = False
    network.load(values)
    network.load({name: np.asfortranarray(value) for name, value in values.items()})
    assert all(np.array_equal(values[name], value) for name, value in network.trainables().items())


@pytest.mark.parametrize("foreach", [True, False])
def test_text_features_follow_an_optimiser_and_replaced_data(network, foreach):
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1, foreach=foreach)
    with torch.no_grad():
        first = network.text_features()
    network.text_features().sum().backward()
    optimiser.step()
    with torch.no_grad():
        second = network.text_features()
        context = network.prompt.abnormal["end"]
        context.data = context.data + 0.5
        third = network.text_features()
    with torch.enable_grad():
        fresh = network.text_features()
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    assert torch.allclose(third, fresh, atol=1e-6)


def plain_upsampling(grid, size):
    """Bilinear with aligned corners, pixel by pixel."""
    height, width = grid.shape
    out = np.empty((size, size))
    for row in range(size):
        for column in range(size):
            y, x = row * (height - 1) / (size - 1), column * (width - 1) / (size - 1)
            top, left = min(int(y), height - 2), min(int(x), width - 2)
            dy, dx = y - top, x - left
            corners = grid[top : top + 2, left : left + 2]
            weights = np.outer([1 - dy, dy], [1 - dx, dx])
            out[row, column] = (corners * weights).sum()
    return out


def test_every_pixel_of_the_map_agrees_with_plain_numpy():
    rng = np.random.default_rng(4)
    adapted = rng.standard_normal((2, 1, 3, 4, 5))
    adapted /= np.linalg.norm(adapted, axis=-1, keepdims=True)
    text = rng.standard_normal((5, 2))
    text /= np.linalg.norm(text, axis=0)
    cosines = np.mean([layer[0] @ text for layer in adapted], axis=0)
    normal, abnormal = (plain_upsampling(cosines[..., k], 11) for k in range(2))
    expected = np.exp(abnormal) / (np.exp(normal) + np.exp(abnormal))
    found = class_probabilities([torch.from_numpy(a) for a in adapted], torch.from_numpy(text), 11)
    assert np.allclose(found[0, 1].numpy(), expected, atol=1e-12)
    assert np.allclose(found.sum(1).numpy(), 1, atol=1e-12)


def test_an_adapted_token_has_length_one_and_a_zero_token_stays_finite(network):
    tokens = [t * 0 for t in network.tokens(images())]
    with torch.no_grad():
        for linear in network.adapter.values():
            linear.bias.zero_()
        assert all(torch.isfinite(t).all() for t in network.adapter(tokens))
        found = network.adapter(network.tokens(images()))
    assert all(torch.allclose(t.norm(dim=-1), torch.ones(()), atol=1e-5) for t in found)


def test_the_map_of_an_image_does_not_depend_on_its_neighbours_in_the_batch(network):
    with torch.no_grad():
        together = network(images(3))
        apart = torch.cat([network(image[None]) for image in images(3)])
    assert torch.allclose(together, apart, atol=1e-6)


@pytest.mark.parametrize(("rank", "size"), [(0, 12_288), (1, 12_288 + 5_376), (4, 12_288 + 4 * 5_376)])
def test_a_reduced_set_has_the_stated_size_for_vit_l_14(rank, size):
    prompts = load_recipe("reference").prompts.model_copy(update={"class_specific": False})
    schema = schema_for(BackboneShapes(1024, 768, 768), (12, 18, 24), prompts, adapter_rank=rank)
    assert schema.size() == size


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_a_low_rank_adapter_is_its_base_and_a_product_and_starts_at_the_base(rank):
    recipe = tiny_recipe().model_copy(update={"adapter_rank": rank})
    made = MediClip(tiny_backbone(), recipe).initialise(3)
    assert list(made.trainables()) == [t.name for t in made.schema.tensors]
    linear, tokens = made.adapter[str(made.taps[0])], torch.randn(2, 3, 3, tiny_backbone().shapes.width)
    assert torch.allclose(linear(tokens), tokens @ linear.base.T, atol=1e-6)
    if rank:
        with torch.no_grad():
            linear.up.normal_()
        whole = linear.base + linear.up @ linear.down
        assert torch.allclose(linear(tokens), tokens @ whole.T, atol=1e-5)


def test_the_fixed_part_of_an_adapter_is_the_same_everywhere_and_does_not_travel():
    made = [
        MediClip(tiny_backbone(), tiny_recipe().model_copy(update={"adapter_rank": 1})).initialise(seed)
        for seed in (1, 2)
    ]
    tap = str(made[0].taps[0])
    assert torch.equal(made[0].adapter[tap].base, made[1].adapter[tap].base)
    assert not any("base" in name for name in made[0].state_dict())
