"""``mediclip client``: one site of a federation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mediclip.cli import console, options

if TYPE_CHECKING:
    from client.check import DryRun
    from client.kit import Kit
    from client.supervise import Part

app = typer.Typer(no_args_is_help=True, help="One site: check it, start it, see what it does and what left.")

KitFolder = Annotated[
    Path, typer.Option("--kit", help="Folder of the coordinator's kit.", metavar="DIR", show_default=False)
]


@app.command()
def start(
    *,
    kit: KitFolder,
    part: Annotated[
        str | None,
        typer.Option(
            help="daemon or node: one part, where site.toml names a 'clientapp_user' for the other.",
            metavar="PART",
        ),
    ] = None,
) -> None:
    """Start the site and keep it running until it is told to end (Ctrl-C, SIGTERM).

    Example:  mediclip client start --kit kits/north
    """
    import logging
    import signal
    import threading
    from datetime import UTC, datetime

    from client.kit import Kit
    from client.supervise import Supervisor

    opened = Kit(kit)
    opened.policy()
    chosen = _part(opened, part)
    warning = opened.check_term(datetime.now(UTC))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    if warning:
        logging.getLogger("mediclip.client").warning("%s", warning)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    console.err.print(f"{opened.settings.site} serves {opened.settings.federation}; logs are in {kit}/state")
    Supervisor(opened, chosen).run(stop)


def _part(kit: "Kit", part: str | None) -> "Part | None":
    """Check that the part to start fits the site's settings and the user who starts it."""
    import os

    from client.service.door import find_user
    from mediclip.errors import SettingsError

    name = kit.site().clientapp_user
    if part not in {None, "daemon", "node"} or (part is None) != (name is None):
        message = (
            "--part must be 'daemon' or 'node' where site.toml names a 'clientapp_user', and be left out "
            f"where it does not. Got {part!r} and {name!r}; correct one."
        )
        raise SettingsError(message)
    if name is not None and (os.geteuid() == find_user(name).uid) != (part == "node"):
        message = (
            f"The part 'node' must be started by the 'clientapp_user' {name!r}, and 'daemon' by another. "
            f"This is {part!r} as user {os.geteuid()}; start it as the other user."
        )
        raise SettingsError(message)
    return part  # type: ignore[return-value]


@app.command()
def check(*, kit: KitFolder, as_json: options.Json = False) -> None:
    """Try everything that a round needs, and show exactly what would leave; exits 0 when all is well.

    Example:  mediclip client check --kit kits/north
    """
    from client.check import Preflight
    from mediclip.errors import FederationError

    preflight = Preflight(kit)
    findings = []
    for finding in preflight.findings():
        findings.append(finding)
        if not as_json:
            mark = "[green]ok[/]   " if finding.is_good else "[bold red]fault[/]"
            console.out.print(f"{mark} {finding.name:<9}", end="")
            console.out.print(finding.text, markup=False, soft_wrap=True)
    if as_json:
        promise = preflight.promise
        values = {
            "findings": [vars(f) for f in findings],
            "privacy": None if promise is None else promise.as_values(),
            "would_leave": _as_values(preflight.dry_run),
        }
        console.print_json(values)
    elif preflight.dry_run is not None:
        _show(preflight.dry_run)
    faults = [f.name for f in findings if not f.is_good]
    if faults:
        message = (
            f"A site must be without fault to take part. Found {len(faults)}: {', '.join(faults)}; correct "
            "them and check again."
        )
        raise FederationError(message)


@app.command()
def status(*, kit: KitFolder, as_json: options.Json = False) -> None:
    """Say what runs, which rounds were answered, and whether the audit log is whole.

    Exits 0 when the site runs and its audit log is whole.

    Example:  mediclip client status --kit kits/north --json
    """
    from client.kit import Kit
    from client.service import audit
    from client.supervise import STATUS_FILE, is_listening
    from mediclip.errors import CheckpointError, FederationError

    opened = Kit(kit)
    fault = ""
    try:
        audit.verify(opened.audit)
    except CheckpointError as error:
        fault = str(error)
    lines = [] if fault else audit.read(opened.audit)
    answered = [line for line in lines if line["event"] == "answered"]
    values: dict[str, Any] = {
        "site": opened.settings.site,
        "federation": opened.settings.federation,
        "superlink": opened.settings.superlink,
        "not_after": opened.settings.not_after.isoformat(),
        "term": _term(opened),
        "is_serving": is_listening(opened.socket),
        "programs": _programs(opened.state / STATUS_FILE, opened.node / STATUS_FILE),
        "audit": {"is_whole": not fault, "lines": len(lines), "fault": fault},
        "answered": len(answered),
        "refused": sum(line["event"] == "refused" for line in lines),
        "privacy": _privacy(lines),
        "kept": _kept(opened, lines),
        "last": lines[-1] if lines else None,
    }
    if as_json:
        console.print_json(values)
    else:
        _tell(values)
    if fault:
        raise CheckpointError(fault)
    if not values["is_serving"]:
        raise FederationError(_why_silent(values["programs"]))


