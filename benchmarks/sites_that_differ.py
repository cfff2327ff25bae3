"""What federation is worth to each site where sites hold different organs, and what one hostile site costs.

    python -m benchmarks.sites_that_differ --data brainmri=DIR --data busi=DIR --data chestxray=DIR \
        --seeds 0,1 --hostile-seeds 0 --shots 12 --backbone local-dir:DIR --taps 6,9,12 --out DIR

Each organ has two sites. A seed is a cell: its runs and numbers are kept in OUT, so that a benchmark that was
stopped goes on. All models are those of the last step. What a site keeps it chooses on synthetic anomalies of
normal images that it holds out; test images are looked at last, and decide nothing.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.hostile import HOSTILE, Hostile
from client.service.conclusion import CandidateName, Mark, choose
from client.service.exam import Exam
from client.service.fit import FitRequest
from client.service.site import Site
from mediclip.config import PrivateGroup, Recipe, load_recipe
from mediclip.data.preprocess import Preprocess, iter_images
from mediclip.evaluation.bootstrap import bootstrap_interval
from mediclip.evaluation.image_metrics import image_auroc
from mediclip.model.known_tokens import KnownTokens
from mediclip.model.memory import build_memory
from mediclip.model.network import MediClip
from mediclip.model.trainables import Trainables, initial_trainables
from mediclip.rng import generator
from mediclip.training.checkpoint import load_tensors, save_tensors, write_atomically
from server.settings import PERSONAL_GROUPS, StrategyName
from simulation.ended_runs import read_models
from simulation.engine import run_in_process
from simulation.experiment import Experiment, ExperimentSettings
from simulation.plan import Plan
from simulation.scenario import Scenario, make_scenario
from simulation.threads import one_torch_thread

ROUNDS: Final = 10
_BATCH: Final = 16
_ALONE: Final = "local"
_ROWS: Final[Mapping[str, str]] = {
    "local": "each site alone",
    "fedavg": "`fedavg`",
    "fedavg, tuned": "`fedavg`, one more round at the site",
    "fedavg, kept": "`fedavg` with safeguard",
    "personal": "`personal`",
    "personal, tuned": "`personal`, one more round at the site",
    "personal, kept": "`personal` with safeguard",
    "clustered": "`clustered`",
    "clustered, tuned": "`clustered`, one more round at the site",
    "clustered, kept": "`clustered` with safeguard",
}


@dataclass(frozen=True)
class Asked:
    """What the benchmark was asked for."""

    folders: Mapping[str, Path]
    shots: int
    backbone: str
    taps: tuple[int, ...] | None
    recipe: Recipe
    private: tuple[PrivateGroup, ...]
    out: Path


class Cell:
    """One seed: six sites, opened once, and the models that they come to.

    Args:
        asked: What was asked for.
        seed: The seed.
    """

    def __init__(self, asked: Asked, seed: int) -> None:
        self.seed, self.folder = seed, asked.out / f"seed-{seed}"
        self.scenario: Scenario = make_scenario(
            asked.folders,
            sites=2 * len(asked.folders),
            shots=asked.shots,
            seed=seed,
            policies=asked.recipe.policies,
        )
        settings = ExperimentSettings(
            self.folder, asked.backbone, ROUNDS, asked.shots, seed, taps=asked.taps, methods=("local",)
        )
        self.experiment = Experiment(self.scenario, asked.recipe, settings)
        self.recipe, self.private = self.experiment.recipe, asked.private
        self.sites = {s.name: Site.open(s, self.experiment.backbone) for s in self.experiment.site_settings()}

    def network(self, tensors: Trainables | None = None) -> MediClip:
        """Make a network of the cell's backbone."""
        network = MediClip(self.experiment.backbone, self.recipe, self.experiment.settings.taps)
        if tensors is not None:
            network.load(tensors)
        return network

    def request(self, tensors: Trainables, number: int, steps: int) -> FitRequest:
        """Ask for a round of plain training."""
        text, schema = self.recipe.model_dump_json(), self.network().schema
        return FitRequest(number, tensors, self.seed, text, steps, 0.0, schema.digest())

    def kept(self, name: str, make: Any) -> Trainables:  # noqa: ANN401 - a function without arguments
        """Read a model, or make it and keep it."""
        path = self.folder / "models" / f"{name}.safetensors"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(path, make(), {})
        return load_tensors(path)[0]

    def federate(
        self, name: str, strategy: StrategyName, sites: Sequence[Any], private: tuple[PrivateGroup, ...] = ()
    ) -> dict[str, Trainables]:
        """Run a federation, or read what it left, and give what each site ends with."""
        recipe = self.recipe.model_copy(update={"private": private})
        plan = Plan(
            out=self.folder / name,
            schema=MediClip(self.experiment.backbone, recipe, self.experiment.settings.taps).shared,
            recipe=recipe,
            rounds=ROUNDS,
            seed=self.seed,
            local_steps=self.experiment.round_steps,
            strategy=strategy,
            max_examples=self.experiment.settings.shots,
            resume=True,
        )
        result = run_in_process(plan, sites, parallel=1)
        if not private and strategy != "clustered":
            return dict.fromkeys((site.name for site in sites), result.tensors)
        models = read_models(plan.out, [site.name for site in sites])
        return {site: ended.delivered for site, ended in models.items()}

    def alone(self) -> dict[str, Trainables]:
        """Train each site by itself, as many steps on the same batches as in a federation."""
        start = initial_trainables(self.network().schema, self.seed)
        steps = self.experiment.round_steps * ROUNDS
        return {
            name: self.kept(f"local-{name}", lambda s=site: s.fit(self.request(start, 1, steps)).tensors)
            for name, site in self.sites.items()
        }

    def tuned(self, name: str, delivered: Mapping[str, Trainables]) -> dict[str, Trainables]:
        """Train each site's model for one more round at the site."""
        steps = self.experiment.round_steps
        found = {}
        for site, tensors in delivered.items():
            ask = self.request(tensors, ROUNDS + 1, steps)
            found[site] = self.kept(f"{name}-{site}", lambda s=site, a=ask: self.sites[s].fit(a).tensors)
        return found


