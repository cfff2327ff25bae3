"""Checks this implementation, number by number, against a folder of golden numbers.

A case folder holds ``case.json`` (model configuration, taps, phrases, context), ``clip.safetensors`` (the
CLIP's weights) and ``golden.safetensors`` (inputs, intermediate values, gradients and a short training of
the published code).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mediclip.config import CLASSES, PromptSettings, Recipe, Settings
from mediclip.errors import BackboneError, PromptError, SettingsError, VerificationError
from mediclip.model.anomaly_map import image_score
from mediclip.model.backbone_loading import backbone_from_weights
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
    """Adam's settings in a case; what is left out is Adam's default."""

    lr: float
    betas: tuple[float, float]
    eps: float = 1e-8
    weight_decay: float = 0.0


class Case(Settings):
    """What ``case.json`` holds; keys beyond these are notes for people."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_cfg: dict[str, Any]
    layers: Annotated[tuple[int, ...], Field(min_length=1)]
    prompts: dict[str, tuple[str, ...]]
    n_ctx: int
    class_specific_context: bool
    class_token_positions: tuple[str, ...]
    adam: AdamCase
    steps: Annotated[int, Field(ge=1)]

    def recipe(self, image_size: int) -> Recipe:
        """Give the recipe that the published code follows in this case, at whatever size it has."""
        prompts = {
            **self.prompts,
            "n_ctx": self.n_ctx,
            "class_specific": self.class_specific_context,
            "positions": self.class_token_positions,
        }
        values = {
            "name": "case",
            "prompts": PromptSettings.parse(prompts, source="case.json"),
            "tasks": {"identity": 1.0},
            "learning_rate": self.adam.lr,
            "betas": self.adam.betas,
        }
        return Recipe.parse(values, source="case.json").model_copy(update={"image_size": image_size})


class Golden(dict[str, Tensor]):
    """Golden numbers by name; one that is asked for and absent is an error that names it.

    Only ``adapted.*`` may be left out as a whole: a case that lacked anything else would seem to be verified
    and would not be.
    """

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
    try:
        backbone = backbone_from_weights(case.model_cfg, clip, spec="case")
        # The map averages over the taps, so their order does not count; ours rise.
        network = MediClip(backbone, case.recipe(backbone.image_size), sorted(case.layers))
    except (BackboneError, PromptError, SettingsError) as error:
        raise VerificationError(str(error)) from error
    image = _check_inputs(golden, backbone.image_size)
    names = _golden_names(case)
    _load(network, golden, names)
    return [
        *_forward(network, golden, image),
        *_gradients(network, golden, image, names),
        *_training(network, golden, image, names, case),
    ]


def _read(directory: Path) -> tuple[Case, dict[str, Tensor], Golden]:
    try:
        values = json.loads((directory / "case.json").read_text(encoding="utf-8"))
        clip = {k: v.float() for k, v in load_file(directory / "clip.safetensors").items()}
        golden = Golden({k: v.float() for k, v in load_file(directory / "golden.safetensors").items()})
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        message = (
            "A case must be a folder with case.json, clip.safetensors and golden.safetensors. "
            f"Got one that cannot be read ({type(error).__name__}); check the folder."
        )
        raise VerificationError(message) from error
    try:
        return Case.parse(values, source="case.json"), clip, golden
    except SettingsError as error:
        raise VerificationError(str(error)) from error


def _check_inputs(golden: Golden, size: int) -> Tensor:
    """Return the images when they and their labels are what the losses can take."""
    image = golden["input.image"]
    if image.ndim != 4 or len(image) == 0 or tuple(image.shape[1:]) != (3, size, size):
        message = (
            f"The case's input.image must be (B, 3, {size}, {size}), as its model_cfg says. "
            f"Got {tuple(image.shape)}; write the case again."
        )
        raise VerificationError(message)
    for name in ("input.mask", "input.soft_mask"):
        label = golden[name]
        is_in_range = bool(((label >= 0) & (label <= 1)).all())
        if tuple(label.shape) != (len(image), size, size) or not is_in_range:
            message = (
                f"The case's {name} must be ({len(image)}, {size}, {size}) in [0, 1]. "
                f"Got {tuple(label.shape)}{'' if is_in_range else ' with values outside'}; "
                "write the case again."
            )
            raise VerificationError(message)
    return image


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


def _load(network: MediClip, golden: Golden, names: Mapping[str, str]) -> None:
    """Load the case's start values; the published adapter is a 1x1 convolution, ours a linear map."""
    values = {}
    for spec in network.schema.tensors:
        name = f"init.{names[spec.name]}"
        value = golden[name]
        if not _is_same_shape(value.shape, spec.shape) or not bool(value.isfinite().all()):
            message = (
                f"The case's {name} must be finite and have shape {spec.shape}. "
                f"Got shape {tuple(value.shape)}; check the case's settings."
            )
            raise VerificationError(message)
        values[spec.name] = value.reshape(spec.shape).numpy()
    network.load(values)


def _forward(network: MediClip, golden: Golden, image: Tensor) -> list[Deviation]:
    found = []
    with torch.no_grad():
        tokens = network.backbone.patch_tokens(image, network.taps)
        adapted = network.adapter(tokens)
        text = network.text_features()
        probabilities = network.probabilities(tokens)
    has_adapted = any(name.startswith("adapted.") for name in golden)  # a late addition to the format
    for tap, value, mapped in zip(network.taps, tokens, adapted, strict=True):
        patches = value.flatten(1, 2)
        expected = golden[f"tokens.{tap}"]
        found.append(_compare(f"tokens.{tap}", patches, _without_class_token(f"tokens.{tap}", expected)))
        if has_adapted:
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
        found.append(_compare(f"grad.{ours}", gradient, golden[f"grad.{theirs}"], is_relative=True))
    return found


def _training(
    network: MediClip, golden: Golden, image: Tensor, names: Mapping[str, str], case: Case
) -> list[Deviation]:
    optimiser = torch.optim.Adam(network.parameters(), **case.adam.model_dump())
    tokens = network.backbone.patch_tokens(image, network.taps)
    losses = []
    for _ in range(case.steps):
        loss = anomaly_loss(network.probabilities(tokens), golden["input.soft_mask"])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.detach())
    found = [_compare("trajectory.loss", torch.stack(losses), golden["trajectory.loss"])]
    for name, value in network.named_parameters():
        found.append(_compare(f"final.{name}", value.detach(), golden[f"final.{names[name]}"]))
    return found


def _without_class_token(name: str, tokens: Tensor) -> Tensor:
    if tokens.ndim != 3:
        message = (
            f"The case's {name} must be (B, 1+N, width). Got {tuple(tokens.shape)}; write the case again."
        )
        raise VerificationError(message)
    return tokens[:, 1:]


def _compare(name: str, value: Tensor, golden: Tensor, *, is_relative: bool = False) -> Deviation:
    kind = name.split(".", 1)[0].removesuffix("_soft")
    if not _is_same_shape(value.shape, golden.shape):
        message = (
            f"The golden {name} must have shape {tuple(value.shape)}. Got {tuple(golden.shape)}; "
            "check the case's settings."
        )
        raise VerificationError(message)
    scale = (float(golden.abs().max()) or 1.0) if is_relative else 1.0
    difference = (value.double() - golden.double().reshape(value.shape)).abs().max()
    return Deviation(name, float(difference) / scale, TOLERANCES[kind])


def _is_same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Compare shapes but for sizes of 1: a number may come as (1,), the adapter as a 1x1 convolution."""
    return [size for size in one if size != 1] == [size for size in other if size != 1]
