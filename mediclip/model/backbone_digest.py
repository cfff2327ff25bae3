"""Tells backbones apart: a digest of all that decides their numbers."""

import hashlib
import json
from typing import Any

import torch

_CHUNK = 1 << 24


def backbone_digest(backbone: Any) -> str:  # noqa: ANN401 - a Backbone, whose module imports this one
    """Compute the SHA-256 of a backbone.

    Args:
        backbone: A :class:`mediclip.model.backbone.Backbone`.

    Returns:
        64 hexadecimal digits: of all weights as float32, whatever they are stored as, and of the facts that
        weights do not show. The learned temperature does not count, since nothing here uses it.
    """
    facts = {
        "visual": _block_facts(backbone.visual.transformer),
        "text": _block_facts(backbone.text.transformer),
        "image_size": backbone.image_size,
        "mean": [round(float(v), 6) for v in backbone.mean.flatten()],
        "std": [round(float(v), 6) for v in backbone.std.flatten()],
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    weights = {**backbone.visual.state_dict(prefix="visual."), **backbone.text.state_dict(prefix="text.")}
    for name in sorted(weights):
        if name.startswith(("text.visual.", "text.logit_")):
            continue
        value = weights[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(value.shape)}".encode())
        flat = value.numpy().reshape(-1).view("uint8")
        for start in range(0, len(flat), _CHUNK):
            digest.update(flat[start : start + _CHUNK].data)
    return digest.hexdigest()


def _block_facts(transformer: Any) -> dict[str, Any]:  # noqa: ANN401 - open_clip's Transformer
    """Name what decides a tower's numbers and cannot be seen in its weights."""
    block = transformer.resblocks[0]
    return {"activation": type(block.mlp.gelu).__name__, "heads": block.attn.num_heads, "eps": block.ln_1.eps}