@app.command()
def describe(
    *,
    kit: KitFolder,
    out: Annotated[
        Path, typer.Option(help="File to write for the coordinator.", metavar="FILE", show_default=False)
    ],
    recipe: options.Recipe = "default",
) -> None:
    """Write what this site's scans look like, for a coordinator who looks for the site's cluster.

    The site must run, and its policy must allow it (share_descriptor in site.toml); the audit log has it.

    Example:  mediclip client describe --kit kits/north --out north.json
    """
    from client.kit import Kit
    from client.service.remote import RemoteSite
    from mediclip.config import load_recipe
    from mediclip.errors import SettingsError

    opened = Kit(kit)
    settings = opened.site()
    if not settings.share_descriptor:
        message = (
            "The site must allow that its scans are described: share_descriptor in site.toml must be true. "
            "It is false; set it if the site agrees, and start the site again."
        )
        raise SettingsError(message)
    text = load_recipe(settings.recipe or recipe).model_dump_json()
    site = RemoteSite(opened.own_socket, opened.settings.federation, patience_s=0)
    try:
        values = site.descriptor(text)
    finally:
        site.close()
    console.make_folder(out.parent)
    out.write_text(json.dumps({"site": opened.settings.site, "descriptor": values}) + "\n", encoding="utf-8")
    console.out.print(f"Wrote {len(values)} numbers to {out}; nothing else leaves.", soft_wrap=True)


@app.command()
def audit(
    *,
    kit: KitFolder,
    trainings: Annotated[int, typer.Option(help="Rounds to train.", min=1)] = 8,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each; privacy.local_steps if not given.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the draws.", min=0)] = 0,
    as_json: options.Json = False,
) -> None:
    """Attack this site's own update: could someone who has an image tell whether it was trained on?

    Trains real rounds on some of the normal images and tests them against the others. Nothing leaves.

    Example:  mediclip client audit --kit kits/north
    """
    import torch

    from client.kit import Kit
    from client.leakage import measure_leakage
    from mediclip.config import load_recipe

    opened = Kit(kit)
    settings = opened.site()
    torch.set_num_threads(settings.threads)
    with console.progress("training", quiet=as_json) as told:
        found = measure_leakage(
            settings,
            opened.policy(),
            load_recipe(settings.recipe or "default"),
            trainings=trainings,
            steps=steps or settings.privacy.local_steps,
            seed=seed,
            on_training=told,
        )
    if as_json:
        console.print_json(found.as_values())
        return
    rows = [
        [name, "no adapter is trained", "", ""]
        if test is None
        else [
            name,
            f"{test.true_positive_rate:.1%} [{test.low:.1%}, {test.high:.1%}]",
            f"{test.false_positive_rate:.1%}",
            f"{test.members} / {test.others}",
        ]
        for name, test in (("span of the update", found.span), ("loss lowered", found.loss))
    ]
    console.print_table(
        {
            "test": "left",
            "members found": "left",
            "others taken for members": "right",
            "members/others": "right",
        },
        rows,
        title=f"{found.trainings} rounds of {found.steps} steps on {found.shots} of {found.pool} images, "
        f"privacy mode {found.mode!r}; without a leak about 5 % are found:",
    )


def _privacy(lines: "list[dict[str, Any]]") -> dict[str, Any] | None:
    """Give what the audit log says of the privacy account, None before the first round."""
    return next((line["privacy"] for line in reversed(lines) if "privacy" in line), None)


def _kept(kit: "Kit", lines: "list[dict[str, Any]]") -> dict[str, Any] | None:
    """Say which model the site kept of the last run that ended, why, and where it lies."""
    from client.service.conclusion import MODEL

    line = next((line for line in reversed(lines) if line["event"] == "concluded"), None)
    if line is None:
        return None
    names = ("round", "kept", "marks", "compared_on", "images")
    folder = kit.models / line["run"]
    return {name: line[name] for name in names} | {"model": str(folder / MODEL)}


