"""The recipe ``default`` against ``reference``: CPU time for the same optimiser steps, one thread."""

from functools import partial

import numpy as np
import torch

from benchmarks._shapes import SHAPES, backbone_of, draw_images
from benchmarks.harness import Benchmark, Outcome, compare, in_fresh_process, rounded
from mediclip.config import Recipe, load_recipe
from mediclip.model.network import MediClip
from mediclip.training.batches import BatchSource, FreshBatches
from mediclip.training.loop import train
from mediclip.training.token_bank import TokenBank

SHOTS = 16


class _Trainer:
    """One network that makes one optimiser step at a call."""

    def __init__(self, shape: str, recipe: Recipe, source: BatchSource | None = None) -> None:
        self.network = MediClip(backbone_of(shape), recipe).initialise(0)
        self.support = draw_images(SHOTS)
        self.source = source or FreshBatches(self.network, self.support)
        self.number = 0

    def step(self) -> None:
        train(self.network, self.support, seed=0, steps=1, first_step=self.number, source=self.source)
        self.number += 1


def _small_bank(shape: str) -> TokenBank:
    recipe = load_recipe("default").model_copy(update={"bank_views": 1})
    return TokenBank(MediClip(backbone_of(shape), recipe), draw_images(SHOTS), seed=0)


def _compare_steps(shape: str, *, quick: bool) -> Outcome:
    torch.set_num_threads(1)
    reference, default = load_recipe("reference"), load_recipe("default")
    plain = _Trainer(shape, reference)
    bank = _small_bank(shape)
    lean = _Trainer(shape, default, bank)
    members = np.arange(default.batch_size)
    repeats = 1 if quick else (5 if shape == "vit-tiny" else 2)
    timings = compare(
        {
            "reference_step": plain.step,
            "default_step": lean.step,
            "default_8_views": lambda: bank.make(0),
        },
        repeats=repeats,
    )
    steps, groups = default.steps(SHOTS), default.bank_views * SHOTS / len(members)
    before = steps * timings["reference_step"].cpu_s
    after = steps * timings["default_step"].cpu_s + groups * timings["default_8_views"].cpu_s
    details = {name: timing.as_dict() for name, timing in timings.items()}
    return Outcome(
        before / after,
        {
            **details,
            "threads": 1,
            "steps": steps,
            "views": int(groups * len(members)),
            "reference_s": rounded(before),
            "default_s": rounded(after),
            "extrapolated": "medians of one step and of the encoding of 8 views, times their numbers",
            "bank_mib": rounded(bank.bytes_per_view * default.bank_views * SHOTS / 2**20),
        },
    )


def _train_a_little(recipe: str, shape: str, steps: int) -> int:
    torch.set_num_threads(1)
    found = load_recipe(recipe)
    network = MediClip(backbone_of(shape), found).initialise(0)
    return train(network, draw_images(SHOTS), seed=0, steps=steps).steps


def _compare_memory(shape: str, *, quick: bool) -> Outcome:
    steps = 2 if quick else 20
    costs = {name: in_fresh_process(_train_a_little, name, shape, steps) for name in ("reference", "default")}
    return Outcome(
        costs["default"].peak_mib / costs["reference"].peak_mib, {n: c.as_dict() for n, c in costs.items()}
    )


BENCHMARKS = (
    *(
        Benchmark(
            f"training_{shape.replace('/', '-').lower()}",
            f"400 steps of batch 8 on 16 images, {shape} shapes, random weights: reference against default",
            target=10,
            unit="times less CPU time",
            measure=partial(_compare_steps, shape),
        )
        for shape in SHAPES
    ),
    Benchmark(
        "training_memory",
        "peak memory of a training, vit-tiny shapes: default, with its whole bank, over reference",
        target=1.5,
        unit="times the memory",
        measure=partial(_compare_memory, "vit-tiny"),
        at_most=True,
    ),
)
