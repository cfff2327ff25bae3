"""Checks this implementation, number by number, against a folder of golden numbers.

A case folder holds ``case.json`` (model configuration, taps, phrases, context), ``clip.safetensors`` (the
CLIP's weights) and ``golden.safetensors`` (inputs, intermediate values, gradients and a short training of
the published code).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mediclip.config import CLASSES, PromptSettings, Recipe, Settings
from mediclip.errors import BackboneError, PromptError, SettingsError, TapError, VerificationError
from mediclip.model.anomaly_map import image_score
from mediclip.model.backbone import Backbone, backbone_from_weights
from mediclip.model.network import MediClip
from mediclip.training.losses import anomaly_loss, dice_loss, focal_loss

TOLERANCES = {
    "tokens": 1e-4,
    "adapted": 1e-5,
    "text_features": 1e-5,
    "anomaly_probability": 1e-5,
    "image_score": 1e-5,
    "loss": 1e-5,
    "grad": 1e-3,
    "trajectory": 1e-5,
    "final": 1e-4,
}


class AdamCase(Settings):
    """Adam's settings in a case."""

    lr: float
    betas: tuple[float, float]


class Case(Settings):
    """What ``case.json`` holds; keys beyond these are notes for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_cfg: dict[str, Any]
    layers: tuple[int, ...]
    prompts: dict[str, tuple[str, ...]]
    n_ctx: int
    class_specific_context: bool
    class_token_positions: tuple[str, ...]
    adam: AdamCase
    steps: int

    def recipe(self, image_size: int) -> Recipe:
        """Give the recipe that the published code follows in this case."""
        prompts = {
            **self.prompts,
            "n_ctx": self.n_ctx,
            "class_specific": self.class_specific_context,
            "positions": self.class_token_positions,
        }
        values = {
            "name": "case",
            "image_size": image_size,
            "prompts": PromptSettings.parse(prompts, source="case.json"),
            "tasks": {"identity": 1.0},
            "learning_rate": self.adam.lr,
            "betas": self.adam.betas,
        }
        return Recipe.parse(values, source="case.json")


class Golden(dict[str, Tensor]):
    """Golden numbers by name; one that is asked for and absent is an error that names it."""

    def __missing__(self, name: str) -> Tensor:
        message = f"A case must hold the golden number {name!r}. It does not; write the case again."
        raise VerificationError(message)


@dataclass(frozen=True)
class Deviation:
    """How far one quantity is from its golden number.

    Attributes:
        name: Name of the quantity.
        largest: Largest absolute difference; for gradients as a share of the largest golden value.
        tolerance: What is allowed.
    """

    name: str
    largest: float
    tolerance: float

    @property
    def is_within(self) -> bool:
        """Whether the difference is allowed; NaN never is."""
        return self.largest <= self.tolerance


def verify_case(directory: Path) -> list[Deviation]:
    """Compute everything that a case has golden numbers for.

    Args:
        directory: Folder with ``case.json``, ``clip.safetensors`` and ``golden.safetensors``.

    Returns:
        One deviation a quantity.

    Raises:
        VerificationError: If the folder is no case, or lacks a golden number.
    """
    case, clip, golden = _read(directory)
    image = golden["input.image"]
    backbone = _backbone(case, clip, image.shape[-1])
    try:
        network = MediClip(backbone, case.recipe(image.shape[-1]), case.layers)
    except (PromptError, SettingsError, TapError) as error:
        raise VerificationError(str(error)) from error
    names = _golden_names(case)
    _load(network, golden, names, prefix="init")
    return [
        *_forward(network, golden, image),
        *_gradients(network, golden, image, names),
        *_training(network, golden, image, names, steps=case.steps),
    ]


def _read(directory: Path) -> tuple[Case, dict[str, Tensor], Golden]:
    try:
        text = (directory / "case.json").read_text(encoding="utf-8")
        case = Case.model_validate(json.loads(text))
        clip = {k: v.float() for k, v in load_file(directory / "clip.safetensors").items()}
        golden = Golden(load_file(directory / "golden.safetensors"))
    except (OSError, ValueError, ValidationError, SafetensorError) as error:
        message = (
            "A case must be a folder with case.json, clip.safetensors and golden.safetensors. "
            f"Got one that cannot be read ({type(error).__name__}); check the folder."
        )
        raise VerificationError(message) from error
    return case, clip, golden


def _backbone(case: Case, weights: Mapping[str, Tensor], image_size: int) -> Backbone:
    try:
        backbone = backbone_from_weights(case.model_cfg, weights, spec="case")
    except BackboneError as error:
        raise VerificationError(str(error)) from error
    if backbone.image_size != image_size:
        message = (
            f"The case's images must be {backbone.image_size} px, as its model_cfg says. "
            f"They are {image_size} px; write the case again."
        )
        raise VerificationError(message)
    return backbone


def _golden_names(case: Case) -> dict[str, str]:
    """Map our names of the trainables to the published code's."""
    names = {}
    for index, tap in enumerate(case.layers):
        for part in ("weight", "bias"):
            names[f"adapter.{tap}.{part}"] = f"adapter.{index}_adapter.0.{part}"
    for position in case.class_token_positions:
        for name in CLASSES:
            names[f"prompt.{name}.{position}"] = f"prompt.ctx.{name}_{position}"
    return names


