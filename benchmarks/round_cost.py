"""What a round of the TLS deployment costs beside the sites' training, all programs being real processes.

Three sites with ViT-L-14 (seeded random weights, which take as long as trained ones) train two steps a round.
A round's fixed cost is its time in the coordinator's history less the longest time that a site's audit log
says it trained. Needs about 11 GB of memory. The first round, in which sites encode their images, takes some
minutes and does not count.
"""

import json
import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from benchmarks._deployment import finish, running, toml, write_federation
from benchmarks.harness import Benchmark, Outcome
from mediclip.model.backbone_loading import load_backbone
from server.history import History

_SHOTS: Final = 4
_TARGET_S: Final = 10.0


def measure(backbone: str, sites: int, rounds: int) -> dict[str, Any]:
    """Run a federation of a few sites and say what a round costs.

    Args:
        backbone: Spec that every site loads.
        sites: Number of sites, at least 1.
        rounds: Number of rounds, at least 2; the first one does not count.

    Returns:
        Seconds: the median fixed cost, and each round's time, training and fixed cost.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        names = [f"site-{number}" for number in range(sites)]
        loaded = load_backbone(backbone, image_size=224)
        facts = (backbone, loaded.shapes, loaded.default_taps())
        federation = write_federation(folder, names, facts, rounds=rounds, shots=_SHOTS)
        sha256 = loaded.sha256
        del loaded
        for site in names:
            kit = folder / "kits" / site
            _complete_kit(kit, backbone, sha256)
            stack.enter_context(running(folder / f"{site}.log", "client", "start", "--kit", str(kit)))
        out, log = folder / "run", folder / "run.log"
        finish(stack.enter_context(running(log, "server", "start", str(federation), "--out", str(out))), log)
        trained = [_trained(folder / "kits" / site) for site in names]
        rows = [_row(entry, trained) for entry in History(out / "history.jsonl").read()]
    fixed = statistics.median(row["fixed_s"] for row in rows[1:])
    return {"backbone": backbone, "sites": sites, "fixed_s": round(fixed, 3), "rounds": rows}


def _row(entry: dict[str, Any], trained: list[dict[int, float]]) -> dict[str, float]:
    training = max(times[entry["round"]] for times in trained)
    fixed = round(entry["seconds"] - training, 3)
    return {"round": entry["round"], "seconds": entry["seconds"], "training_s": training, "fixed_s": fixed}


def _complete_kit(kit: Path, spec: str, sha256: str) -> None:
    scans = kit / "scans" / "normal"
    scans.mkdir(parents=True)
    y, x = np.mgrid[:224, :224] / 224
    for number in range(_SHOTS):
        blob = np.exp(-8 * ((y - 0.4) ** 2 + (x - 0.3 - 0.1 * number) ** 2))
        Image.fromarray((255 * blob).astype(np.uint8)).save(scans / f"{number}.png")
    values = {"name": kit.name, "data": "scans", "shots": _SHOTS, "backbone": spec, "backbone_sha256": sha256}
    (kit / "site.toml").write_text(toml(values), encoding="utf-8")


def _trained(kit: Path) -> dict[int, float]:
    lines = map(json.loads, (kit / "state" / "audit.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["round"]: line["seconds"] for line in lines if line["event"] == "answered"}


def _measure(*, quick: bool) -> Outcome:
    found = measure("embedded", 1, 2) if quick else measure("ViT-L-14:random", 3, 6)
    return Outcome(found["fixed_s"] / _TARGET_S, found)


BENCHMARKS = (
    Benchmark(
        "round_cost",
        f"the fixed cost of a deployed round, 3 sites with ViT-L-14 on this machine, against {_TARGET_S:g} s",
        target=1,
        unit="of the target's time",
        measure=_measure,
        at_most=True,
    ),
)
