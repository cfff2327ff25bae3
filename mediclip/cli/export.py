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
    shareable: Annotated[
        bool,
        typer.Option("--shareable", help="Write a model file without all that is made of the site's scans."),
    ] = False,
    backbone: options.OtherBackbone = None,
    as_json: options.Json = False,
) -> None:
    """Write a trained detector with its image tower as one ONNX or torch.export file, and check its numbers.

    Input: images (B, S, S) in [0, 1]. Output: scores (B) and maps (B, S, S). The text tower is not needed any
    more: its features are in the file, as are recipe, backbone digest and image size (metadata 'mediclip').
    The site's memory is private and in no export: all of them score by the text map alone.

    Example:  mediclip export --model runs/brain/model.safetensors --format onnx --out brain.onnx
    """
    if shareable:
        _share(model, out, as_json=as_json)
        return

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


def _share(model: Path, out: Path, *, as_json: bool) -> None:
    """Write a model file without memory, calibration and support digests, and read it again to prove it."""
    from mediclip.errors import SettingsError
    from mediclip.training.checkpoint import PRIVATE, load_model, load_tensors, rewrite_model
    from mediclip.training.private import own_tensors

    file = load_model(model)
    own = own_tensors(file)
    if own:
        message = (
            "A model to share must hold only what its federation shares. "
            f"{len(own)} of the {len(file.tensors)} tensors of this one never left the site; share the "
            "coordinator's model file instead."
        )
        raise SettingsError(message)
    console.make_folder(out.parent)
    rewrite_model(out, file)
    written, facts = load_tensors(out)
    left_out = [*sorted(file.private_tensors), *sorted(file.private_facts)]
    proof = {
        "file": str(out),
        "tensors": sorted(written),
        "left_out": left_out,
        "private": any(name not in file.tensors for name in written) or PRIVATE in facts,
    }
    if as_json:
        console.print_json(proof)
        return
    console.out.print(
        f"Wrote {out} ({out.stat().st_size / 2**20:.2f} MiB): {len(written)} trained tensors, nothing else.\n"
        f"Left out: {', '.join(left_out) or 'nothing, there was nothing private'}.",
        soft_wrap=True,
    )
