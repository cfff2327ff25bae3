"""One phantom: a patient, a finding or none, and a scanner, from one generator."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import numpy as np

from mediclip.errors import SettingsError
from simulation.phantom import abdomen, brain, breast, chest, retina
from simulation.phantom.fields import Field, Mask
from simulation.phantom.scanner import Scanner

Body = TypeVar("Body")

SMALLEST, LARGEST = 64, 2048


@dataclass(frozen=True)
class Organ(Generic[Body]):
    """How scans of one organ are made.

    Attributes:
        draw: Draws a healthy patient: (generator, size, scanner) -> body.
        findings: Puts a finding into a body: (body, generator) -> changed body and exact mask.
        scan: Takes the image: (body, scanner, generator) -> ``(S, S)`` float32 in [0, 1].
    """

    draw: Callable[[np.random.Generator, int, Scanner], Body]
    findings: Mapping[str, Callable[[Body, np.random.Generator], tuple[Body, Mask]]]
    scan: Callable[[Body, Scanner, np.random.Generator], Field]


ORGANS: Mapping[str, Organ[Any]] = MappingProxyType(
    {
        "chest": Organ(chest.draw_chest, chest.FINDINGS, chest.scan_chest),
        "brain": Organ(brain.draw_brain, brain.FINDINGS, brain.scan_brain),
        "breast": Organ(breast.draw_breast, breast.FINDINGS, breast.scan_breast),
        "abdomen": Organ(abdomen.draw_abdomen, abdomen.FINDINGS, abdomen.scan_abdomen),
        "retina": Organ(retina.draw_retina, retina.FINDINGS, retina.scan_retina),
    }
)


@dataclass(frozen=True)
class Phantom:
    """A made-up scan.

    Attributes:
        image: ``(S, S)`` float32 in [0, 1].
        mask: ``(S, S)`` bool, True on the finding; all False where there is none.
        organ: One of :data:`ORGANS`.
        finding: What is wrong, such as "nodule", or None.
    """

    image: Field
    mask: Mask
    organ: str
    finding: str | None


def finding_names(organ: str) -> tuple[str, ...]:
    """Return the findings that an organ can have.

    Args:
        organ: One of :data:`ORGANS`.

    Raises:
        SettingsError: There is no such organ.
    """
    return tuple(_organ(organ).findings)


def draw_phantom(
    organ: str,
    rng: np.random.Generator,
    *,
    size: int = 256,
    finding: str | None = None,
    scanner: Scanner | None = None,
) -> Phantom:
    """Draw one phantom.

    Patient, finding and scan use streams of their own: two generators in the same state give the same patient
    and the same noise with and without a finding, and at every size. Three numbers are taken from ``rng``.

    Args:
        organ: One of :data:`ORGANS`.
        rng: Source of randomness.
        size: Side S of the image in pixels, in [64, 2048].
        finding: One of ``finding_names(organ)``, "random" for any of them, or None for a healthy patient.
        scanner: The hospital's scanner; a middling one if not given.

    Returns:
        The phantom; its mask holds at least one pixel if it has a finding.

    Raises:
        SettingsError: Unknown organ or finding, or a size outside its range.

    Example:
        >>> from mediclip.rng import generator
        >>> scan = draw_phantom("chest", generator(1, "example"), size=128, finding="nodule")
        >>> scan.image.shape, bool(scan.mask.any())
        ((128, 128), True)
    """
    parts = _organ(organ)
    if not SMALLEST <= size <= LARGEST:
        message = f"The 'size' of a phantom must be in [{SMALLEST}, {LARGEST}] pixels. Got {size!r} instead."
        raise SettingsError(message)
    choices = tuple(parts.findings)
    if finding not in (None, "random", *choices):
        allowed = ", ".join(("None", "random", *choices))
        message = f"The finding of a {organ} phantom must be one of {allowed}. Got {finding!r} instead."
        raise SettingsError(message)
    scanner = scanner or Scanner()
    for_patient, for_finding, for_scan = (
        np.random.Generator(np.random.PCG64(int(seed))) for seed in rng.integers(2**63, size=3)
    )
    body = parts.draw(for_patient, size, scanner)
    mask = np.zeros((size, size), np.bool_)
    any_finding = choices[for_finding.integers(len(choices))]
    chosen = any_finding if finding == "random" else finding
    if chosen is not None:
        body, mask = parts.findings[chosen](body, for_finding)
    is_mirrored = scanner.is_mirrored(for_scan)
    image = parts.scan(body, scanner, for_scan).astype(np.float32, copy=False)
    if is_mirrored:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return Phantom(np.ascontiguousarray(image), np.ascontiguousarray(mask), organ, chosen)


def _organ(name: str) -> Organ[Any]:
    if name not in ORGANS:
        message = f"The organ of a phantom must be one of {', '.join(ORGANS)}. Got {name!r} instead."
        raise SettingsError(message)
    return ORGANS[name]
