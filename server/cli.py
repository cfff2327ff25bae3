"""``mediclip server``: the coordinator of a federation."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from mediclip.cli import console, options

if TYPE_CHECKING:
    from server.provision import Provisioned
    from server.status import Status

app = typer.Typer(
    no_args_is_help=True, help="The coordinator of a federation: kits for the sites, and the run itself."
)

_TERMINATED: Final = 128 + signal.SIGTERM
_STOP_LOOK_S: Final = 0.5
_SOON: Final = timedelta(days=30)

Federation = Annotated[
    Path, typer.Argument(help="The federation's settings.", metavar="FEDERATION.TOML", show_default=False)
]
KitsFolder = Annotated[
    Path | None,
    typer.Option(
        "--kits", help="Folder of the kits. [dim]Default: kits beside federation.toml.[/]", metavar="DIR"
    ),
]
RunFolder = Annotated[
    Path, typer.Option("--out", help="Folder of the run.", metavar="DIR", show_default=False)
]


@app.command()
def new(
    *,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Backbone that all sites will have; it is loaded here, which needs torch.", metavar="SPEC"
        ),
    ] = None,
    facts: Annotated[
        Path | None,
        typer.Option(
            help="What 'mediclip backbone SPEC --json' printed elsewhere, in place of --backbone.",
            metavar="FILE",
        ),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the federation.")] = "my-federation",
    address: Annotated[
        str, typer.Option(help="HOST:PORT under which the sites will reach this coordinator.")
    ] = ("coordinator.example.org:8443"),
    site: Annotated[
        list[str] | None, typer.Option(help="A site's name; may be repeated.", metavar="NAME")
    ] = None,
    recipe: options.Recipe = "default",
) -> None:
    """Print a federation.toml to begin with: every key, its meaning, and the facts of the backbone.

    Example:  mediclip server new --backbone local-dir:my-backbone --site north --site south > federation.toml
    """
    from server.template import federation_toml

    found = _facts(backbone, facts, recipe)
    text = federation_toml(
        found, name=name, address=address, sites=site or ["site-1", "site-2", "site-3"], recipe=recipe
    )
    sys.stdout.write(text)


def _facts(backbone: str | None, file: Path | None, recipe: str) -> dict[str, Any]:
    import importlib
    import json

    from mediclip.errors import SettingsError

    if (backbone is None) == (file is None):
        message = "A federation must have one backbone. Name it with --backbone or its facts with --facts."
        raise SettingsError(message)
    if file is not None:
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            message = (
                f"--facts must be what 'mediclip backbone SPEC --json' printed. {file.name} is not; run it "
                "again."
            )
            raise SettingsError(message) from error
    # By name, because a coordinator needs no torch but here.
    return dict(importlib.import_module("mediclip.cli.backbone").describe(backbone, recipe))


@app.command()
def provision(
    federation: Federation,
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the kits. [dim]Default: kits beside federation.toml.[/]", metavar="DIR"),
    ] = None,
    add_site: Annotated[
        list[str] | None, typer.Option(help="A further site; may be repeated.", metavar="NAME")
    ] = None,
    revoke_site: Annotated[
        list[str] | None,
        typer.Option(help="A site that may take part no more; may be repeated.", metavar="NAME"),
    ] = None,
    renew_site: Annotated[
        list[str] | None,
        typer.Option(help="A site whose key gets a new term; may be repeated.", metavar="NAME"),
    ] = None,
    show_config: options.ShowConfig = False,
    as_json: options.Json = False,
) -> None:
    """Make certificates, keys and one kit for each site, or bring them up to date.

    Hand each SITE.zip to its site by a safe way: it holds the site's key.

    Example:  mediclip server provision federation.toml --out kits
    """
    from server.federation import load_federation
    from server.provision import KITS, provision as make

    settings, _ = load_federation(federation)
    folder = out or federation.parent / KITS
    if show_config:
        console.print_json(settings.model_dump(mode="json"))
        return
    done = make(
        settings,
        console.make_folder(folder),
        add=add_site or (),
        revoke=revoke_site or (),
        renew=renew_site or (),
    )
    values = {
        "kits": str(folder),
        "made": list(done.made),
        "revoked": list(done.revoked),
        "renewed": list(done.renewed),
        "refreshed": list(done.refreshed),
        "certificate_expires": done.kits.server_expiry().isoformat(),
    }
    if as_json:
        console.print_json(values)
        return
    for name in done.made:
        console.out.print(f"made       {folder / name}.zip")
    for name in done.refreshed:
        console.out.print(f"kept key   {folder / name}.zip")
    for name in done.renewed:
        console.out.print(f"renewed    {folder / name / 'kit.toml'}")
    for name in done.revoked:
        console.out.print(f"revoked    {name}")
    console.out.print(f"The server's certificate is good until {done.kits.server_expiry():%Y-%m-%d}.")
    _say_what_is_next(done, federation)


def _say_what_is_next(done: "Provisioned", federation: Path) -> None:
    steps = []
    if done.made:
        steps.append(
            "Hand each SITE.zip to its site by a safe way, then delete it and the site's node_key here."
        )
    if done.renewed:
        steps.append("Hand each renewed kit.toml to its site, which puts it in the old one's place.")
    steps.append(f"Next:  mediclip server start {federation} --out run")
    for step in steps:
        console.out.print(step, soft_wrap=True, markup=False)


@app.command()
def start(
    federation: Federation,
    *,
    out: RunFolder,
    kits: KitsFolder = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished round in --out, if there is one.")
    ] = False,
    show_config: options.ShowConfig = False,
    as_json: options.Json = False,
) -> None:
    """Run the federation to its last round, through crashes of anything but this machine.

    Ctrl-C ends at once and 'mediclip server stop' after the round in work; both can be resumed.

    Example:  mediclip server start federation.toml --out run
    """
    from server.federation import load_federation
    from server.provision import KITS, Kits

    settings, recipe = load_federation(federation)
    if show_config:
        console.print_json(
            {"federation": settings.model_dump(mode="json"), "recipe": recipe.model_dump(mode="json")}
        )
        return

    from server.start import Launch, coordinate

    launch = Launch(settings, recipe, Kits(kits or federation.parent / KITS), out, resume)
    with _terminating(), _shown(quiet=as_json) as on_status:
        last = coordinate(launch, on_status)
    if as_json:
        console.print_json(_plain(last))
    elif last.phase == "finished":
        console.out.print(f"Finished. The final tensors are in {out / 'final.safetensors'}.", soft_wrap=True)
    else:
        console.out.print(f"Stopped after round {last.round}. Go on with --resume.")
    if not as_json and last.round:
        _say_where_the_model_is(out, keeps_parts=bool(recipe.private))


def _say_where_the_model_is(out: Path, *, keeps_parts: bool) -> None:
    from server.model_file import MODEL

    if keeps_parts:
        text = (
            "Each site keeps a part of the model for itself and has a whole one, which 'mediclip client "
            "status' names."
        )
    elif (out / MODEL).exists():
        model = out / MODEL
        text = f"Model: {model}\nNext:  mediclip score --model {model} --backbone SPEC scan.dcm --out scores"
    else:
        text = "No model file: 'sha256' in [backbone] of federation.toml must say which backbone it needs."
    console.out.print(text, soft_wrap=True, markup=False)


@app.command()
def assign(
    federation: Federation,
    descriptor: Annotated[
        Path,
        typer.Argument(help="What 'mediclip client describe' wrote.", metavar="FILE", show_default=False),
    ],
    *,
    out: RunFolder,
    as_json: options.Json = False,
) -> None:
    """Find the model for a site that did not train, by what its scans look like: that of its cluster.

    The run must have been of strategy 'clustered' and have ended. A site that is like no cluster gets the
    model of all sites.

    Example:  mediclip server assign federation.toml new-site.json --out run
    """
    import json

    from mediclip.errors import SettingsError
    from server.federation import load_federation
    from server.model_file import model_for

    settings, recipe = load_federation(federation)
    try:
        values = tuple(float(v) for v in json.loads(descriptor.read_text(encoding="utf-8"))["descriptor"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = (
            f"A descriptor must be a file that 'mediclip client describe' wrote. {descriptor.name} is none; "
            "ask the site to write it again."
        )
        raise SettingsError(message) from error
    model, cluster = model_for(settings, recipe, out, values)
    if as_json:
        console.print_json({"model": str(model), "cluster": cluster})
        return
    whose = "all sites: it is like no cluster that has one" if cluster is None else f"cluster {cluster}"
    console.out.print(f"The site gets the model of {whose}.\nModel: {model}", soft_wrap=True, markup=False)


@app.command()
def status(*, out: RunFolder, as_json: options.Json = False) -> None:
    """Say where a federation stands, whether it runs or not; exits with 7 if it failed.

    Example:  mediclip server status --out run --json
    """
    from server.authority import now_utc
    from server.status import read_status
    from server.view import Rounds, render

    found = read_status(out)
    if as_json:
        console.print_json(_plain(found))
    else:
        rounds = Rounds()
        rounds.see(found)
        console.out.print(render(found, rounds))
        expiries = {site.name: site.key_expires for site in found.sites}
        for name, expiry in {"the server's certificate": found.certificate_expires, **expiries}.items():
            if expiry - now_utc() < _SOON:
                console.out.print(f"[yellow]{name}: good until {expiry:%Y-%m-%d} only[/]")
    if found.phase == "failed":
        raise typer.Exit(7)


@app.command()
def stop(
    *,
    out: RunFolder,
    timeout: Annotated[float, typer.Option(help="Longest wait in seconds for the round in work.", min=0)] = (
        7200.0
    ),
) -> None:
    """End a federation after the round in work, and wait for that.

    Example:  mediclip server stop --out run
    """
    from mediclip.errors import FederationError
    from server.app import STOP
    from server.status import is_running, read_status

    read_status(out)
    if not is_running(out):
        message = f"A federation to stop must run. None does in {out.name}; there is nothing to do."
        raise FederationError(message)
    (out / STOP).touch()
    deadline = time.monotonic() + timeout
    with console.err.status("Waiting for the round in work"):
        while is_running(out):
            if time.monotonic() > deadline:
                message = (
                    f"The round in work must end within {timeout:g} seconds. It did not; the federation will "
                    "stop when it does."
                )
                raise FederationError(message)
            time.sleep(_STOP_LOOK_S)
    last = read_status(out)
    console.out.print(f"{last.phase.capitalize()} after round {last.round} of {last.rounds}.")


@contextmanager
def _shown(*, quiet: bool) -> Iterator[Any]:
    """Show statuses live on a terminal, line by line in a log, or not at all."""
    from rich.live import Live

    from server.view import Rounds, headline, render, round_line

    rounds, phases = Rounds(), [""]
    if quiet:
        yield None
    elif console.err.is_terminal:
        with Live(console=console.err, refresh_per_second=4) as live:

            def draw(status: "Status") -> None:
                rounds.see(status)
                live.update(render(status, rounds))

            yield draw
    else:

        def write(status: "Status") -> None:
            if status.phase != phases[0]:
                phases[0] = status.phase
                console.err.print(headline(status), soft_wrap=True)
            if rounds.see(status):
                console.err.print(round_line(status), markup=False, soft_wrap=True)

        yield write


@contextmanager
def _terminating() -> Iterator[None]:
    """Let a service manager's SIGTERM end the coordinator in good order."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _plain(status: "Status") -> dict[str, Any]:
    return status.model_dump(mode="json") | {"online": status.online}
