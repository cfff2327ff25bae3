"""What a codec costs in accuracy: one federation for each codec, on the same sites, seeds and test scans.

    python -m benchmarks.codec_accuracy --data brainmri=DIR --backbone local-dir:DIR --taps 6,9,12 --out OUT

It needs real scans and minutes for each set and seed; what is finished lies in OUT and is not made again.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

from benchmarks.harness import Benchmark
from client.service.site import Site
from mediclip.config import load_recipe
from mediclip.data.preprocess import Preprocess
from mediclip.evaluation.predict import predict, summarise
from mediclip.exchange.codecs import CODEC_NAMES, CodecName
from mediclip.model.network import MediClip
from mediclip.training.checkpoint import write_atomically
from server.settings import StrategyName
from simulation.engine import run_in_process
from simulation.experiment import Experiment, ExperimentSettings
from simulation.plan import FederatedResult, Plan
from simulation.scenario import make_scenario
from simulation.threads import one_torch_thread

BENCHMARKS: tuple[Benchmark, ...] = ()  # none that runs without scans
_METRICS = ("image_auroc", "pixel_auroc")


def main() -> None:
    """Run what is missing and print a table of what there is."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, folder in (pair.split("=", 1) for pair in options.data):
        for seed in range(options.seeds):
            path = options.out / f"{name}-{seed}.json"
            if not path.exists():
                cell = _cell(options, name, Path(folder), seed)
                write_atomically(path, json.dumps(cell, indent=2).encode())
    _print([json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--taps", type=lambda text: tuple(map(int, text.split(","))))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sites", type=int, default=4)
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--codecs", default=",".join(CODEC_NAMES))
    parser.add_argument("--strategy", default="fedavg")
    return parser.parse_args()


def _cell(options: argparse.Namespace, name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Run one federation for each codec on the sites of one partition."""
    recipe = load_recipe("default")
    scenario = make_scenario({name: folder}, sites=options.sites, shots=options.shots, seed=seed)
    settings = ExperimentSettings(
        options.out, options.backbone, options.rounds, options.shots, seed, taps=options.taps
    )
    experiment = Experiment(scenario, recipe, settings)
    sites = [Site.open(one, experiment.backbone) for one in experiment.site_settings()]
    schema = MediClip(experiment.backbone, recipe, options.taps).schema
    plan = Plan(
        options.out / "runs" / f"{name}-{seed}",
        schema,
        recipe,
        options.rounds,
        seed,
        experiment.round_steps,
        strategy=_strategy(options.strategy),
        max_examples=options.shots,
    )
    results: dict[CodecName, FederatedResult] = {}
    networks: dict[str, MediClip] = {}
    wanted = options.codecs.split(",")
    for codec in (known for known in CODEC_NAMES if known in wanted):
        results[codec] = run_in_process(replace(plan, out=plan.out / codec, codec=codec, resume=True), sites)
        networks[codec] = MediClip(experiment.backbone, recipe, options.taps)
        networks[codec].load(results[codec].tensors)
    with one_torch_thread():
        found = predict(networks, scenario.datasets[name].test, Preprocess(recipe.image_size))
    return {
        "set": name,
        "seed": seed,
        "values": schema.size(),
        "codecs": {
            codec: _row(result, summarise(found[codec], seed=seed)) for codec, result in results.items()
        },
    }


def _row(result: FederatedResult, summary: Any) -> dict[str, Any]:  # noqa: ANN401 - plain values
    sites = len(result.history[0]["sites"])
    return {
        **{metric: summary[metric] for metric in _METRICS},
        "bytes_up": max(entry["bytes_up"] for entry in result.history) / sites,
        "bytes_down": max(entry["bytes_down"] for entry in result.history) / sites,
        "train_loss": result.history[-1]["metrics"].get("train_loss"),
    }


def _strategy(name: str) -> StrategyName:
    return cast("StrategyName", name)  # the plan checks it


def _print(cells: list[dict[str, Any]]) -> None:
    for name in dict.fromkeys(cell["set"] for cell in cells):
        mine = [cell["codecs"] for cell in cells if cell["set"] == name]
        for codec in mine[0]:
            rows = [(cell[codec], cell["float32"]) for cell in mine]
            losses = [100 * (whole["image_auroc"] - row["image_auroc"]) for row, whole in rows]
            up, down = (max(row[way] for row, _ in rows) for way in ("bytes_up", "bytes_down"))
            each = ", ".join(f"{loss:+.2f}" for loss in losses)
            mean = fmean(row["image_auroc"] for row, _ in rows)
            sys.stdout.write(f"{name:10} {codec:9} {len(rows)} seeds  image AUROC {mean:.4f}  ")
            sys.stdout.write(
                f"lost {fmean(losses):+.2f} points ({each})  up {up:,.0f} B  down {down:,.0f} B\n"
            )


if __name__ == "__main__":
    main()
