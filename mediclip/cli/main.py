"""The program ``mediclip``: its own commands, and those of the other packages, found by name."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from mediclip import __version__, bundle
from mediclip.cli import (
    backbone,
    calibrate,
    console,
    evaluate,
    export,
    inspect,
    remember,
    score,
    train,
    verify,
)
from mediclip.errors import FederationError, MediClipError

_COMMANDS = {"pretrain": "simulation.pretraining.cli"}
_GROUPS = {"simulate": "simulation.cli", "client": "client.cli", "server": "server.cli"}


def _show_version(*, wanted: bool) -> None:
    if wanted:
        console.out.print(f"mediclip {__version__}")
        raise typer.Exit


def _start(
    *,
    _version: Annotated[
        bool, typer.Option("--version", callback=lambda value: _show_version(wanted=value), is_eager=True)
    ] = False,
) -> None:
    """Few-shot anomaly detection in medical images, alone or federated. Research use only."""


def build() -> typer.Typer:
    """Put the command line together.

    Returns:
        The application; groups of packages that are not installed are left out.
    """
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        epilog="Start with:  mediclip simulate demo --out demo",
    )
    app.callback()(_start)
    app.command("train")(train.train)
    app.command("evaluate")(evaluate.evaluate)
    app.command("score")(score.score)
    app.command("calibrate")(calibrate.calibrate)
    app.command("remember")(remember.remember)
    app.command("export")(export.export)
    app.command("inspect")(inspect.inspect)
    app.command("verify")(verify.verify)
    app.command("backbone")(backbone.backbone)
    try:
        bundle.put_first_on_path()
    except FederationError:
        return app  # the library alone, without the application
    for name, module in _GROUPS.items():
        if _is_installed(module):
            app.add_typer(importlib.import_module(module).app, name=name)
    for name, module in _COMMANDS.items():
        if _is_installed(module):
            app.command(name)(getattr(importlib.import_module(module), name))
    return app


def _is_installed(module: str) -> bool:
    package = module.partition(".")[0]
    return bool(importlib.util.find_spec(package) and importlib.util.find_spec(module))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``mediclip``.

    An error of this project becomes one sentence on standard error and its exit code.

    Args:
        arguments: What stands after the program's name; the process's own when omitted.
    """
    try:
        build()(args=arguments)
    except MediClipError as error:
        console.fail(error)


def flower_server(arguments: Sequence[str] | None = None) -> None:
    """Run ``flower-server``, which is ``mediclip server`` under the name that Flower's users look for.

    Args:
        arguments: What stands after the program's name; the process's own when omitted.
    """
    main(["server", *(sys.argv[1:] if arguments is None else arguments)])