def _programs(*files: Path) -> dict[str, Any] | None:
    """Read what each part says of its programs, as far as this user may."""
    found: dict[str, Any] = {}
    for file in files:
        try:
            found |= json.loads(file.read_text())
        except (OSError, ValueError):
            continue
    return found or None


def _why_silent(programs: dict[str, Any] | None) -> str:
    import os
    from contextlib import suppress

    with suppress(OSError, KeyError, TypeError):  # no such process, no status, or none that runs
        number = programs["daemon"]["pid"]  # type: ignore[index]
        os.kill(number, 0)
        return (
            f"The site's daemon must answer. It does not yet, but runs (process {number}); ask again in a "
            "moment, or read state/daemon.log in the kit's folder."
        )
    return "The site must be running. Its daemon does not answer; start it with 'mediclip client start'."


def _term(kit: "Kit") -> str:
    from datetime import UTC, datetime

    from mediclip.errors import FederationError

    try:
        return kit.check_term(datetime.now(UTC))
    except FederationError as error:
        return str(error)


def _as_values(dry_run: "DryRun | None") -> dict[str, Any] | None:
    if dry_run is None:
        return None
    reply = dry_run.reply
    tensors = [
        {"name": n, "shape": list(v.shape), "dtype": str(v.dtype), "bytes": v.nbytes}
        for n, v in reply.tensors.items()
    ]
    return {
        "recipe": dry_run.recipe,
        "tensors": tensors,
        "examples": reply.examples,
        "metrics": reply.metrics,
    }


def _show(dry_run: "DryRun") -> None:
    values = _as_values(dry_run)
    assert values is not None  # noqa: S101 - for the type checker
    rows = [
        [t["name"], "×".join(map(str, t["shape"])), t["dtype"], f"{t['bytes']:,}"] for t in values["tensors"]
    ]
    rows += [["number of images", "", "int", str(values["examples"])]]
    rows += [[name, "", "float", f"{value:.4f}"] for name, value in values["metrics"].items()]
    console.print_table(
        {"what would leave": "left", "shape": "left", "type": "left", "bytes or value": "right"},
        rows,
        title="\nEach round sends exactly this, and nothing else:",
    )


def _tell(values: dict[str, Any]) -> None:
    rows = [
        ["site", f"{values['site']} in {values['federation']}, until {values['not_after'][:10]}"],
        *([["kit", values["term"]]] if values["term"] else []),
        ["coordinator", values["superlink"]],
        ["daemon", "answers" if values["is_serving"] else "does not answer"],
    ]
    for name in ("daemon", "supernode", "nursery"):
        program = (values["programs"] or {}).get(name)
        if program is not None:
            waits = "waits to be started again" if program["starts"] else "waits for the daemon"
            runs = f"process {program['pid']}" if program["pid"] else waits
            note = f"; {program['note']}" if program["note"] else ""
            times = {0: "not yet", 1: "once"}.get(program["starts"], f"{program['starts']} times")
            rows.append([f"{name} started", f"{times}, {runs}{note}"])
    whole = f"whole, {values['audit']['lines']} lines" if values["audit"]["is_whole"] else "CHANGED"
    rows += [
        ["rounds answered", str(values["answered"])],
        ["requests refused", str(values["refused"])],
        ["audit log", whole],
        ["privacy", _spent(values["privacy"])],
        ["model", _chosen(values["kept"])],
    ]
    console.print_table({"": "left", "state": "left"}, rows)


def _chosen(kept: dict[str, Any] | None) -> str:
    if kept is None:
        return "none yet: no run has ended that sends one"
    if not kept["marks"]:
        return f"{kept['kept']}, not compared with others: {kept['model']}"
    scores = ", ".join(
        f"{name} {(mark['image'] + mark['pixel']) / 2:.3f}" for name, mark in kept["marks"].items()
    )
    basis = (
        "normal images that were held out" if kept["compared_on"] == "held-out" else "copies of the support"
    )
    return (
        f"{kept['kept']}, the best of {scores} (mean of image and pixel AUROC on synthetic anomalies of "
        f"{kept['images']} {basis}): {kept['model']}"
    )


def _spent(privacy: dict[str, Any] | None) -> str:
    if privacy is None:
        return "nothing has left"
    if privacy["mode"] == "none":
        return "no noise is added: no bound"
    return (
        f"ε = {privacy['epsilon']:.3g} of {privacy['budget']:g} spent at δ = {privacy['delta']:g}, for one "
        f"{privacy['unit']}"
    )
