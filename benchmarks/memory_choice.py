"""Chooses the settings of a site's memory on drawn scans, so that no real test label has a part in it.

    python -m benchmarks.memory_choice --backbone local-dir:DIR --taps 6,9,12 --out DIR

Phantoms of five organs, each with its own kinds of findings, stand in for other sets: the memory alone is
judged, without a text map, on every combination in turn that differs from the recipe in one setting.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import torch

from mediclip.config import load_recipe
from mediclip.data.manifest import open_dataset
from mediclip.data.preprocess import Preprocess, load_images
from mediclip.data.support import draw_support
from mediclip.evaluation.image_metrics import image_auroc
from mediclip.evaluation.pixel_metrics import PixelMetrics
from mediclip.model.backbone_loading import load_backbone
from mediclip.model.known_tokens import KnownTokens
from mediclip.model.memory import build_memory
from mediclip.model.network import MediClip
from simulation.phantom import write_phantom_set

ORGANS: Final = ("brain", "chest", "breast", "abdomen", "retina")
TEST: Final = 30
SHARE: Final = "top_share"
CHANGES: Final[tuple[Mapping[str, Any], ...]] = (
    {},
    {"diffuse_tokens": 0},
    {"diffuse_tokens": 256},
    {"diffuse_tokens": 4096},
    {"neighbourhood": 3},
    {"neighbourhood": 5},
    {"radius": 0},
    {"radius": 2},
    {"smoothing": 0.0},
    {"smoothing": 1.4},
    {SHARE: 0.0},
    {SHARE: 0.01},
    {SHARE: 0.1},
)


def measure(
    folder: Path, network: MediClip, *, shots: int, seeds: Sequence[int]
) -> dict[str, list[tuple[float, float]]]:
    """Give image and pixel AUROC of each change on one set, a pair for each seed."""
    dataset, preprocess = open_dataset(folder), Preprocess(network.recipe.image_size, network.recipe.policies)
    labels = [sample.label for sample in dataset.test]
    with torch.inference_mode():
        images = torch.from_numpy(load_images(dataset.test, preprocess))
        parts = [network.tokens(images[i : i + 16]) for i in range(0, len(images), 16)]
        tokens = [torch.cat([part[tap] for part in parts]) for tap in range(len(network.taps))]
        margin = torch.zeros(tokens[0].shape[:3])
    masks = np.stack([preprocess.load_mask(sample) for sample in dataset.test])
    found: dict[str, list[tuple[float, float]]] = {}
    known: dict[bytes, list[torch.Tensor]] = {}
    memory = network.recipe.memory
    if memory is None:
        return found
    for seed in seeds:
        support = load_images(draw_support(dataset.train, shots, seed), preprocess)
        for change in CHANGES:
            settings = {"text_weight": 0.0, "views": 0} | {k: v for k, v in change.items() if k != SHARE}
            recipe = network.recipe.model_copy(
                update={
                    "memory": memory.model_copy(update=settings),
                    SHARE: change.get(SHARE, network.recipe.top_share),
                }
            )
            built = build_memory(KnownTokens(network, recipe, known), support, seed=seed)
            with torch.inference_mode():
                said = built.judge(tokens, margin, network.recipe.image_size)
            pixels = PixelMetrics()
            pixels.update(said.maps.numpy(), masks)
            pair = image_auroc(np.array(labels), said.scores.numpy()), pixels.pixel_auroc()
            both = tuple(float("nan") if value is None else value for value in pair)
            found.setdefault(json.dumps(change), []).append((both[0], both[1]))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the sets that are not there yet, measure, and print a table.

    Args:
        arguments: What stands after the program's name; the process's own when omitted.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_choice")
    parser.add_argument("--backbone", required=True, metavar="SPEC")
    parser.add_argument("--taps", default=None)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    asked = parser.parse_args(arguments)
    taps = None if asked.taps is None else tuple(map(int, asked.taps.split(",")))
    recipe = load_recipe("default")
    network = MediClip(load_backbone(asked.backbone, image_size=recipe.image_size), recipe, taps)
    columns: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for organ in ORGANS:
        folder = asked.out / organ
        if not folder.exists():
            write_phantom_set(
                folder, organ=organ, seed=0, train_normal=24, test_normal=TEST, test_abnormal=TEST, size=224
            )
        seeds = [int(seed) for seed in asked.seeds.split(",")]
        columns[organ] = measure(folder, network, shots=asked.shots, seeds=seeds)
        print(organ, "done", flush=True)  # noqa: T201
    for which, metric in enumerate(("image AUROC", "pixel AUROC")):
        lines = [f"| {metric} | {' | '.join(ORGANS)} | mean |", "|---|" + "---|" * (len(ORGANS) + 1)]
        for change in map(json.dumps, CHANGES):
            means = [fmean(pair[which] for pair in columns[organ][change]) for organ in ORGANS]
            cells = " | ".join(f"{mean:.3f}" for mean in means)
            lines.append(f"| {change} | {cells} | {fmean(means):.3f} |")
        print("\n".join(lines), end="\n\n")  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