def train(cell: Cell) -> dict[str, dict[str, Trainables]]:
    """Train everything that is compared.

    Args:
        cell: The seed.

    Returns:
        By method, each site's model.
    """
    sites = list(cell.sites.values())
    models = {
        "local": cell.alone(),
        "fedavg": cell.federate("fedavg", "fedavg", sites),
        "personal": cell.federate("personal", "personal", sites, cell.private),
        "clustered": cell.federate("clustered", "clustered", sites),
    }
    for name in ("fedavg", "personal", "clustered"):
        models[f"{name}, tuned"] = cell.tuned(f"{name}-tuned", models[name])
    return models


def attack(cell: Cell) -> dict[str, dict[str, Trainables]]:
    """Train with a robust strategy without the last site, and with it in each hostile guise."""
    *honest, last = cell.sites.values()
    models = {"median, without the site": cell.federate("median-without", "fedmedian", honest)}
    for guise in HOSTILE:
        hostile = Hostile(last, guise, seed=cell.seed)
        for strategy, title in (("fedmedian", "median"), ("fedavg", "fedavg")):
            found = cell.federate(f"{title}-{guise}", strategy, [*honest, hostile])  # type: ignore[arg-type]
            models[f"{title}, {guise}"] = {n: m for n, m in found.items() if n != last.name}
    return models


def marks_of(cell: Cell, models: Mapping[str, Mapping[str, Trainables]]) -> dict[str, dict[str, Mark]]:
    """Let each site judge its models on its own synthetic anomalies.

    Args:
        cell: The seed.
        models: By method and site.

    Returns:
        Marks by site and method.
    """
    found: dict[str, dict[str, Mark]] = {}
    text = cell.recipe.model_dump_json()
    for name, site in cell.sites.items():
        bench = site._bench_for(text)  # noqa: SLF001 - what the site itself does at the end of a run
        exam = Exam(bench.network, bench.material, seed=cell.seed, stream=bench.stream)
        for method, by_site in models.items():
            if name in by_site:
                network = cell.network(by_site[name])
                network.memory = exam.memory(network)
                found.setdefault(name, {})[method] = exam.mark(network)
    return found


def choices(marks: Mapping[str, Mapping[str, Mark]]) -> dict[str, dict[str, str]]:
    """Say which model each site keeps, for each federated method: by the safeguard's own rule."""
    found: dict[str, dict[str, str]] = {}
    for name in ("fedavg", "personal", "clustered"):
        options: dict[CandidateName, str] = {"global": name, "tuned": f"{name}, tuned", "local": _ALONE}
        found[f"{name}, kept"] = {
            site: options[choose({c: by_method[m] for c, m in options.items()})]
            for site, by_method in marks.items()
        }
    return found


