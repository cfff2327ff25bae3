"""What a site has spent of its privacy, on disk: over all runs on the same images, and before it is spent.

A charge is written before the noise is drawn, so that nothing leaves that was not paid, and closed before the
answer leaves. A charge that a crash left open is not paid again for the same question: nobody saw its noise.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mediclip import chained_log
from mediclip.chained_log import ChainedLog, ChainEnd
from mediclip.errors import CheckpointError, PolicyError
from mediclip.privacy.accounting import Mechanism, epsilon
from mediclip.privacy.settings import Unit

NAME: Final = "privacy ledger"
_CHARGED, _CLOSED, _BARE = "charged", "closed", "without-noise"


@dataclass(frozen=True)
class Charge:
    """One round's price.

    Attributes:
        question: Digest of what was asked.
        unit: Whose presence the mechanism hides.
        images: Digest of each support image.
        mechanism: What the round does to the images.
    """

    question: str
    unit: Unit
    images: tuple[str, ...]
    mechanism: Mechanism


class Ledger:
    """A site's ledger, kept by one process.

    An image is known by its digest, so its account goes on in another support set. Patients are not known
    from one set to the next, and a site is one: every charge counts against them. What left without noise,
    or with noise that hides less than is asked for, makes an account infinite.

    Args:
        path: Its file; made if it is not there.

    Raises:
        CheckpointError: If it was changed from outside.
    """

    def __init__(self, path: Path) -> None:
        self._log = ChainedLog(path, name=NAME)
        lines = chained_log.read(path)
        self._charges, self._open, self._bare = _parse(lines)
        self._last = next((line["epsilon"] for line in reversed(lines) if line["event"] == _CHARGED), 0.0)

    @property
    def end(self) -> ChainEnd:
        """How far the ledger goes."""
        return self._log.end

    @property
    def last_epsilon(self) -> float:
        """ε that was spent after the last charge; 0 if there is none."""
        return float(self._last)

    def knows(self, question: str) -> bool:
        """Say whether a question was ever paid for."""
        return any(charge.question == question for charge in self._charges)

    def charge(self, charge: Charge, *, delta: float, budget: float) -> float:
        """Pay for one round, before any of it is done.

        Args:
            charge: The round; an open charge that is the same is used instead.
            delta: δ in (0, 1).
            budget: ε that may not be passed.

        Returns:
            ε spent, this round included.

        Raises:
            PolicyError: For the reason ``budget``, if the round would overspend; nothing is written then.
        """
        is_paid = charge in self._open
        charges = self._charges if is_paid else [*self._charges, charge]
        spent = _spent(charge.unit, charge.images, delta, charges, self._bare)
        if spent > budget:
            message = (
                f"Each {charge.unit} may spend at most ε = {budget:g} at δ = {delta:g} in all runs together. "
                f"With this round it would be {spent:.4g}; draw other images, or raise 'budget' in site.toml."
            )
            raise PolicyError(message, reason="budget")
        if not is_paid:
            self._log.append(_CHARGED, **asdict(charge), epsilon=spent, delta=delta)
            self._charges.append(charge)
            self._open.append(charge)
            self._last = spent
        return spent

    def close(self, question: str) -> None:
        """Write down that the answer to a question is about to leave; nothing to do if it is already."""
        if any(charge.question == question for charge in self._open):
            self._log.append(_CLOSED, question=question)
            self._open = [charge for charge in self._open if charge.question != question]

    def note_without_noise(self, images: Sequence[str]) -> None:
        """Write down that an update of these images leaves without noise; once for each image."""
        new = [image for image in images if image not in self._bare]
        if new:
            self._log.append(_BARE, images=new)
            self._bare.update(new)

    def spent(self, unit: Unit, images: Sequence[str], delta: float) -> float:
        """Say what has been spent.

        Args:
            unit: Whose presence is to be hidden.
            images: Digest of each support image.
            delta: δ in (0, 1).

        Returns:
            ε of the image, patient or site that has spent most.
        """
        return _spent(unit, images, delta, self._charges, self._bare)


_HIDDEN: Final[dict[Unit, tuple[Unit, ...]]] = {
    "image": ("image", "patient", "site"),
    "patient": ("patient", "site"),
    "site": ("site",),
}


def read_spent(path: Path, unit: Unit, images: Sequence[str], delta: float) -> float:
    """Say what has been spent, as :meth:`Ledger.spent` does, from a file that another process may own.

    Raises:
        CheckpointError: If it was changed from outside.
    """
    chained_log.verify(path, name=NAME)
    charges, _, bare = _parse(chained_log.read(path))
    return _spent(unit, images, delta, charges, bare)


def _spent(
    unit: Unit, images: Sequence[str], delta: float, charges: Sequence[Charge], bare: Collection[str]
) -> float:
    if unit != "image":
        return _epsilon_of(unit, charges, delta, is_bare=bool(bare))
    accounts = {
        (image in bare, tuple(n for n, charge in enumerate(charges) if image in charge.images))
        for image in images
    }
    return max(
        (_epsilon_of(unit, [charges[n] for n in used], delta, is_bare=is_bare) for is_bare, used in accounts),
        default=0.0,
    )


def _epsilon_of(unit: Unit, charges: Sequence[Charge], delta: float, *, is_bare: bool) -> float:
    if is_bare or any(charge.unit not in _HIDDEN[unit] for charge in charges):
        return math.inf
    return epsilon([charge.mechanism for charge in charges], delta)


def _parse(lines: Sequence[dict[str, Any]]) -> tuple[list[Charge], list[Charge], set[str]]:
    """Give all charges, those that are open, and the images that left without noise."""
    charges: list[Charge] = []
    still_open: list[Charge] = []
    bare: set[str] = set()
    try:
        for line in lines:
            if line["event"] == _CHARGED:
                mechanism = Mechanism(**line["mechanism"])
                charge = Charge(line["question"], line["unit"], tuple(line["images"]), mechanism)
                charges.append(charge)
                still_open.append(charge)
            elif line["event"] == _CLOSED:
                still_open = [charge for charge in still_open if charge.question != line["question"]]
            else:
                bare.update(line["images"])
    except (KeyError, TypeError) as error:
        message = f"The {NAME} must be of this version. It is not; go on with the version that wrote it."
        raise CheckpointError(message) from error
    return charges, still_open, bare
