"""``mediclip remember``: give a model that came from elsewhere a memory of this site's own normal scans."""

from pathlib import Path
from typing import Annotated

import typer

from mediclip.cli import console, options


def remember(
    *,
    model: options.Model,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Model file to write.", metavar="FILE", show_default=False)],
    shots: Annotated[int, typer.Option(help="Normal images to remember.", min=2, max=64)] = 16,
    seed: options.Seed = 0,
    backbone: options.OtherBackbone = None,
    device: options.Device = "cpu",
    as_json: options.Json = False,
) -> None:
    """Build a site's memory for a model without training it: a federation's model, or a shared one.

    An earlier memory and calibration are replaced. The recipe must have [memory].

    Example:  mediclip remember --model global.safetensors --data brainmri --out brain.safetensors
    """
    from mediclip.cli.loading import load_detector
    from mediclip.data.manifest import open_dataset
    from mediclip.data.preprocess import load_images
    from mediclip.data.support import draw_support
    from mediclip.evaluation.duplicates import image_digest
    from mediclip.model.memory import build_memory
    from mediclip.training.checkpoint import rewrite_model
    from mediclip.training.private import own_tensors, private_parts

    detector = load_detector(model, backbone=backbone, device=device)
    support = load_images(draw_support(open_dataset(data).train, shots, seed), detector.preprocess)
    memory = build_memory(detector.network, support, seed=seed)
    digests = [image_digest(image) for image in support]
    tensors, facts = private_parts(memory, support=digests, own=own_tensors(detector.file))
    rewrite_model(out, detector.file, private_tensors=tensors, private_facts=facts)
    size = sum(array.nbytes for array in tensors.values())
    if as_json:
        console.print_json({"model": str(out), "shots": shots, "seed": seed, "memory_bytes": size})
        return
    console.out.print(
        f"Remembered {shots} normal scans in {size / 2**20:.1f} MiB, private to this site.\nModel: {out}",
        soft_wrap=True,
    )