def score(cell: Cell, models: Mapping[str, Mapping[str, Trainables]]) -> dict[str, Any]:
    """Score the test images of every set with all models of its sites.

    Returns:
        By set the ``labels``, and by site and method the ``scores``.
    """
    found: dict[str, Any] = {}
    preprocess = Preprocess(cell.recipe.image_size, cell.recipe.policies)
    text = cell.recipe.model_dump_json()
    for set_name, dataset in cell.scenario.datasets.items():
        judges: dict[str, dict[str, MediClip]] = {}
        for site in cell.scenario.sites_of(set_name):
            support = cell.sites[site.name]._bench_for(text).material.support  # noqa: SLF001 - as above
            known: dict[bytes, list[Tensor]] = {}
            for method, by_site in models.items():
                if site.name in by_site:
                    network = cell.network(by_site[site.name])
                    tower = KnownTokens(network, network.recipe, known)
                    network.memory = build_memory(tower, support, seed=cell.seed, stream=("site", site.name))
                    judges.setdefault(site.name, {})[method] = network
        scores: dict[str, list[float]] = {f"{s}/{m}": [] for s, by in judges.items() for m in by}
        with torch.inference_mode():
            for images in iter_images(dataset.test, preprocess, _BATCH):
                tokens = cell.network().tokens(torch.from_numpy(images))
                for name, by_method in judges.items():
                    for method, values in _scores(by_method, tokens).items():
                        scores[f"{name}/{method}"] += values
        found[set_name] = {
            "labels": [sample.label for sample in dataset.test],
            "scores": scores,
        }
    return found


def _scores(by_method: Mapping[str, MediClip], tokens: Sequence[Tensor]) -> dict[str, list[float]]:
    """Score a batch with the models of one site, whose memories are of the same images."""
    compared: tuple[Tensor, Tensor | None] | None = None
    found = {}
    for method, network in by_method.items():
        memory = network.memory
        assert memory is not None  # noqa: S101 - for the type checker
        compared = compared or memory.compare(tokens)
        found[method] = memory.weigh(compared, network.contrast(tokens))[1].tolist()
    return found


def measure(asked: Asked, seed: int, *, hostile: bool) -> dict[str, Any]:
    """Measure a seed, or read what was measured.

    Args:
        asked: What was asked for.
        seed: The seed.
        hostile: Whether the hostile site is part of it.

    Returns:
        Choices, marks and scores.
    """
    path = asked.out / f"seed-{seed}{'-hostile' if hostile else ''}.json"
    if not path.exists():
        cell = Cell(asked, seed)
        with one_torch_thread():
            models = attack(cell) if hostile else train(cell)
            marks = {} if hostile else marks_of(cell, models)
            document = {
                "seed": seed,
                "shots": asked.shots,
                "sites": {site.name: site.set_name for site in cell.scenario.sites},
                "marks": {s: {m: vars(mark) for m, mark in by.items()} for s, by in marks.items()},
                "kept": choices(marks) if marks else {},
                "tested": score(cell, models),
            }
        write_atomically(path, json.dumps(document).encode())
    return dict(json.loads(path.read_text(encoding="utf-8")))


