"""``mediclip simulate``: many sites on one machine."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mediclip.cli import console, options
from simulation.methods import METHODS, USUAL_METHODS, parse_methods
from simulation.paper.cli import paper

if TYPE_CHECKING:
    from mediclip.config import Recipe
    from simulation.experiment import ExperimentSettings
    from simulation.scenario import Scenario

app = typer.Typer(
    no_args_is_help=True, help="Many sites on one machine: a demo, and comparisons on real scans."
)

app.command("paper")(paper)

_DEMO_ORGANS = ("brain", "chest", "breast")
_DEMO_SCANS = "scans"
_DEMO_MARK = "demo.json"
_DEMO_SHOTS = 8
_DEMO_ROUNDS = 8


@app.command()
def run(
    *,
    data: Annotated[
        list[str],
        typer.Option(
            help="A set as NAME=DIR; several sets give sites sets in turn, one set is split.",
            metavar="NAME=DIR",
            show_default=False,
        ),
    ],
    backbone: options.Backbone,
    out: options.Out,
    sites: Annotated[int, typer.Option(help="Number of sites.", min=1)] = 4,
    shots: Annotated[int, typer.Option(help="Normal scans of each site.", min=1)] = 8,
    rounds: Annotated[int, typer.Option(help="Federated rounds.", min=1)] = 10,
    seed: options.Seed = 0,
    engine: Annotated[
        Literal["inprocess", "ray"], typer.Option(help="One process, or Ray through 'flwr run'.")
    ] = "inprocess",
    recipe: options.Recipe = "default",
    policy: options.Policy = None,
    taps: options.Taps = None,
    strategy: Annotated[
        Literal[
            "fedavg", "fedprox", "fedadam", "fedmedian", "fedtrimmedavg", "multikrum", "personal", "clustered"
        ],
        typer.Option(help="How the server joins updates."),
    ] = "fedavg",
    proximal_mu: Annotated[float, typer.Option(help="Weight of FedProx's pull.", min=0)] = 0.01,
    codec: Annotated[
        Literal["float32", "float16", "int8", "two-bit", "low-rank"],
        typer.Option(help="How tensors travel: whole in float32, or as differences with fewer bits."),
    ] = "float32",
    partition: Annotated[
        Literal["iid", "dirichlet"], typer.Option(help="How the sites of one set split its scans.")
    ] = "iid",
    alpha: Annotated[float, typer.Option(help="Dirichlet concentration: small makes sites differ.")] = 0.5,
    methods: Annotated[
        str,
        typer.Option(
            help=f"What to compare, with commas between: {', '.join(METHODS)}. Local stands for each site "
            "alone, kept for what each site keeps in the end; winclip and patchcore train nothing."
        ),
    ] = ",".join(USUAL_METHODS),
    parallel: Annotated[
        int | None, typer.Option(help="Sites that train side by side; all cores when omitted.", min=1)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run in --out.")
    ] = False,
    show_config: options.ShowConfig = False,
    as_json: options.Json = False,
) -> None:
    """Compare untrained, local, federated and centralised on the same test scans; writes OUT/result.json.

    All start from the same tensors. 'local' and 'federated' give each site the same steps on the same
    batches; 'centralised' is one model on the support scans of all sites and sets, with the recipe's steps
    for that many. In the rows of 'local' with site 'all' each metric is the mean over the sites' own models.

    Example:  mediclip simulate run --data brain=brainmri --sites 4 --backbone ViT-L-14:openai --out runs/four
    """
    from mediclip.config import load_recipe
    from mediclip.data.policies import parse_choices

    folders = _parse_sets(data)
    read = load_recipe(recipe).with_policies(parse_choices(policy), name="--policy")
    layers = console.parse_taps(taps)
    compared = parse_methods(methods)
    shown = {
        "data": {name: str(folder) for name, folder in folders.items()},
        "backbone": backbone,
        "sites": sites,
        "shots": shots,
        "rounds": rounds,
        "seed": seed,
        "engine": engine,
        "taps": layers,
        "strategy": strategy,
        "proximal_mu": proximal_mu if strategy == "fedprox" else 0.0,
        "codec": codec,
        "partition": partition,
        "alpha": alpha if partition == "dirichlet" else None,
        "methods": list(compared),
    }
    if show_config:
        console.print_json({"run": shown, "recipe": read.model_dump(mode="json")})
        return

    from simulation.experiment import ExperimentSettings
    from simulation.scenario import make_scenario

    scenario = make_scenario(
        folders,
        sites=sites,
        shots=shots,
        seed=seed,
        partition=partition,
        alpha=alpha,
        image_size=read.image_size,
        policies=read.policies,
    )
    settings = ExperimentSettings(
        out,
        backbone,
        rounds,
        shots,
        seed,
        engine=engine,
        strategy=strategy,
        proximal_mu=proximal_mu if strategy == "fedprox" else 0.0,
        codec=codec,
        taps=layers,
        parallel=parallel,
        methods=compared,
    )
    title = f"{sites} sites, {shots} normal scans each, {rounds} rounds: {', '.join(folders)}"
    _compare(scenario, read, settings, title=title, resume=resume, as_json=as_json)


@app.command()
def demo(
    *,
    out: options.Out = Path("demo"),
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Let three hospitals with different organs train together on phantom scans; no network, no real data.

    The backbone is 'embedded', a compact CLIP that was pretrained on drawn scans alone. An earlier demo in
    the same folder is replaced.

    Example:  mediclip simulate demo --out demo
    """
    from mediclip.config import load_recipe
    from mediclip.errors import SettingsError
    from simulation.experiment import ExperimentSettings
    from simulation.phantom import draw_scanner, write_phantom_set
    from simulation.scenario import make_scenario

    mark = out / _DEMO_MARK
    if mark.exists():
        shutil.rmtree(out)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        message = f"--out must be a new folder or that of an earlier demo. {out} is neither; name another."
        raise SettingsError(message)
    console.make_folder(out)
    mark.write_text(f'{{"seed": {seed}}}\n', encoding="utf-8")
    folders = {}
    with console.progress("Drawing phantom scans", quiet=as_json) as bar:
        for done, organ in enumerate(_DEMO_ORGANS):
            bar(done, len(_DEMO_ORGANS), organ)
            folders[organ] = write_phantom_set(
                out / _DEMO_SCANS / organ,
                organ,
                seed=seed,
                train_normal=_DEMO_SHOTS,
                scanner=draw_scanner(seed, organ),
            )
        bar(len(_DEMO_ORGANS), len(_DEMO_ORGANS))
    read = load_recipe("default")
    scenario = make_scenario(folders, sites=len(folders), shots=_DEMO_SHOTS, seed=seed)
    settings = ExperimentSettings(out, "embedded", _DEMO_ROUNDS, _DEMO_SHOTS, seed)
    title = f"Three hospitals, three organs, {_DEMO_SHOTS} normal phantom scans each"
    _compare(scenario, read, settings, title=title, resume=False, as_json=as_json)
    if not as_json:
        console.out.print(
            "Drawn scans show that everything works, not how well it works on patients.\n"
            "Next, with your scans in my-scans/normal and my-scans/abnormal:\n"
            "  mediclip train --data my-scans --shots 16 --backbone local-dir:DIR --out runs/mine",
            soft_wrap=True,
        )


