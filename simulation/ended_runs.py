"""Reads what simulated sites keep of a run that has ended, whichever engine it ran on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from client.service.conclusion import CONCLUSION, MODEL
from client.service.simulated import MODELS
from mediclip.errors import CheckpointError
from mediclip.model.trainables import Trainables
from mediclip.training.checkpoint import load_model
from simulation.engine import folder_name
from simulation.plan import SITES_FOLDER


@dataclass(frozen=True)
class EndedSite:
    """The models of one site.

    Attributes:
        delivered: What the run gave it, with its own part where it has one.
        kept: What it keeps.
        candidates: All that were compared, by name.
        conclusion: What it kept and why, as in its ``conclusion.json``.
    """

    delivered: Trainables
    kept: Trainables
    candidates: dict[str, Trainables]
    conclusion: dict[str, Any]


def read_models(
    run: Path, names: Sequence[str], engine: Literal["inprocess", "ray"] = "inprocess"
) -> dict[str, EndedSite]:
    """Read the models that sites have of a finished run.

    Args:
        run: Folder of the federated run.
        names: Names of the sites, in the order of their numbers.
        engine: Where the run was made, which says how the sites' folders are called.

    Returns:
        One entry a site, by its name.

    Raises:
        CheckpointError: If a site has none, or one is damaged.
    """
    found = {}
    for number, name in enumerate(names):
        folder = run / SITES_FOLDER / (folder_name(name) if engine == "inprocess" else f"site-{number}")
        ends = sorted((folder / MODELS).glob(f"*/{CONCLUSION}"))
        if len(ends) != 1:
            message = (
                f"{name} must have the models of one finished run. It has those of {len(ends)}; resume the "
                "run, or begin in another folder."
            )
            raise CheckpointError(message)
        conclusion = json.loads(ends[0].read_text(encoding="utf-8"))
        files = sorted(path for path in ends[0].parent.glob("*.safetensors") if path.name != MODEL)
        candidates = {path.stem: load_model(path).tensors for path in files}
        (delivered,) = (n for n in candidates if n not in {"tuned", "local"})
        found[name] = EndedSite(candidates[delivered], candidates[conclusion["kept"]], candidates, conclusion)
    return found