def aurocs(document: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Give the image AUROC of every site and method, with what each site keeps."""
    found: dict[str, dict[str, float]] = {}
    for tested in document["tested"].values():
        labels = np.array(tested["labels"])
        for key, values in tested["scores"].items():
            site, _, method = key.partition("/")
            value = image_auroc(labels, np.array(values))
            found.setdefault(site, {})[method] = float("nan") if value is None else value
    for method, by_site in document["kept"].items():
        for site, chosen in by_site.items():
            found[site][method] = found[site][chosen]
    return found


def gain_interval(document: Mapping[str, Any], site: str, method: str) -> tuple[float, float]:
    """Bootstrap the gain of a method over the site alone, on the same test images."""
    tested = document["tested"][document["sites"][site]]
    chosen = document["kept"].get(method, {}).get(site, method)
    pair = [np.array(tested["scores"][f"{site}/{name}"]) for name in (chosen, _ALONE)]

    def gain(labels: NDArray[np.bool_], places: NDArray[np.float64]) -> float | None:
        first, second = (image_auroc(labels, scores[places.astype(np.int64)]) for scores in pair)
        return None if first is None or second is None else first - second

    places = np.arange(len(pair[0]), dtype=np.float64)
    rng = generator(document["seed"], "gain", site, method)
    found = bootstrap_interval(tested["labels"], places, gain, draws=300, rng=rng)
    return (float("nan"), float("nan")) if found is None else found


def table(documents: Sequence[Mapping[str, Any]]) -> str:
    """Write the gain of every method over the sites alone as Markdown."""
    found = [aurocs(document) for document in documents]
    sites = documents[0]["sites"]
    sets = list(dict.fromkeys(sites.values()))
    lines = [f"| what a site ends with | {' | '.join(sets)} | mean over sites | gain | worse than alone |"]
    lines.append("|---|" + "---|" * (len(sets) + 3))
    for method, title in _ROWS.items():
        by_set = {
            name: [fmean(seed[s][method] for s in sites if sites[s] == name) for seed in found]
            for name in sets
        }
        means = [fmean(seed[site][method] for site in sites) for seed in found]
        gains = [
            mean - fmean(seed[s][_ALONE] for s in sites) for mean, seed in zip(means, found, strict=True)
        ]
        worse = "–"
        if method != _ALONE:
            pairs = [(d, site) for d in documents for site in sites]
            count = sum(gain_interval(d, site, method)[1] < 0 for d, site in pairs)
            worse = f"{count} of {len(pairs)}"
        cells = [_spread(by_set[name]) for name in sets] + [_spread(means)]
        points = "–" if method == _ALONE else f"{100 * fmean(gains):+.1f}"
        lines.append(f"| {title} | {' | '.join(cells)} | {points} | {worse} |")
    return "\n".join(lines)


def choices_table(documents: Sequence[Mapping[str, Any]]) -> str:
    """Write how often each candidate was kept as Markdown."""
    lines = ["| run | delivered model kept | tuned one kept | alone kept |", "|---|---|---|---|"]
    for method in documents[0]["kept"]:
        kept = [chosen for document in documents for chosen in document["kept"][method].values()]
        alone, tuned = kept.count(_ALONE), sum(name.endswith("tuned") for name in kept)
        lines.append(f"| {_ROWS[method]} | {len(kept) - alone - tuned} | {tuned} | {alone} |")
    return "\n".join(lines)


def hostile_table(documents: Sequence[Mapping[str, Any]]) -> str:
    """Write the mean over honest sites, with and without a hostile one, as Markdown."""
    found = [aurocs(document) for document in documents]
    methods = list(dict.fromkeys(m for seed in found for by in seed.values() for m in by))
    lines = ["| run | mean over the honest sites | against the median without it |", "|---|---|---|"]
    base = [fmean(by[methods[0]] for by in seed.values() if methods[0] in by) for seed in found]
    for method in methods:
        means = [fmean(by[method] for by in seed.values() if method in by) for seed in found]
        gap = 100 * fmean(m - b for m, b in zip(means, base, strict=True))
        lines.append(f"| {method} | {_spread(means)} | {'–' if method == methods[0] else f'{gap:+.1f}'} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def marks_table(documents: Sequence[Mapping[str, Any]]) -> str:
    """Write the mean marks on synthetic anomalies, by which defaults are chosen, as Markdown."""
    lines = ["| model | mean mark | image | pixel |", "|---|---|---|---|"]
    for method in dict.fromkeys(m for d in documents for by in d["marks"].values() for m in by):
        marks = [Mark(**by[method]) for d in documents for by in d["marks"].values()]
        image, pixel = fmean(m.image for m in marks), fmean(m.pixel for m in marks)
        lines.append(f"| {method} | {fmean(m.score for m in marks):.4f} | {image:.4f} | {pixel:.4f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the seeds that are not there yet, then print the tables.

    Args:
        arguments: What stands after the program's name; the process's own when omitted.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sites_that_differ")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--hostile-seeds", default="", help="Seeds with the hostile site too.")
    parser.add_argument("--shots", type=int, default=12)
    parser.add_argument("--backbone", required=True, metavar="SPEC")
    parser.add_argument("--taps", default=None)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--private", default=",".join(PERSONAL_GROUPS), help="Groups of 'personal'.")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    given = parser.parse_args(arguments)
    asked = Asked(
        {name: Path(folder) for name, _, folder in (text.partition("=") for text in given.data)},
        given.shots,
        given.backbone,
        None if given.taps is None else tuple(map(int, given.taps.split(","))),
        load_recipe(given.recipe),
        tuple(given.private.split(",")),
        given.out,
    )
    found = [measure(asked, int(seed), hostile=False) for seed in given.seeds.split(",") if seed]
    attacked = [measure(asked, int(seed), hostile=True) for seed in given.hostile_seeds.split(",") if seed]
    parts = [f(found) for f in (table, choices_table, marks_table) if found]
    parts += [hostile_table(attacked)] if attacked else []
    print("\n\n".join(parts))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
