"""``mediclip calibrate``: teach a model which scores are usual for a site's own normal scans."""

from pathlib import Path
from typing import Annotated

import typer

from mediclip.cli import console, options


def calibrate(
    *,
    model: options.Model,
    normals: Annotated[
        Path,
        typer.Option(
            help="Data folder with normal scans; those that the model was made from are passed over.",
            metavar="DIR",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Model file to write; the given one when omitted.", metavar="FILE")
    ] = None,
    level: options.Level = 0.05,
    backbone: options.OtherBackbone = None,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Calibrate a model on normal scans that it was not made from; writes their scores into the model file.

    A calibration belongs to one site and one model. What n scans allow: no p-value below 1 / (n + 1).

    Example:  mediclip calibrate --model runs/brain/model.safetensors --normals brainmri
    """
    from mediclip.cli.loading import load_detector
    from mediclip.data.manifest import open_dataset
    from mediclip.data.preprocess import load_images
    from mediclip.data.samples import NORMAL
    from mediclip.errors import DataError
    from mediclip.evaluation.calibration import Calibration
    from mediclip.evaluation.duplicates import image_digest
    from mediclip.evaluation.predict import predict
    from mediclip.training.checkpoint import rewrite_model
    from mediclip.training.private import own_tensors, private_parts, stored_support

    detector = load_detector(model, backbone=backbone, device=device)
    seen = set(stored_support(detector.file))
    if not seen:
        message = (
            f"A model to calibrate must say which images it was made from. {model.name!r} does not: it is "
            "one to share, or of an earlier version. Build a memory with 'mediclip remember', or train."
        )
        raise DataError(message)
    samples = [s for s in open_dataset(normals).train if s.label == NORMAL]
    digests = [image_digest(image) for image in load_images(samples, detector.preprocess)]
    fresh = [s for s, digest in zip(samples, digests, strict=True) if digest not in seen]
    with console.progress("Scoring", quiet=as_json) as bar:
        found = predict({"detector": detector.network}, fresh, detector.preprocess, on_batch=bar)
    calibration = Calibration.of(
        found["detector"].scores, model=detector.file.digest(), preprocess=detector.preprocess.digest()
    )
    tensors, facts = private_parts(
        detector.network.memory,
        support=stored_support(detector.file),
        calibration=calibration,
        own=own_tensors(detector.file),
    )
    target = out or model
    rewrite_model(target, detector.file, private_tensors=tensors, private_facts=facts)
    low, high = calibration.rate_interval(level)
    threshold = calibration.threshold(level)
    result = {
        "model": str(target),
        "n": len(calibration.scores),
        "passed_over": len(samples) - len(fresh),
        "least_p": calibration.least_p,
        "level": level,
        "threshold": threshold,
        "rate_interval": [low, high],
    }
    if as_json:
        console.print_json(result)
        return
    console.out.print(
        f"Calibrated on {len(fresh)} normal scans of {normals.name} "
        f"({len(samples) - len(fresh)} that the model was made from passed over).",
        soft_wrap=True,
    )
    if threshold is None:
        console.out.print(
            f"At a false-positive rate of {level:.0%} nothing can be called abnormal: the lowest p-value "
            f"that {len(fresh)} scans allow is {calibration.least_p:.3f}. What exceeds "
            "them all is 'uncertain'.",
            soft_wrap=True,
        )
    else:
        console.out.print(
            f"At a false-positive rate of {level:.0%} the threshold is {threshold:.4f}; the rate of this "
            f"very calibration lies in \\[{low:.3f}, {high:.3f}] with 90 % probability.",
            soft_wrap=True,
        )
    console.out.print(f"Model: {target}", soft_wrap=True)
