"""``mediclip train``: a detector from a few normal images, on one machine."""

from typing import Annotated

import typer

from mediclip.cli import console, options


def train(
    *,
    data: options.Data,
    backbone: options.Backbone,
    out: options.Out,
    shots: Annotated[int, typer.Option(help="Normal images to train on.", min=1)] = 16,
    seed: options.Seed = 0,
    recipe: options.Recipe = "default",
    taps: options.Taps = None,
    modality: options.Modality = None,
    body_part: options.BodyPart = None,
    view: options.View = None,
    labels: options.Labels = None,
    policy: options.Policy = None,
    device: options.Device = "cpu",
    threads: Annotated[int | None, typer.Option(help="Torch threads; all cores when omitted.", min=1)] = None,
    show_config: options.ShowConfig = False,
    as_json: options.Json = False,
) -> None:
    """Train a detector on a few normal scans; writes OUT/model.safetensors.

    Example:  mediclip train --data brainmri --shots 16 --backbone ViT-L-14:openai --out runs/brain
    """
    from mediclip.config import load_recipe
    from mediclip.data.dicom_tree import TreeChoice
    from mediclip.data.policies import parse_choices

    choice = TreeChoice.of(modality, body_part, view, labels)
    read = load_recipe(recipe).with_policies(parse_choices(policy), name="--policy")
    run = {"data": str(data), "backbone": backbone, "shots": shots, "seed": seed, "device": device}
    layers = console.parse_taps(taps)
    config = {"run": {**run, **choice.facts(), "taps": layers}, "recipe": read.model_dump(mode="json")}
    if show_config:
        console.print_json(config)
        return

    import torch

    from mediclip.training.run import TrainSettings, train_detector, write_run

    if threads is not None:
        torch.set_num_threads(threads)
    settings = TrainSettings(data, backbone, shots, seed, layers, device, choice)
    with console.progress("Training", quiet=as_json) as bar:
        trained = train_detector(
            settings,
            read,
            on_view=lambda done, total: bar(done, total, "encoding views"),
            on_step=lambda done, total, loss: bar(done, total, f"loss {loss:.3f}"),
        )
    folder = console.make_folder(out)
    model = write_run(folder, trained, config=config, command=console.command_line())
    network, facts = trained.network, trained.facts
    if as_json:
        done = {"model": str(model), **facts, "loss": trained.result.losses[-1]}
        done["left_out"] = dict(trained.left_out)
        console.print_json({**done, "seconds": round(trained.seconds, 1)})
        return
    console.tell_left_out(trained.left_out)
    console.out.print(
        f"Trained {facts['steps']} steps on {shots} normal images of {facts['set']} "
        f"in {trained.seconds:.0f} s ({network.schema.size():,} values on {network.backbone.name}).\n"
        f"Model: {model}\n"
        f"Next:  mediclip evaluate --model {model} --data {data} --out {folder}",
        soft_wrap=True,
    )
