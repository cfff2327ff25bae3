"""The model file: one safetensors file that says what it is and notices when a byte has changed."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, StrictInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mediclip import __version__
from mediclip.config import Recipe
from mediclip.errors import CheckpointError, PromptError, SettingsError
from mediclip.model.trainables import Trainables

FORMAT = 1
_KEY = "mediclip"
_DIGEST = "sha256"
PRIVATE = "private"
"""What is made of a site's own scans: a prefix of tensors' names, and a key of the facts."""
# A type that NumPy lacks, a file that goes away while it is read, JSON nested past the parser's depth.
_UNREADABLE = (AttributeError, OSError, RecursionError)


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    Attributes:
        tensors: The trained tensors by name.
        recipe: The recipe that it was made with.
        taps: Tapped blocks, 1-based.
        backbone_spec: What the backbone was loaded from where the model was made.
        backbone_sha256: Digest that a backbone must have to be used with it.
        facts: Everything else that was stored: versions, preprocessing, seed and shots.
        private_tensors: What is made of the site's own scans and must not leave it; empty in a file to share.
        private_facts: Plain values that belong to those.
    """

    tensors: Trainables
    recipe: Recipe
    taps: tuple[int, ...]
    backbone_spec: str
    backbone_sha256: str
    facts: dict[str, Any]
    private_tensors: dict[str, NDArray[Any]] = field(default_factory=dict)
    private_facts: dict[str, Any] = field(default_factory=dict)

    def digest(self) -> str:
        """Digest what decides a score: tensors, memory, recipe, taps and backbone."""
        decisive = {
            "recipe": self.recipe.digest(),
            "taps": self.taps,
            "backbone": self.backbone_sha256,
            "memory": self.private_facts.get("memory"),
        }
        tensors = {**self.tensors, **{f"{PRIVATE}.{n}": v for n, v in self.private_tensors.items()}}
        return _content_digest(json.dumps(decisive, sort_keys=True), tensors)


class _BackboneName(BaseModel):
    spec: str
    sha256: str


class _Description(BaseModel):
    recipe: dict[str, Any]
    taps: tuple[StrictInt, ...]
    backbone: _BackboneName


