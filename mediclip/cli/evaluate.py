"""``mediclip evaluate``: what a model is worth on a test set."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mediclip.cli import console, options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mediclip.evaluation.cases import CaseGroup
    from mediclip.evaluation.prediction import Prediction, Summary


def evaluate(
    *,
    model: options.Model,
    data: options.Data,
    out: options.Out,
    backbone: options.OtherBackbone = None,
    policy: options.Policy = None,
    level: options.Level = 0.05,
    device: options.Device = "cpu",
    modality: options.Modality = None,
    body_part: options.BodyPart = None,
    view: options.View = None,
    labels: options.Labels = None,
    as_json: options.Json = False,
) -> None:
    """Test a model; writes OUT/metrics.json, scores.jsonl, report.html and overlays.

    Example:  mediclip evaluate --model runs/brain/model.safetensors --data brainmri --out runs/brain
    """
    from mediclip.cli.loading import load_detector, open_test_set
    from mediclip.cli.verdict import describe_verdict, judge_decisions
    from mediclip.data.dicom_tree import TreeChoice
    from mediclip.data.preprocess import load_images
    from mediclip.evaluation.duplicates import fingerprint
    from mediclip.evaluation.predict import predict, predict_cases, summarise
    from mediclip.reports.evaluation_report import write_evaluation_page
    from mediclip.training.checkpoint import versions, write_atomically

    choice = TreeChoice.of(modality, body_part, view, labels)
    detector = load_detector(model, backbone=backbone, device=device, policy=policy)
    network, preprocess, facts = detector.network, detector.preprocess, detector.file.facts
    dataset = open_test_set(data, preprocess, choice)
    known = [fingerprint(image) for image in load_images(dataset.train, preprocess)]
    with console.progress("Scoring", quiet=as_json) as bar:
        (prediction,) = predict(
            {"detector": network}, dataset.test, preprocess, support=known, on_batch=bar
        ).values()
    summary = summarise(prediction, seed=int(facts.get("seed", 0)))
    decided = judge_decisions(detector, prediction, level)
    groups = predict_cases({"detector": network}, dataset.test, preprocess, prediction)

    folder = console.make_folder(out)
    described = {
        "set": dataset.name,
        "left_out": dict(dataset.left_out),
        "model": str(model),
        "recipe": detector.file.recipe.name,
        "shots": facts.get("shots"),
        "seed": facts.get("seed"),
        "steps": facts.get("steps"),
        "backbone": network.backbone.name,
        "backbone_sha256": network.backbone.sha256,
        "taps": list(network.taps),
        "versions": versions(),
    }
    _write_overlays(console.make_folder(folder / "overlays"), groups)
    rows = [
        json.dumps({"index": i, "score": round(float(s), 6), "label": int(y)})
        for i, (s, y) in enumerate(zip(prediction.scores, prediction.labels, strict=True))
    ]
    write_atomically(folder / "scores.jsonl", ("\n".join(rows) + "\n").encode())
    write_evaluation_page(
        folder / "report.html",
        title=f"{dataset.name}: {facts.get('shots')} normal scans, recipe {detector.file.recipe.name}",
        summary=summary,
        prediction=prediction,
        groups=groups,
        calibration=detector.calibration,
        decisions=decided,
        command=console.command_line(),
        facts={key: str(value) for key, value in described.items() if key != "versions"}
        | {f"version of {name}": version for name, version in versions().items()},
    )
    metrics = {"schema": 1, **summary, "decisions": None if decided is None else asdict(decided), **described}
    write_atomically(folder / "metrics.json", json.dumps(metrics, indent=2).encode())
    if as_json:
        console.print_json(metrics)
        return
    console.tell_left_out(dataset.left_out)
    _print(summary, prediction, folder, dataset.name)
    console.out.print(describe_verdict(detector, decided), soft_wrap=True)


def _write_overlays(pictures: Path, groups: "Sequence[CaseGroup]") -> None:
    from mediclip.reports.figures import display_range, overlay

    cases = [case for group in groups for case in group.cases]
    value_range = display_range([one for case in cases for one in case.maps.values()])
    for case in cases:
        picture = overlay(case.image, case.maps["detector"], case.mask, value_range=value_range, scale=2)
        picture.save(pictures / f"{case.title.replace(' ', '-')}.png")


def _print(summary: "Summary", prediction: "Prediction", folder: Path, name: str) -> None:
    rest = summary["deduplicated"]
    names = {
        "image_auroc": "image AUROC",
        "image_ap": "image average precision",
        "sensitivity_at_95_specificity": "sensitivity at 95 % specificity",
        "pixel_auroc": "pixel AUROC",
        "aupro": "AUPRO (FPR up to 30 %)",
        "best_dice": "best Dice",
    }
    rows = []
    for key, title in names.items():
        cells = []
        for metrics in (summary, rest):
            plain = dict(metrics)
            cells.append(console.figure(plain[key], plain.get(f"{key}_interval")))  # type: ignore[arg-type]
        rows.append([title, *cells])
    copies = int((~prediction.unique).sum())
    console.print_table(
        {"": "left", "all": "right", f"without {copies} copies": "right"},
        rows,
        title=f"{name}: {summary['n_normal']} normal and {summary['n_abnormal']} abnormal test images",
    )
    console.out.print(f"Report: {folder / 'report.html'}", soft_wrap=True)
