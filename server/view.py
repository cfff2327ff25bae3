"""A running federation on a terminal: one line for where it stands, one for each site and each late round."""

from collections.abc import Iterable
from typing import Final

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from server.status import SiteStatus, Status

_SHOWN: Final = 8
_MANY: Final = 24
_COLOURS: Final = {
    "starting": "yellow",
    "waiting": "yellow",
    "running": "green",
    "stopping": "yellow",
    "finished": "bold green",
    "stopped": "bold yellow",
    "failed": "bold red",
    "interrupted": "bold red",
}
_ENDED: Final = {"finished", "stopped", "failed", "interrupted"}
"""Phases in which nobody listens to the sites any more."""


class Rounds:
    """Remembers the late rounds of the statuses that it is shown."""

    def __init__(self) -> None:
        self._rows: dict[int, Status] = {}

    def see(self, status: Status) -> bool:
        """Take in a status.

        Returns:
            Whether it tells of a round that was not seen before.
        """
        new = status.round > max(self._rows, default=0)
        if status.round:
            self._rows[status.round] = status
            self._rows = dict(sorted(self._rows.items())[-_SHOWN:])
        return new

    def latest(self) -> Iterable[Status]:
        """Give the late rounds, the last one last."""
        return self._rows.values()


def render(status: Status, rounds: Rounds) -> RenderableType:
    """Draw where a federation stands.

    Args:
        status: The present.
        rounds: What was seen before.

    Returns:
        Something that Rich prints.
    """
    parts: list[RenderableType] = [headline(status), ProgressBar(status.rounds, status.round, width=60)]
    if status.phase not in _ENDED:
        parts.append(_sites(status.sites))
    if status.round:
        table = Table("round", "metrics", "refused")
        for row in rounds.latest():
            table.add_row(str(row.round), _metrics(row), escape(_refused(row)))
        parts.append(table)
    if restarts := {name: count for name, count in status.restarts.items() if count}:
        parts.append(Text("started again: " + ", ".join(f"{n} {c}×" for n, c in restarts.items()), "dim"))
    return Group(*parts)


def headline(status: Status) -> Text:
    """Say in one line where a federation stands."""
    text = Text.assemble(
        (status.federation, "bold"),
        "  ",
        (status.phase, _COLOURS[status.phase]),
        f"  round {status.round} of {status.rounds}",
    )
    if status.phase not in _ENDED:
        text.append(f"  {status.online} of {len(status.sites)} sites online, {status.quorum} needed")
    if status.message:
        text.append(f"\n{status.message}")
    return text


def round_line(status: Status) -> str:
    """Say in one line of plain text what a round gave."""
    refused = _refused(status)
    return f"round {status.round} of {status.rounds}: {_metrics(status)}" + (
        f"; refused: {refused}" if refused else ""
    )


def _sites(sites: tuple[SiteStatus, ...]) -> RenderableType:
    if len(sites) > _MANY:
        away = [site.name for site in sites if not site.online]
        more = f" and {len(away) - _MANY} more" if len(away) > _MANY else ""
        return Text(f"away: {', '.join(away[:_MANY]) or 'nobody'}{more}")
    return Text.assemble(
        *((f"● {site.name}  ", "green") if site.online else (f"○ {site.name}  ", "dim") for site in sites)
    )


def _metrics(status: Status) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in status.metrics.items()) or "no metric was sent"


def _refused(status: Status) -> str:
    return ", ".join(f"{site} ({reason})" for site, reason in status.refused.items())
