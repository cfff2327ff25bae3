"""What each part of recipe `default` is worth on real sets: a training a cell, all variants on its tokens.

    python -m benchmarks.accuracy --data brainmri=DIR --data busi=DIR --seeds 0,1,2,3,4 --shots 16 \
        --backbone local-dir:DIR --taps 6,9,12 --out DIR

A cell is a set with a seed. Its model and results are kept in OUT, so that a run that was stopped goes on.
The model is that of the last step; calibration uses the normal images of the train split outside the support.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mediclip.config import Recipe, load_recipe
from mediclip.data.manifest import Dataset, open_dataset
from mediclip.data.preprocess import Preprocess, iter_images, load_images
from mediclip.data.samples import NORMAL, has_masks
from mediclip.data.support import draw_support
from mediclip.evaluation.calibration import Calibration, realised
from mediclip.evaluation.duplicates import CopyFilter, fingerprint
from mediclip.evaluation.image_metrics import image_auroc
from mediclip.evaluation.pixel_metrics import PixelMetrics
from mediclip.model.anomaly_map import image_score
from mediclip.model.known_tokens import KnownTokens
from mediclip.model.memory import Judgement, NormalityMemory, build_memory
from mediclip.model.network import MediClip
from mediclip.training.checkpoint import load_model, write_atomically
from mediclip.training.run import TrainedDetector, TrainSettings, train_detector, write_run

_CALIBRATED: Final = "default"
_BATCH: Final = 16
# The maps of the other variants are one of these or differ little; counting pixels takes longer than scoring.
_PIXELS: Final = ("text map, maximum", "memory, focal part", "default", "default, map not smoothed")
VARIANTS: Final[Mapping[str, Mapping[str, Any] | None]] = {
    "text map, maximum": None,
    "text map, mean of the top 5 %": None,
    "memory, focal part": {"text_weight": 0.0, "diffuse_tokens": 0},
    "memory, both parts": {"text_weight": 0.0},
    "text and focal part": {"diffuse_tokens": 0},
    "default": {},
    "default, map not smoothed": {"smoothing": 0.0},
    "default, means of 3 by 3 tokens": {"neighbourhood": 3},
    "default, same place only": {"radius": 0},
    "default, text weighs 1": {"text_weight": 1.0},
    "default, text on the support images": {"views": 0},
}


@dataclass(frozen=True)
class Cell:
    """One set with one seed."""

    name: str
    folder: Path
    seed: int


def measure(cell: Cell, trained: TrainedDetector, shots: int) -> dict[str, Any]:
    """Score a cell's test set with every variant.

    Args:
        cell: Set and seed.
        trained: Its detector.
        shots: Size of the support set.

    Returns:
        By variant ``image_auroc``, ``image_auroc_unique``, and ``pixel_auroc`` where there are masks; and
        what was decided.
    """
    dataset = open_dataset(cell.folder)
    network, preprocess = (
        trained.network,
        Preprocess(trained.network.recipe.image_size, trained.network.recipe.policies),
    )
    support = draw_support(dataset.train, shots, cell.seed)
    judges = _judges(network, load_images(support, preprocess), cell.seed)
    chosen = {sample.index for sample in support}
    rest = [s for s in dataset.train if s.label == NORMAL and s.index not in chosen]
    copies = CopyFilter(fingerprint(image) for image in load_images(dataset.train, preprocess))
    scores, unique, pixels = _score(network, judges, dataset, preprocess, copies)
    labels = np.array([s.label for s in dataset.test])
    found: dict[str, Any] = {"set": cell.name, "seed": cell.seed, "seconds": trained.seconds, "variants": {}}
    for name, values in scores.items():
        found["variants"][name] = {
            "image_auroc": image_auroc(labels, values),
            "image_auroc_unique": image_auroc(labels[unique], np.asarray(values)[unique]),
            "pixel_auroc": pixels[name].pixel_auroc() if name in pixels else None,
        }
    with torch.inference_mode():
        tokens = network.tokens(torch.from_numpy(load_images(rest, preprocess)))
        held = _judge(network, judges[_CALIBRATED], tokens, 0.0).scores.numpy()
    calibration = Calibration.of(held, model="", preprocess="")
    found["decisions"] = {
        str(level): asdict(realised(calibration, labels, scores[_CALIBRATED], level)) for level in (0.05, 0.1)
    }
    return found


def _judges(network: MediClip, support: NDArray[np.float32], seed: int) -> dict[str, NormalityMemory | None]:
    known: dict[bytes, list[Tensor]] = {}
    judges: dict[str, NormalityMemory | None] = {}
    for name, changes in VARIANTS.items():
        memory = network.recipe.memory
        if changes is None or memory is None:
            judges[name] = None
            continue
        recipe = network.recipe.model_copy(update={"memory": memory.model_copy(update=dict(changes))})
        judges[name] = build_memory(KnownTokens(network, recipe, known), support, seed=seed)
    return judges


def _judge(
    network: MediClip, memory: NormalityMemory | None, tokens: Sequence[Tensor], top_share: float
) -> Judgement:
    if memory is not None:
        return memory.judge(tokens, network.contrast(tokens), network.recipe.image_size)
    maps = network.anomaly_map(tokens)
    return Judgement(maps, image_score(maps, top_share))


def _score(
    network: MediClip,
    judges: Mapping[str, NormalityMemory | None],
    dataset: Dataset,
    preprocess: Preprocess,
    copies: CopyFilter,
) -> tuple[dict[str, list[float]], NDArray[np.bool_], dict[str, PixelMetrics]]:
    with_masks = has_masks(dataset.test)
    scores: dict[str, list[float]] = {name: [] for name in judges}
    pixels = {name: PixelMetrics() for name in _PIXELS} if with_masks else {}
    unique: list[bool] = []
    for images in iter_images(dataset.test, preprocess, _BATCH):
        samples = dataset.test[len(unique) : len(unique) + len(images)]
        unique += [copies.is_new(fingerprint(image)) for image in images]
        masks = np.stack([preprocess.load_mask(s) for s in samples]) if with_masks else None
        with torch.inference_mode():
            tokens = network.tokens(torch.from_numpy(images))
            for name, memory in judges.items():
                top_share = 0.0 if name.endswith("maximum") else 0.05
                said = _judge(network, memory, tokens, top_share)
                scores[name] += said.scores.tolist()
                if masks is not None and name in pixels:
                    pixels[name].update(said.maps.numpy(), masks)
    return scores, np.array(unique), pixels


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Write mean ± standard deviation over seeds of every variant and set as Markdown."""
    sets = sorted({r["set"] for r in results})
    columns = [(s, "image_auroc") for s in sets]
    columns += [(s, "pixel_auroc") for s in sets if any(_has_pixels(r) for r in results if r["set"] == s)]
    lines = ["| variant | " + " | ".join(f"{s}, {m.split('_')[0]}" for s, m in columns) + " | mean, image |"]
    lines.append("|---|" + "---|" * (len(columns) + 1))
    for name in VARIANTS:
        cells, means = [], []
        for set_name, metric in columns:
            values = [r["variants"][name][metric] for r in results if r["set"] == set_name]
            if None in values:
                cells.append("–")
                continue
            cells.append(f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else ""))
            means += [fmean(values)] if metric == "image_auroc" else []
        lines.append(f"| {name} | {' | '.join(cells)} | {fmean(means):.3f} |")
    return "\n".join(lines)


