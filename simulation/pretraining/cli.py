"""``mediclip pretrain``: make a backbone from generated images alone."""

import os
from pathlib import Path
from typing import Annotated

import typer

from mediclip.cli import console, options


def pretrain(
    *,
    out: options.Out,
    settings: Annotated[
        Path | None,
        typer.Option(help="TOML file of the run; what the embedded backbone was made with if omitted."),
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Images of the corpus.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of images, weights and order.")] = None,
    device: options.Device = "cpu",
    workers: Annotated[
        int | None, typer.Option(help="Processes that draw the corpus; all cores when omitted.", min=1)
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of the corpus; OUT/corpus when omitted.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    show_config: options.ShowConfig = False,
    as_json: options.Json = False,
) -> None:
    """Train a compact CLIP on generated scans and captions; writes weights, recipe and model card to OUT.

    The corpus is drawn once and kept in --corpus. Stop it at any time: --resume goes on from the last
    checkpoint, with the same result. Use the folder as --backbone local-dir:OUT.

    Example:  mediclip pretrain --out backbones/compact --device cuda
    """
    from simulation.pretraining.settings import load_settings

    read = load_settings(settings, examples=examples, steps=steps, batch_size=batch_size, seed=seed)
    if show_config:
        console.print_json(read.model_dump(mode="json"))
        return

    from mediclip.errors import CheckpointError
    from simulation.pretraining.corpus import build_corpus, corpus_digest
    from simulation.pretraining.judge import judge
    from simulation.pretraining.release import write_card, write_weights
    from simulation.pretraining.training import CHECKPOINT, Pretraining

    console.make_folder(out)
    checkpoint = out / CHECKPOINT
    if checkpoint.exists() and not resume:
        message = (
            f"--out must hold no earlier run. {out.name} holds {CHECKPOINT}; add --resume or name another "
            "folder."
        )
        raise CheckpointError(message)
    with console.phases(quiet=as_json) as bar:
        images = build_corpus(
            corpus or out / "corpus",
            seed=read.seed,
            examples=read.examples,
            size=read.image_size,
            workers=workers or os.cpu_count() or 1,
            on_example=lambda done, total: bar("drawing", done, total, "images"),
        )
        run = Pretraining(read, images, device=device)
        if checkpoint.exists():
            run.resume(checkpoint)
        run.run(
            out,
            on_step=lambda done, total, losses: bar(
                "training", done, total, "  ".join(f"{name} {value:.2f}" for name, value in losses.items())
            ),
        )
        backbone = write_weights(out, run.average, read)
        results = judge(
            backbone, seed=read.seed, on_organ=lambda done, total: bar("judging", done, total, "organs")
        )
    write_card(out, backbone, read, results, corpus_digest(images))
    if as_json:
        console.print_json({"sha256": backbone.sha256, "zero_shot": [vars(result) for result in results]})
        return
    console.print_table(
        {"organ": "left", "image AUROC": "right", "by its map": "right", "pixel AUROC": "right"},
        [[r.organ, *map(console.figure, (r.image_auroc, r.map_auroc, r.pixel_auroc))] for r in results],
        title="Phrases alone, unseen phantoms",
    )
    console.out.print(f"Wrote {out}. Use it as --backbone local-dir:{out}", soft_wrap=True)
