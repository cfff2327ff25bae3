"""The batched forms of the synthesis tasks against the per-image forms, one core."""

import numpy as np

from benchmarks._shapes import draw_images
from benchmarks.harness import Benchmark, Outcome, compare, rounded
from mediclip.rng import generator
from mediclip.synthesis import TASKS, Mixture
from mediclip.synthesis.batched import BatchedMixture


def _measure(*, quick: bool) -> Outcome:
    support = draw_images(4 if quick else 16)
    order = np.arange(8 if quick else 64) % len(support)
    tasks, plain_s, batched_s = {}, 0.0, 0.0
    for task in TASKS:
        weights = {task: 1.0}
        plain, batched = Mixture(weights, 0.5), BatchedMixture(weights, 0.5, support)
        rng = generator(0, "benchmark", task)
        timings = compare(
            {
                "per image": lambda p=plain, r=rng: p.draw_batch(support[order], support, r),  # type: ignore[misc]
                "batched": lambda b=batched, r=rng: b.draw(order, r),  # type: ignore[misc]
            },
            repeats=1 if quick else 9,
        )
        one, many = (timings[name].cpu_s / len(order) for name in ("per image", "batched"))
        plain_s, batched_s = plain_s + one, batched_s + many
        tasks[task] = {
            "per_image_ms": rounded(1e3 * one),
            "batched_ms": rounded(1e3 * many),
            "ratio": rounded(one / many),
        }
    table = compare(
        {"table": lambda: BatchedMixture({"source": 1.0}, 0.5, support)}, repeats=1 if quick else 5
    )
    details = {
        "tasks": tasks,
        "table_ms_per_support_image": rounded(1e3 * table["table"].cpu_s / len(support)),
    }
    return Outcome(plain_s / batched_s, details)


BENCHMARKS = (
    Benchmark(
        "synthesis",
        "one image of each of the six tasks at 224 px: per-image forms against batched forms, one core",
        target=10,
        unit="times less CPU time",
        measure=_measure,
        is_cheap=True,
    ),
)