def decisions_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Write what was decided in each cell as Markdown."""
    lines = ["| set | seed | normals | wanted | realised [95 %] | stated interval | sensitivity | F1 |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for result in sorted(results, key=lambda r: (r["set"], r["seed"])):
        for level, d in result["decisions"].items():
            stated = "nothing can be flagged"
            if d["expected_interval"][1] > 0:
                stated = "{:.3f} to {:.3f}".format(*d["expected_interval"])
            low, high = d["rate_interval"]
            lines.append(
                f"| {result['set']} | {result['seed']} | {d['n_calibration']} | {level} | {d['rate']:.3f} "
                f"[{low:.3f}, {high:.3f}] | {stated} | {d['sensitivity']:.3f} | {d['f1']:.3f} |"
            )
    return "\n".join(lines)


def _has_pixels(result: Mapping[str, Any]) -> bool:
    return any(v["pixel_auroc"] is not None for v in result["variants"].values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the cells that are not there yet, then print both tables.

    Args:
        arguments: What stands after the program's name; the process's own when omitted.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy")
    parser.add_argument("--data", action="append", required=True, metavar="NAME=DIR")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--backbone", required=True, metavar="SPEC")
    parser.add_argument("--taps", default=None)
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    asked = parser.parse_args(arguments)
    taps = None if asked.taps is None else tuple(map(int, asked.taps.split(",")))
    results = []
    for seed in map(int, asked.seeds.split(",")):
        for name, _, folder in (text.partition("=") for text in asked.data):
            path = asked.out / f"{name}-{seed}" / "accuracy.json"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                settings = TrainSettings(Path(folder), asked.backbone, asked.shots, seed, taps)
                trained = _trained(path.parent, settings, load_recipe(asked.recipe))
                found = measure(Cell(name, Path(folder), seed), trained, asked.shots)
                write_atomically(path, json.dumps(found, indent=2).encode())
            results.append(json.loads(path.read_text(encoding="utf-8")))
    print(table(results), decisions_table(results), sep="\n\n")  # noqa: T201 - what it is for


def _trained(folder: Path, settings: TrainSettings, recipe: Recipe) -> TrainedDetector:
    """Train, or take the model that an earlier run left."""
    path = folder / "model.safetensors"
    if not path.exists():
        trained = train_detector(settings, recipe)
        write_run(folder, trained, config={"recipe": recipe.model_dump(mode="json")}, command="")
        return trained
    from mediclip.cli.loading import load_detector  # noqa: PLC0415 - not needed for a new cell

    network = load_detector(path, backbone=settings.backbone, device="cpu").network
    return TrainedDetector(network, load_model(path).facts, result=None, seconds=0.0)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
