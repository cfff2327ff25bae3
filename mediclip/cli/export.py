"""``mediclip export``: a detector as one file for other runtimes."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mediclip.cli import console, options


class Form(StrEnum):
    """Formats that can be written."""

    ONNX = "onnx"
    TORCH = "torch"


def export(
    *,
    model: options.Model,
    out: Annotated[Path, typer.Option(help="File to write.", metavar="FILE", show_default=False)],
    form: Annotated[
        Form, typer.Option("--format", help="onnx for any ONNX runtime, torch for torch.export.load.")
    ] = Form.ONNX,
    backbone: options.OtherBackbone = None,
    as_json: options.Json = False,
) -> None:
    """Write a trained detector with its image tower as one ONNX or torch.export file, and check its numbers.

    Input: images (B, S, S) in [0, 1]. Output: scores (B) and maps (B, S, S). The text tower is not needed any
    more: its features are in the file, as are recipe, backbone digest and image size (metadata 'mediclip').

    Example:  mediclip export --model runs/brain/model.safetensors --format onnx --out brain.onnx
    """
    from mediclip.cli.loading import load_detector
    from mediclip.export import export_detector

    detector = load_detector(model, backbone=backbone, device="cpu")
    console.make_folder(out.parent)
    facts = export_detector(detector.network, detector.preprocess.settings(), out, form=form.value)
    if as_json:
        console.print_json({"file": str(out), **facts})
        return
    console.out.print(
        f"Wrote {out} ({out.stat().st_size / 2**20:.1f} MiB): {facts['image_size']} px, backbone "
        f"{facts['backbone']['name']}; scores within {facts['max_difference']:.1g} of the original.",
        soft_wrap=True,
    )
