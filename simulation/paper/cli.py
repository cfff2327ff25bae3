"""``mediclip simulate paper``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mediclip.cli import console, options


def paper(
    *,
    data_root: Annotated[
        Path, typer.Option(help="Folder with one subfolder a set: brainmri, busi, chexpert, or your own.")
    ],
    backbone: options.Backbone,
    out: options.Out,
    part: Annotated[
        str,
        typer.Option(
            help="Parts with commas between: alone, zero_shot, federated, sites, rounds, ablation, transfer."
        ),
    ] = "alone,federated",
    sets: Annotated[
        str | None, typer.Option(help="Sets to use, with commas between; all that are there if omitted.")
    ] = None,
    shots: Annotated[str, typer.Option(help="Numbers of normal images.")] = "4,8,16,32",
    seeds: Annotated[int, typer.Option(help="How many seeds, from 0 on.", min=1)] = 5,
    recipes: Annotated[str, typer.Option(help="Recipes or TOML files.")] = "default,reference",
    sites: Annotated[int, typer.Option(help="Sites of the federated part.", min=2)] = 4,
    rounds: Annotated[int, typer.Option(help="Federated rounds.", min=1)] = 10,
    ablation_shots: Annotated[
        int, typer.Option(help="Normal images of the parts ablation and transfer.", min=1)
    ] = 16,
    taps: options.Taps = None,
    jobs: Annotated[int | None, typer.Option(help="Cells at a time; all cores when omitted.", min=1)] = None,
    on: Annotated[
        Literal["processes", "ray"], typer.Option(help="Processes of this machine, or Ray.")
    ] = "processes",
    device: options.Device = "cpu",
    plan: Annotated[bool, typer.Option("--plan", help="Print what would run and stop.")] = False,
    as_json: options.Json = False,
) -> None:
    """Run the paper's benchmark: every set, number of shots, seed, recipe and method; writes tables to OUT.

    A set that is not there is reported with where to get it, and the rest runs. Cells that OUT holds are not
    run again, so an interrupted benchmark goes on with the same command.

    Example:  mediclip simulate paper --data-root data --backbone ViT-L-14:openai --out runs/paper
    """
    from mediclip.errors import FederationError
    from simulation.paper.grid import PaperSettings
    from simulation.paper.run import PAGE, notes, plan_paper, run_paper

    settings = PaperSettings.parse(
        {
            "parts": console.split(part),
            "shots": console.split(shots),
            "seeds": list(range(seeds)),
            "recipes": console.split(recipes),
            "sites": sites,
            "rounds": rounds,
            "ablation_shots": ablation_shots,
        },
        source="the benchmark",
    )
    run = plan_paper(
        settings,
        data_root=data_root,
        out=out,
        backbone=backbone,
        taps=console.parse_taps(taps),
        only=None if sets is None else console.split(sets),
        device=device,
    )
    if plan:
        for note in notes(run, []):
            console.err.print(note, soft_wrap=True)
        console.print_json([cell.name for cell in run.grid.cells])
        return
    console.make_folder(out)
    with console.progress("Cells", quiet=as_json) as bar:
        document = run_paper(run, jobs=jobs, on=on, command=console.command_line(), on_cell=bar)
    if as_json:
        console.print_json(document)
    else:
        _print_paper(document)
        console.out.print(f"Report: {out / PAGE}", soft_wrap=True)
    if document["failed"]:
        message = (
            f"Every cell of the benchmark must finish. {len(document['failed'])} did not; the report says "
            "why, and the same command tries them again."
        )
        raise FederationError(message)


def _print_paper(document: Mapping[str, Any]) -> None:
    from simulation.paper.summary import lines_from
    from simulation.paper.tables import LEFT, PART_TITLES, make_tables

    for note in document["notes"]:
        console.out.print(note, soft_wrap=True)
    for table in make_tables(lines_from(document["summary"])):
        columns = {name: "left" if name in LEFT else "right" for name in table.columns}
        console.print_table(columns, [list(row) for row in table.rows], title=PART_TITLES[table.part])
