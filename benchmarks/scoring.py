"""What adapters, map and score add to the image tower, and what bfloat16 saves."""

from functools import partial

import torch

from benchmarks._shapes import SHAPES, backbone_of, draw_images
from benchmarks.harness import Benchmark, Outcome, compare, rounded
from mediclip.config import load_recipe
from mediclip.model.network import MediClip


def _measure(shape: str, *, quick: bool) -> Outcome:
    torch.set_num_threads(1)
    backbone = backbone_of(shape)
    network = MediClip(backbone, load_recipe("default")).initialise(0)
    precision = network.recipe.precision
    details, worst = {}, 0.0
    for count in (1,) if quick else (1, 16):
        images = torch.from_numpy(draw_images(count))

        def tower(images: torch.Tensor = images) -> None:
            backbone.grey_tokens(images, network.taps, precision=precision)

        def exact(images: torch.Tensor = images) -> None:
            backbone.patch_tokens(backbone.normalise(images), network.taps)

        def whole(images: torch.Tensor = images) -> None:
            network.judge(network.tokens(images))

        with torch.inference_mode():
            repeats = 1 if quick else (3 if count > 1 and shape != "vit-tiny" else 9)
            timings = compare({"tower": tower, "whole": whole, "open_clips_tower": exact}, repeats=repeats)
        ratio = timings["whole"].cpu_s / timings["tower"].cpu_s
        worst = max(worst, ratio)
        details[f"batch_{count}"] = {"ratio": rounded(ratio)} | {n: t.as_dict() for n, t in timings.items()}
    return Outcome(worst, {"threads": 1, "precision": precision, **details})


BENCHMARKS = tuple(
    Benchmark(
        f"scoring_{shape.replace('/', '-').lower()}",
        f"tower, adapters, map and score over the tower alone, {shape} shapes, batch 1 and 16, the worse",
        target=1.1,
        unit="times the tower's CPU time",
        measure=partial(_measure, shape),
        at_most=True,
        is_cheap=shape == "vit-tiny",
    )
    for shape in SHAPES
)