def _compare(
    scenario: "Scenario",
    recipe: "Recipe",
    settings: "ExperimentSettings",
    *,
    title: str,
    resume: bool,
    as_json: bool,
) -> None:
    from simulation.compare import report_path, run_comparison
    from simulation.experiment import Experiment

    with console.phases(quiet=as_json) as on_phase:
        document = run_comparison(
            Experiment(scenario, recipe, settings),
            resume=resume,
            command=console.command_line(),
            title=title,
            on_phase=on_phase,
        )
    if as_json:
        console.print_json(document)
        return
    _print(document)
    console.out.print(
        f"{document['bytes_up_per_round'] / 2**20:.2f} MiB up and "
        f"{document['bytes_down_per_round'] / 2**20:.2f} MiB down a round, all sites; "
        f"{document['seconds']:.0f} s in all.\nReport: {report_path(settings.out)}",
        soft_wrap=True,
    )


def _print(document: Mapping[str, Any]) -> None:
    rows: list[dict[str, Any]] = document["rows"]
    sites = [site for site in dict.fromkeys(row["site"] for row in rows) if site != "all"]
    for set_name in dict.fromkeys(row["set"] for row in rows):
        mine = [row for row in rows if row["set"] == set_name]
        shown = [site for site in sites if any(row["site"] == site for row in mine)]
        cells = []
        for method in dict.fromkeys(row["method"] for row in mine):
            by_site = {row["site"]: row for row in mine if row["method"] == method}
            whole = by_site["all"]
            alone = [console.figure(by_site[s]["image_auroc"]) for s in shown] if len(shown) > 1 else []
            cells.append(
                [
                    method,
                    console.figure(whole["image_auroc"], whole["image_auroc_interval"]),
                    console.figure(whole["pixel_auroc"]),
                    *alone,
                ]
            )
        columns = {"method": "left", "image AUROC": "right", "pixel AUROC": "right"}
        columns |= dict.fromkeys(shown if len(shown) > 1 else [], "right")
        counts = f"{mine[0]['n_normal']} normal and {mine[0]['n_abnormal']} abnormal test images"
        console.print_table(columns, cells, title=f"{set_name}: {counts}")


def _parse_sets(texts: list[str]) -> dict[str, Path]:
    """Read ``NAME=DIR`` options.

    Raises:
        SettingsError: If one has another form or a name stands twice.
    """
    from mediclip.errors import SettingsError

    folders: dict[str, Path] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder or name in folders:
            message = f"--data must be NAME=DIR with a name of its own, such as brain=scans. Got {text!r}."
            raise SettingsError(message)
        folders[name] = Path(folder)
    return folders
