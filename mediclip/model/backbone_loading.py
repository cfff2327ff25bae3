"""Find a backbone's weights: at a tag, in a file, in a folder or in this package.

A backbone is named by a *spec*:

    embedded                    the compact CLIP inside this package, pretrained on generated images alone
    local-dir:FOLDER            open_clip_config.json and a weights file, for machines without a network
    NAME:TAG                    an open_clip model and pretrained tag, downloaded by open_clip
    NAME:FILE                   an open_clip model and a checkpoint file; OpenAI's weights were trained with
                                QuickGELU, which a file cannot say: name ViT-L-14-quickgelu for them
    NAME:random                 the architecture with seeded random weights, for measuring speed and what
                                weights are worth; embedded:random too
"""

import json
import warnings
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.model import CLIP, resize_pos_embed
from safetensors.torch import load
from torch import Tensor

from mediclip.errors import BackboneError, SettingsError
from mediclip.model.backbone import OPENAI_MEAN, OPENAI_STD, Backbone

EMBEDDED = "embedded"
_RANDOM_SEED = 2405_11315


def load_backbone(
    spec: str,
    *,
    image_size: int | None = None,
    expected_sha256: str | None = None,
    device: str = "cpu",
) -> Backbone:
    """Load a backbone.

    Args:
        spec: ``embedded``, ``local-dir:FOLDER``, ``NAME:TAG``, ``NAME:FILE``, ``NAME:random`` or
            ``embedded:random``.
        image_size: Side of the input in pixels; position embeddings are resized when it differs from the
            model's own.
        expected_sha256: Digest that the loaded backbone must have.
        device: Torch device name.

    Returns:
        The frozen backbone.

    Raises:
        BackboneError: If it cannot be found or loaded, is no ViT, or has another digest.
        SettingsError: If torch cannot use the device.
    """
    own = spec in {EMBEDDED, f"{EMBEDDED}:random"}
    backbone = _embedded(spec, image_size) if own else _from_open_clip(spec, image_size)
    if expected_sha256 is not None and backbone.sha256 != expected_sha256:
        message = (
            f"The backbone must have the SHA-256 {expected_sha256[:16]}…. {backbone.name} has "
            f"{backbone.sha256[:16]}…; point --backbone at the weights that the model was made with."
        )
        raise BackboneError(message)
    try:
        return backbone.to(device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA raises the latter
        message = (
            f"The device must be one that torch can use here, such as 'cpu'. It cannot use {device!r}; "
            "name another."
        )
        raise SettingsError(message) from error


def _from_open_clip(spec: str, image_size: int | None) -> Backbone:
    name, _, source = spec.partition(":")
    if not source:
        message = (
            "A backbone must be 'embedded', 'local-dir:FOLDER', 'NAME:TAG' or 'NAME:FILE'. "
            f"Got {spec!r}; add what comes after the colon, for example ViT-L-14:openai."
        )
        raise BackboneError(message)
    options: dict[str, Any] = {"force_image_size": image_size}
    if name == "local-dir":
        options["model_name"] = spec
        options["require_pretrained"] = True
    else:
        if name not in open_clip.list_models():
            message = (
                "A backbone's name must be an open_clip model, or 'embedded' alone or with ':random'. "
                f"Got {spec!r}; see open_clip.list_models()."
            )
            raise BackboneError(message)
        options["model_name"] = name
        options |= _weights_of(name, source)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.default_generator.manual_seed(_RANDOM_SEED)  # manual_seed would reach the GPUs' too
            clip = open_clip.create_model(**options)
    except Exception as error:  # open_clip raises whatever its many readers raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        message = (
            f"The backbone {spec!r} must be loadable by open_clip. It is not: {reason}. Correct the spec."
        )
        raise BackboneError(message) from error
    config = getattr(clip.visual, "preprocess_cfg", {})
    return Backbone(clip, spec=spec, mean=config.get("mean", OPENAI_MEAN), std=config.get("std", OPENAI_STD))


def _weights_of(name: str, source: str) -> dict[str, Any]:
    if source == "random":
        return {"pretrained": None}
    if Path(source).is_file():
        return {"pretrained": source, "require_pretrained": True}
    tags = open_clip.list_pretrained_tags_by_model(name)
    if source not in tags:
        message = (
            f"The weights of {name} must be a file or one of the tags {', '.join(tags) or '(none)'}. "
            f"Got {source!r}; choose one."
        )
        raise BackboneError(message)
    quick = bool(open_clip.get_pretrained_cfg(name, source).get("quick_gelu", False))
    return {"pretrained": source, "require_pretrained": True, "force_quick_gelu": quick}


def backbone_from_weights(
    model_cfg: Mapping[str, Any], weights: Mapping[str, Tensor], *, spec: str
) -> Backbone:
    """Build a backbone from an open_clip configuration and a state dictionary.

    Args:
        model_cfg: ``embed_dim``, ``vision_cfg``, ``text_cfg`` and, if used, ``quick_gelu``.
        weights: Tensors by open_clip's names; the temperature may be absent.
        spec: What to call it.

    Returns:
        The frozen backbone, with CLIP's own mean and std.

    Raises:
        BackboneError: If the weights do not fit the configuration.
    """
    try:
        with torch.random.fork_rng(devices=[]):
            clip = CLIP(**model_cfg)
        found = clip.load_state_dict(dict(weights), strict=False)
    except Exception as error:  # open_clip asserts, divides and looks up without a check of its own
        message = f"The weights of {spec} must fit its model_cfg. They do not; use those that belong to it."
        raise BackboneError(message) from error
    absent = [name for name in found.missing_keys if name != "logit_scale"]
    if absent or found.unexpected_keys:
        message = (
            f"The weights of {spec} must fit its model_cfg. Missing: {absent[:3]}; unknown: "
            f"{found.unexpected_keys[:3]}; use those that belong to it."
        )
        raise BackboneError(message)
    return Backbone(clip, spec=spec)


def _embedded(spec: str, image_size: int | None) -> Backbone:
    folder = resources.files("mediclip") / "model" / "embedded"
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
    if spec == EMBEDDED:
        stored = load((folder / "open_clip_model.safetensors").read_bytes())
        weights = {name: value.float() for name, value in stored.items()}
    else:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(_RANDOM_SEED)
            weights = CLIP(**config).state_dict()
    if image_size is not None and image_size != config["vision_cfg"]["image_size"]:
        config["vision_cfg"]["image_size"] = image_size
        with torch.device("meta"):
            resize_pos_embed(weights, CLIP(**config))
    return backbone_from_weights(config, weights, spec=spec)
