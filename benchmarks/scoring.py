"""What adapters, map, score and a site's memory add to the image tower, and what bfloat16 saves."""

from functools import partial

import torch

from benchmarks._shapes import SHAPES, backbone_of, draw_images
from benchmarks.harness import Benchmark, Outcome, compare, rounded
from mediclip.config import load_recipe
from mediclip.model.memory import build_memory
from mediclip.model.network import MediClip

_REMEMBERED = 16


def _measure(shape: str, *, with_memory: bool, quick: bool) -> Outcome:
    torch.set_num_threads(1)
    backbone = backbone_of(shape)
    network = MediClip(backbone, load_recipe("default")).initialise(0)
    if with_memory:
        network.memory = build_memory(network, draw_images(2 if quick else _REMEMBERED), seed=0)
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
        f"scoring_{'memory_' if with_memory else ''}{shape.replace('/', '-').lower()}",
        f"tower, adapters, map and score{f', with a memory of {_REMEMBERED} images,' if with_memory else ''} "
        f"over the tower alone, {shape} shapes, batch 1 and 16, the worse",
        target=1.1,
        unit="times the tower's CPU time",
        measure=partial(_measure, shape, with_memory=with_memory),
        at_most=True,
        is_cheap=shape == "vit-tiny",
    )
    for shape in SHAPES
    for with_memory in (False, True)
)