def _load(network: MediClip, golden: Golden, names: Mapping[str, str], *, prefix: str) -> None:
    shapes = {t.name: t.shape for t in network.schema.tensors}
    network.load(
        {ours: golden[f"{prefix}.{theirs}"].reshape(shapes[ours]).numpy() for ours, theirs in names.items()}
    )


def _forward(network: MediClip, golden: Golden, image: Tensor) -> list[Deviation]:
    found = []
    with torch.no_grad():
        tokens = network.backbone.patch_tokens(image, network.taps)
        adapted = network.adapter(tokens)
        text = network.text_features()
        probabilities = network.probabilities(tokens)
    for tap, value, mapped in zip(network.taps, tokens, adapted, strict=True):
        found.append(_compare(f"tokens.{tap}", value.flatten(1, 2), golden[f"tokens.{tap}"][:, 1:]))
        if f"adapted.{tap}" in golden:
            found.append(_compare(f"adapted.{tap}", mapped, golden[f"adapted.{tap}"]))
    found.append(_compare("text_features", text, golden["text_features"]))
    found.append(_compare("anomaly_probability", probabilities[:, 1], golden["anomaly_probability"]))
    found.append(_compare("image_score", image_score(probabilities[:, 1]), golden["image_score"]))
    for group, label in (("loss", "input.mask"), ("loss_soft", "input.soft_mask")):
        focal = focal_loss(probabilities, golden[label])
        dice = dice_loss(probabilities[:, 1], golden[label])
        found.append(_compare(f"{group}.focal", focal, golden[f"{group}.focal"]))
        found.append(_compare(f"{group}.dice", dice, golden[f"{group}.dice"]))
    return found


def _gradients(network: MediClip, golden: Golden, image: Tensor, names: Mapping[str, str]) -> list[Deviation]:
    tokens = network.backbone.patch_tokens(image, network.taps)
    loss = anomaly_loss(network.probabilities(tokens), golden["input.soft_mask"])
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
    found = []
    for (ours, theirs), gradient in zip(names.items(), gradients, strict=True):
        expected = golden[f"grad.{theirs}"]
        scale = float(expected.abs().max()) or 1.0
        found.append(_compare(f"grad.{ours}", gradient, expected, scale=scale))
    return found


def _training(
    network: MediClip, golden: Golden, image: Tensor, names: Mapping[str, str], *, steps: int
) -> list[Deviation]:
    recipe = network.recipe
    optimiser = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=recipe.betas)
    tokens = network.backbone.patch_tokens(image, network.taps)
    losses = []
    for _ in range(steps):
        loss = anomaly_loss(network.probabilities(tokens), golden["input.soft_mask"])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
    found = [_compare("trajectory.loss", torch.stack(losses), golden["trajectory.loss"])]
    for name, value in network.named_parameters():
        found.append(_compare(f"final.{name}", value.detach(), golden[f"final.{names[name]}"]))
    return found


def _compare(name: str, value: Tensor, golden: Tensor, *, scale: float = 1.0) -> Deviation:
    kind = name.split(".", 1)[0].removesuffix("_soft")
    if value.numel() != golden.numel():
        message = f"{name} must have {golden.numel()} values. Got {value.numel()}; check the case's settings."
        raise VerificationError(message)
    difference = (value.double() - golden.double().reshape(value.shape)).abs().max()
    return Deviation(name, float(difference) / scale, TOLERANCES[kind])
