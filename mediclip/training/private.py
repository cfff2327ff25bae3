"""What a model file keeps of its site: memory, calibration, and which images it was made from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediclip.evaluation.calibration import Calibration
from mediclip.model.memory import NormalityMemory
from mediclip.training.checkpoint import ModelFile

_MEMORY = "memory"
_CALIBRATION = "calibration"
_SUPPORT = "support"
_OWN = "own"


def private_parts(
    memory: NormalityMemory | None,
    *,
    support: Sequence[str] = (),
    calibration: Calibration | None = None,
    own: Sequence[str] = (),
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Put together what must not leave the site.

    Args:
        memory: The site's memory, if it has one.
        support: :func:`mediclip.evaluation.duplicates.image_digest` of the support images.
        calibration: The site's calibration, if there is one.
        own: Names of the trained tensors that are the site's alone and are in no message of its federation.

    Returns:
        Private tensors and private facts, as :func:`mediclip.training.checkpoint.save_model` takes them.
    """
    facts: dict[str, Any] = {_SUPPORT: list(support)} if support else {}
    if own:
        facts[_OWN] = list(own)
    if calibration is not None:
        facts[_CALIBRATION] = calibration.facts()
    if memory is None:
        return {}, facts
    arrays: dict[str, NDArray[Any]] = {f"{_MEMORY}.{n}": v for n, v in memory.arrays().items()}
    return arrays, facts | {_MEMORY: memory.facts()}


def stored_memory(file: ModelFile) -> NormalityMemory | None:
    """Read a model file's memory.

    Raises:
        CheckpointError: If there is one that cannot be used.
    """
    if _MEMORY not in file.private_facts:
        return None
    prefix = f"{_MEMORY}."
    arrays: dict[str, NDArray[np.generic]] = {
        name.removeprefix(prefix): v for name, v in file.private_tensors.items() if name.startswith(prefix)
    }
    return NormalityMemory.restore(arrays, file.private_facts[_MEMORY])


def stored_calibration(file: ModelFile) -> Calibration | None:
    """Read a model file's calibration, whether or not it still holds.

    Raises:
        CheckpointError: If there is one that cannot be used.
    """
    values = file.private_facts.get(_CALIBRATION)
    return None if values is None else Calibration.restore(values)


def stored_support(file: ModelFile) -> tuple[str, ...]:
    """Read the digests of the images that a model was made from; empty where they are not known."""
    return tuple(map(str, file.private_facts.get(_SUPPORT, ())))


def own_tensors(file: ModelFile) -> tuple[str, ...]:
    """Read which trained tensors are a site's alone; none in a model that was not made in a federation."""
    return tuple(map(str, file.private_facts.get(_OWN, ())))
