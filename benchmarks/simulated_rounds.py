"""A federation in one process whose sites have their views already: wall time, and how it grows."""

import tempfile
import time
from pathlib import Path

from benchmarks._shapes import backbone_of, draw_images
from benchmarks.harness import Benchmark, Outcome, rounded
from client.service.material import Material
from client.service.site import Site
from mediclip.config import load_recipe
from mediclip.model.network import MediClip
from simulation.engine import run_in_process
from simulation.plan import Event, Plan

LIMIT_S = 120.0
SITES, ROUNDS, SHOTS = 8, 20, 16


def _site(number: int, shape: str) -> Site:
    backbone, support = backbone_of(shape), draw_images(SHOTS)
    return Site(f"site-{number}", lambda _: Material(backbone, support))


def _seconds_of_rounds(sites: list[Site], shape: str, rounds: int, local_steps: int) -> list[float]:
    """Run a federation and say how long each round took."""
    recipe = load_recipe("default")
    ends: list[float] = []

    def note(event: Event) -> None:
        if event.kind == "round":
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as name:
        plan = Plan(
            out=Path(name),
            schema=MediClip(backbone_of(shape), recipe).schema,
            recipe=recipe,
            rounds=rounds,
            seed=0,
            local_steps=local_steps,
        )
        began = time.perf_counter()
        run_in_process(plan, sites, on_event=note)
    return [after - before for before, after in zip([began, *ends], ends, strict=False)]


def _measure(*, quick: bool) -> Outcome:
    shape, sites, rounds = ("embedded", 2, 2) if quick else ("vit-tiny", SITES, ROUNDS)
    local_steps = 1 if quick else load_recipe("default").steps(SHOTS) // ROUNDS
    all_sites = [_site(number, shape) for number in range(sites)]
    bank_s = sum(_seconds_of_rounds(all_sites, shape, 1, 1))
    took = _seconds_of_rounds(all_sites, shape, rounds, local_steps)
    half = _seconds_of_rounds(all_sites[: sites // 2], shape, max(rounds // 4, 1), local_steps)
    early, late = took[: len(took) // 2], took[len(took) // 2 :]
    a_round = sum(took) / len(took)
    return Outcome(
        sum(took) / LIMIT_S,
        {
            "limit_s": LIMIT_S,
            "sites": sites,
            "rounds": rounds,
            "local_steps": local_steps,
            "wall_s": rounded(sum(took)),
            "banking_s": rounded(bank_s),
            "late_over_early_rounds": rounded(sum(late) / len(late) / (sum(early) / len(early))),
            "round_of_all_over_round_of_half_the_sites": rounded(a_round / (sum(half) / len(half))),
        },
    )


BENCHMARKS = (
    Benchmark(
        "simulated_rounds",
        f"{SITES} sites, {ROUNDS} rounds, vit-tiny shapes, views made before: wall time over 2 minutes",
        target=1,
        unit="of the limit",
        measure=_measure,
        at_most=True,
    ),
)
