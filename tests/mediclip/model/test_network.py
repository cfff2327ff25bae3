"""The detector against plain formulas, and what its state promises."""

import numpy as np
import pytest
import torch

from mediclip.config import load_recipe
from mediclip.errors import SchemaError, SettingsError, TapError
from mediclip.model.anomaly_map import image_score
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


@pytest.mark.parametrize("text", ["", "{}", "[1]", '[{"name": "a"}]'])
def test_a_text_that_is_no_schema_is_refused(text):
    if text == "{}":
        assert Schema.from_json(text) == Schema(())
        return
    with pytest.raises(SchemaError):
        Schema.from_json(text)


@pytest.mark.parametrize("taps", [(), (0,), (5,), (2, 2), (3, 1)])
def test_taps_outside_the_tower_are_refused(taps):
    with pytest.raises(TapError, match=r"\[1, 4\]"):
        MediClip(tiny_backbone(), tiny_recipe(), taps)


def test_another_image_size_than_the_backbones_is_refused():
    with pytest.raises(SettingsError, match="224 px"):
        MediClip(tiny_backbone(), load_recipe("default"))


def test_networks_on_one_backbone_share_it_and_do_not_own_it(network):
    other = MediClip(tiny_backbone(), tiny_recipe())
    assert other.backbone is network.backbone
    assert all("backbone" not in name for name in network.state_dict())
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())