def save_tensors(path: Path, tensors: Mapping[str, NDArray[np.generic]], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts so that the file is either the old one or the whole new one.

    Args:
        path: File to write; its folder must exist.
        tensors: Arrays by name.
        facts: Plain values, stored as JSON in the file's metadata.
    """
    text = json.dumps(facts, sort_keys=True)
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    data = save(arrays, {_KEY: text, _DIGEST: _content_digest(text, arrays)})
    write_atomically(path, data)


def load_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read what :func:`save_tensors` wrote.

    Args:
        path: File to read.

    Returns:
        Arrays by name, and the facts.

    Raises:
        CheckpointError: If the file is missing, is no such file, or has changed since it was written.
    """
    if not path.is_file():
        message = f"A model file must exist. There is no file {path.name!r}; check the name."
        raise CheckpointError(message)
    try:
        with safe_open(path, framework="numpy") as file:
            stored = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        text = stored[_KEY]
        facts = json.loads(text)
    except (SafetensorError, KeyError, TypeError, ValueError, *_UNREADABLE) as error:
        raise _not_ours(path) from error
    if not isinstance(facts, dict):
        raise _not_ours(path)
    if stored.get(_DIGEST) != _content_digest(text, tensors):
        message = (
            f"A model file must be as it was written. {path.name!r} has changed since (its SHA-256 differs); "
            "copy it again or train again."
        )
        raise CheckpointError(message)
    return tensors, facts


def save_model(
    path: Path,
    tensors: Trainables,
    *,
    recipe: Recipe,
    taps: tuple[int, ...],
    backbone: Mapping[str, str],
    facts: Mapping[str, Any],
    private_tensors: Mapping[str, NDArray[np.generic]] | None = None,
    private_facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a model file that stands alone.

    Args:
        path: File to write; its folder must exist.
        tensors: The trained tensors.
        recipe: The recipe that it was made with.
        taps: Tapped blocks.
        backbone: ``spec`` and ``sha256`` of the backbone.
        facts: What else to keep: preprocessing, seed, shots, steps.
        private_tensors: What is made of the site's own scans; it is marked so in the file.
        private_facts: Plain values that belong to those.
    """
    stored = {
        "format": FORMAT,
        "recipe": recipe.model_dump(mode="json"),
        "taps": list(taps),
        "backbone": dict(backbone),
        "versions": versions(),
        **facts,
    }
    if private_tensors or private_facts:
        stored[PRIVATE] = dict(private_facts or {})
    marked = {f"{PRIVATE}.{name}": value for name, value in (private_tensors or {}).items()}
    save_tensors(path, {**tensors, **marked}, stored)


def rewrite_model(
    path: Path,
    file: ModelFile,
    *,
    private_tensors: Mapping[str, NDArray[np.generic]] | None = None,
    private_facts: Mapping[str, Any] | None = None,
) -> None:
    """Write a model that was read again, with other private parts or with none.

    Args:
        path: File to write; its folder must exist. It may be the one that was read.
        file: What :func:`load_model` read; its own private parts are not written.
        private_tensors: As for :func:`save_model`.
        private_facts: As for :func:`save_model`.
    """
    save_model(
        path,
        file.tensors,
        recipe=file.recipe,
        taps=file.taps,
        backbone={"spec": file.backbone_spec, "sha256": file.backbone_sha256},
        facts=file.facts,
        private_tensors=private_tensors,
        private_facts=private_facts,
    )


def load_model(path: Path) -> ModelFile:
    """Read a model file.

    Args:
        path: File to read.

    Returns:
        Its content, checked.

    Raises:
        CheckpointError: If the file is missing, damaged, changed or of another format.
    """
    tensors, facts = load_tensors(path)
    if facts.get("format") != FORMAT:
        message = (
            f"A model file must have format {FORMAT}. {path.name!r} has {facts.get('format')!r:.20}; use it "
            "with the version that wrote it, or train again."
        )
        raise CheckpointError(message)
    try:
        described = _Description.model_validate(facts)
        recipe = Recipe.parse(described.recipe, source=f"the recipe in {path.name!r}")
    except (PromptError, SettingsError, ValidationError) as error:
        message = (
            f"A model file must hold a usable recipe, taps and a backbone's spec and SHA-256. {path.name!r} "
            "does not; use it with the version that wrote it, or train again."
        )
        raise CheckpointError(message) from error
    prefix = f"{PRIVATE}."
    private_facts = facts.get(PRIVATE, {})
    return ModelFile(
        tensors={name: value for name, value in tensors.items() if not name.startswith(prefix)},
        private_tensors={n.removeprefix(prefix): v for n, v in tensors.items() if n.startswith(prefix)},
        private_facts=private_facts if isinstance(private_facts, dict) else {},
        recipe=recipe,
        taps=described.taps,
        backbone_spec=described.backbone.spec,
        backbone_sha256=described.backbone.sha256,
        facts={
            name: value
            for name, value in facts.items()
            if name not in {"format", PRIVATE, *_Description.model_fields}
        },
    )


def _not_ours(path: Path) -> CheckpointError:
    return CheckpointError(
        f"A model file must be a safetensors file written by this project. {path.name!r} is not, or is "
        "damaged; copy it again or train again."
    )


def versions() -> dict[str, str]:
    """Name the versions that decide numbers, without importing anything heavy."""
    names = ("torch", "open_clip_torch", "numpy", "flwr")
    return {
        "mediclip": __version__,
        "python": platform.python_version(),
        **{n: metadata.version(n) for n in names},
    }


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content so that a crash leaves the old one or the new one, never a part.

    What was begun is removed if it cannot be finished, as on a full disk.

    Args:
        path: File to write; its folder must exist.
        data: The whole new content.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _content_digest(text: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}{value.dtype}{value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()
