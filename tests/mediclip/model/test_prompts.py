"""Prompts against a plain construction, token by token."""

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
