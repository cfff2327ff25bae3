"""Prompts against a plain construction, token by token."""

import numpy as np
import pytest
import torch

from mediclip.config import CLASSES, load_recipe
from mediclip.errors import PromptError
from mediclip.model.network import MediClip
from mediclip.model.prompts import ClassPrompts
from tests.tiny import SIZE, tiny_backbone

PHRASES = {"normal": ("healthy", "no evidence of disease"), "abnormal": ("lesion",)}


def recipe_with(*, causal=True, trim=False, **prompts):
    base = load_recipe("reference")
    settings = base.prompts.model_copy(update=PHRASES | {"n_ctx": 3} | prompts)
    return base.model_copy(
        update={"image_size": SIZE, "prompts": settings, "causal_text": causal, "trim_text": trim}
    )


def plain_sequence(backbone, phrase, context, position):
    start, end = (backbone.embed(torch.tensor([[i]]))[0, 0] for i in backbone.start_and_end)
    words = [backbone.embed(torch.tensor([[i]]))[0, 0] for i in backbone.token_ids(phrase)]
    stop = [backbone.embed(torch.tensor([[i]]))[0, 0] for i in backbone.token_ids(".")]
    half = len(context) // 2
    middle = {
        "end": [*context, *words],
        "middle": [*context[:half], *words, *context[half:]],
        "front": [*words, *context],
    }[position]
    padding = backbone.embed(torch.tensor([[0]]))[0, 0]
    row = [start, *middle, *stop, end]
    return torch.stack(row + [padding] * (backbone.context_length - len(row))), len(row) - 1


def plain_text_features(network):
    backbone, settings = network.backbone, network.recipe.prompts
    columns = []
    for name in CLASSES:
        features = []
        for position in settings.positions:
            for index, phrase in enumerate(settings.phrases(name)):
                context = network.prompt[name][position].detach()
                own = context[index] if context.ndim == 3 else context
                row, end = plain_sequence(backbone, phrase, list(own), position)
                features.append(
                    backbone.encode_embedded_text(
                        row[None], torch.tensor([end]), causal=network.recipe.causal_text
                    )[0]
                )
        columns.append(torch.nn.functional.normalize(torch.stack(features).mean(0), dim=0))
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("class_specific", [True, False])
@pytest.mark.parametrize("positions", [("end",), ("middle",), ("front",), ("front", "middle", "end")])
@pytest.mark.parametrize("n_ctx", [2, 3])
def test_text_features_agree_with_a_plain_construction(positions, class_specific, causal, n_ctx):
    recipe = recipe_with(causal=causal, positions=positions, class_specific=class_specific, n_ctx=n_ctx)
    network = MediClip(tiny_backbone(), recipe).initialise(3)
    with torch.no_grad():
        assert torch.allclose(network.text_features(), plain_text_features(network), atol=1e-6)


@pytest.mark.parametrize("positions", [("end",), ("front", "middle", "end")])
def test_trimming_changes_no_number_under_the_causal_mask(positions):
    whole = MediClip(tiny_backbone(), recipe_with(positions=positions)).initialise(1)
    trimmed = MediClip(tiny_backbone(), recipe_with(positions=positions, trim=True)).initialise(1)
    with torch.no_grad():
        assert torch.allclose(whole.text_features(), trimmed.text_features(), atol=1e-6)


def test_the_published_text_tower_without_its_mask_is_another_model():
    masked = MediClip(tiny_backbone(), recipe_with(causal=True)).initialise(1)
    published = MediClip(tiny_backbone(), recipe_with(causal=False)).initialise(1)
    with torch.no_grad():
        assert (masked.text_features() - published.text_features()).abs().max() > 1e-3


def test_gradients_reach_every_context_vector_and_nothing_else():
    recipe = recipe_with(positions=("front", "end"))
    network = MediClip(tiny_backbone(), recipe).initialise(1)
    network.text_features()[0, 0].backward()
    for name, parameter in network.prompt.normal.named_parameters():
        assert parameter.grad.abs().flatten(-2).sum(-1).min() > 0, name
    assert all(parameter.grad is None for parameter in network.backbone.parameters())


def test_a_phrase_that_does_not_fit_is_named_by_its_index():
    long = ("short", "very " * 80)
    settings = load_recipe("reference").prompts.model_copy(update={"normal": long})
    with pytest.raises(PromptError, match="Phrase 1 needs 91"):
        ClassPrompts(tiny_backbone(), settings, "normal", trim=False)


@pytest.mark.parametrize("length", [1, 8])
def test_shared_context_gives_what_equal_context_of_each_phrase_gives(length):
    shared = MediClip(tiny_backbone(), recipe_with(class_specific=False, n_ctx=length)).initialise(2)
    own = MediClip(tiny_backbone(), recipe_with(class_specific=True, n_ctx=length))
    values = shared.trainables()
    for name, count in (("normal", 2), ("abnormal", 1)):
        key = f"prompt.{name}.end"
        values[key] = np.repeat(values[key][None], count, axis=0)
    own.load(values)
    with torch.no_grad():
        assert torch.allclose(shared.text_features(), own.text_features(), atol=1e-6)


def test_a_trimmed_tower_sees_no_more_than_the_longest_prompt():
    network = MediClip(tiny_backbone(), recipe_with(trim=True))
    # start, 3 context vectors, "no evidence of disease", full stop, end
    assert max(p.trimmed_length for p in network.prompt.values()) == 1 + 3 + 4 + 1 + 1
    assert all(p.embeddings_end.shape[1] == p.trimmed_length for p in network.prompt.values())


def test_without_the_mask_the_padding_takes_part_so_the_length_counts():
    backbone = tiny_backbone()
    row, end = plain_sequence(backbone, "lesion", [torch.ones(backbone.shapes.text_width)], "end")
    both = {}
    for causal in (True, False):
        whole, cut = (
            backbone.encode_embedded_text(part[None], torch.tensor([end]), causal=causal)
            for part in (row, row[: end + 1])
        )
        both[causal] = float((whole - cut).abs().max())
    assert both[True] < 1e-6
    assert both[False] > 1e-3


def test_positions_average_features_before_the_normalisation():
    """Several positions are the mean of their features, which is not the mean of their columns."""
    network = MediClip(tiny_backbone(), recipe_with(positions=("front", "end"))).initialise(3)
    with torch.no_grad():
        columns = network.text_features()
    assert torch.allclose(columns.norm(dim=0), torch.ones(2), atol=1e-6)
    assert network.schema.size() == sum(p.numel() for p in network.parameters())
