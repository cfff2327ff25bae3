"""The trained model as a folder: open_clip's layout in half precision, its recipe and a model card."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from mediclip.model.backbone import OPENAI_MEAN, OPENAI_STD, Backbone
from mediclip.model.backbone_loading import load_backbone
from mediclip.training.checkpoint import versions, write_atomically
from simulation.pretraining.judge import ZeroShot
from simulation.pretraining.settings import PretrainSettings

WEIGHTS = "open_clip_model.safetensors"
CONFIG = "open_clip_config.json"
RECIPE = "pretraining.json"
CARD = "MODEL_CARD.md"


def write_weights(directory: Path, weights: dict[str, Tensor], settings: PretrainSettings) -> Backbone:
    """Write weights and configuration so that open_clip reads them, and load them back.

    Args:
        directory: Folder to write into.
        weights: The CLIP's state dictionary.
        settings: The run that made them.

    Returns:
        The backbone as whoever gets the folder has it: float32 values that fit into float16.
    """
    directory.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in weights.items() if name != "attn_mask"}
    halves = {
        name: np.ascontiguousarray(value.cpu().to(torch.float16).numpy()) for name, value in kept.items()
    }
    config = {
        "model_cfg": settings.model_cfg(),
        "preprocess_cfg": {"mean": list(OPENAI_MEAN), "std": list(OPENAI_STD)},
    }
    write_atomically(directory / WEIGHTS, save(halves))
    write_atomically(directory / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return load_backbone(f"local-dir:{directory}")


def write_card(
    directory: Path, backbone: Backbone, settings: PretrainSettings, results: Sequence[ZeroShot], corpus: str
) -> None:
    """Write the recipe and the model card.

    Args:
        directory: Folder of the weights.
        backbone: What :func:`write_weights` returned.
        settings: The run.
        results: Zero-shot results.
        corpus: SHA-256 of the corpus.
    """
    facts: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "sha256": backbone.sha256,
        "corpus_sha256": corpus,
        "versions": versions(),
        "zero_shot": {
            r.organ: {
                "image_auroc": round(r.image_auroc, 4),
                "map_auroc": round(r.map_auroc, 4),
                "pixel_auroc": round(r.pixel_auroc, 4),
            }
            for r in results
        },
    }
    write_atomically(directory / RECIPE, (json.dumps(facts, indent=2) + "\n").encode())
    template = (resources.files("simulation") / "pretraining" / "card.md.jinja").read_text("utf-8")
    image = sum(p.numel() for p in backbone.visual.parameters())
    table = backbone.text.token_embedding.weight.numel()
    text = jinja2.Template(template, keep_trailing_newline=True, autoescape=False).render(
        facts=facts,
        settings=settings,
        results=results,
        image_millions=f"{image / 1e6:.1f}",
        table_millions=f"{table / 1e6:.1f}",
        megabytes=f"{(directory / WEIGHTS).stat().st_size / 1e6:.1f}",
    )
    write_atomically(directory / CARD, text.encode())
