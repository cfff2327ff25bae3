"""What all commands share: where text goes, progress bars, run folders, and how an error ends the program."""

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from mediclip.errors import MediClipError, SettingsError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

OnProgress = Callable[[int, int], None]


def fail(error: MediClipError) -> NoReturn:
    """Print the error's one sentence to standard error and exit with its code."""
    err.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
    raise SystemExit(error.exit_code)


@contextmanager
def progress(title: str, *, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error.

    Args:
        title: What is being done.
        quiet: Whether to show nothing, as for ``--json``.

    Yields:
        A function of things done, things in all and, if wanted, a note such as the current loss.
    """
    with phases(quiet=quiet) as on_phase:

        def update(done: int, total: int, note: str = "") -> None:
            on_phase(title, done, total, note)

        yield update


@contextmanager
def phases(*, quiet: bool = False) -> Iterator[Callable[[str, int, int, str], None]]:
    """Show a progress bar for each phase of a longer run, on standard error.

    Args:
        quiet: Whether to show nothing, as for ``--json``.

    Yields:
        A function of the phase's name, things done and in all, and a note.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=err, disable=quiet) as bar:
        tasks: dict[str, TaskID] = {}

        def update(phase: str, done: int, total: int, note: str) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(phase, total=total, note=note)
            bar.update(tasks[phase], completed=done, total=total, note=note)

        yield update


def make_folder(folder: Path) -> Path:
    """Create the folder for results, or use the one that is there.

    Raises:
        SettingsError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = (
            f"--out must be a folder that can be written. {folder} is not ({error.strerror}); name another."
        )
        raise SettingsError(message) from error
    return folder


def parse_taps(text: str | None) -> tuple[int, ...] | None:
    """Read ``"6,9,12"`` as tapped layers.

    Raises:
        SettingsError: If it is no list of whole numbers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        message = (
            f"--taps must be whole numbers with commas between, such as 6,9,12. Got {text!r}; correct it."
        )
        raise SettingsError(message) from error


def split(text: str) -> tuple[str, ...]:
    """Split an option with commas between its parts."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def command_line() -> str:
    """Give what was typed, to be stored beside results."""
    return shlex.join(["mediclip", *sys.argv[1:]])


def print_json(values: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Print plain values as JSON to standard output."""
    sys.stdout.write(json.dumps(values, indent=2) + "\n")


def print_table(columns: Mapping[str, str], rows: list[list[str]], *, title: str | None = None) -> None:
    """Print a table.

    Args:
        columns: Heading and justification (``left`` or ``right``) of each column.
        rows: Cells as text.
        title: A line above it.
    """
    table = Table(title=title, title_justify="left", title_style="bold")
    for heading, justify in columns.items():
        table.add_column(heading, justify="right" if justify == "right" else "left")
    for row in rows:
        table.add_row(*row)
    out.print(table)


def tell_left_out(counts: Mapping[str, int]) -> None:
    """Say how many files of a folder are not in the set, for each reason; nothing where none is left out."""
    if counts:
        reasons = ", ".join(f"{reason} {count}" for reason, count in counts.items())
        out.print(f"Left out: {escape(reasons)}.", soft_wrap=True)


def figure(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """Write a metric for a person: ``0.882 [0.84, 0.92]``, or a dash where it is undefined."""
    if value is None:
        return "–"
    return f"{value:.3f}" if interval is None else f"{value:.3f} \\[{interval[0]:.2f}, {interval[1]:.2f}]"
