"""From noise to ε: privacy loss distributions, by the library dp-accounting.

Everything that was ever done to the same data is composed, because no run forgets another.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from mediclip.errors import SettingsError

if TYPE_CHECKING:
    from dp_accounting.dp_event import DpEvent

ACCOUNTANT: Final = "privacy loss distribution (dp-accounting, connect the dots, pessimistic)"
NEIGHBOURING: Final = "add or remove one"
LARGEST_NOISE: Final = 1e5
_PRECISION: Final = 1e-2
_FINEST: Final = 1e-4
_STEP: Final = 1e-5
_TINY: Final = 1e-3
_ORDERS: Final = (*range(2, 33), 48, 64, 96, 128, 192, 256, 512)  # whole ones have short, exact sums


@dataclass(frozen=True)
class Mechanism:
    """Gaussian noise on a clipped sum, made several times.

    Attributes:
        noise_multiplier: z, standard deviation of the noise over the clip C, above 0.
        sampling_rate: q in (0, 1], probability with which each unit takes part in one step, drawn for each
            on its own (Poisson) and kept secret; 1 where all take part.
        steps: How often, at least 1.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int = 1


@dataclass(frozen=True)
class Guarantee:
    """What is promised, with all that the promise rests on.

    Attributes:
        epsilon: ε; infinite where nothing is promised.
        delta: δ.
        unit: Whose presence is hidden: ``image``, ``patient`` or ``site``.
        neighbouring: Which two inputs are hard to tell apart.
        sampling: How the units of a step are chosen.
        trust: Who has to be trusted for it.
        accountant: How it was computed.
    """

    epsilon: float
    delta: float
    unit: str
    sampling: str
    trust: str
    neighbouring: str = NEIGHBOURING
    accountant: str = ACCOUNTANT

    def as_values(self) -> dict[str, Any]:
        """Write it as plain values."""
        return asdict(self)


def epsilon(mechanisms: Iterable[Mechanism], delta: float) -> float:
    """Compute ε of mechanisms that were all applied to the same data.

    Args:
        mechanisms: What was done, in any order.
        delta: δ in (0, 1).

    Returns:
        ε for adding or removing one unit, at least 0; 0 if nothing was done.

    Source: Koskela et al., arXiv 1906.03049; Doroshenko et al., arXiv 2207.04380.
    """
    # Imported here because it takes a second, which a site without noise need not wait.
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    events = _events(mechanisms)
    if not events:
        return 0.0
    # Finer steps than this would take minutes where ε is large, and change no digit that counts.
    interval = max(_FINEST, _STEP * _renyi(events, delta))
    accountant = PLDAccountant(value_discretization_interval=interval)
    for event in events:
        accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def _events(mechanisms: Iterable[Mechanism]) -> "list[DpEvent]":
    """Write mechanisms as events; all without sampling are one Gaussian whose 1/z² is the sum of theirs."""
    from dp_accounting.dp_event import (  # noqa: PLC0415
        GaussianDpEvent,
        PoissonSampledDpEvent,
        SelfComposedDpEvent,
    )

    sampled: Counter[tuple[float, float]] = Counter()
    precision = 0.0
    for mechanism in mechanisms:
        if mechanism.sampling_rate >= 1:
            precision += mechanism.steps / mechanism.noise_multiplier**2
        else:
            sampled[mechanism.noise_multiplier, mechanism.sampling_rate] += mechanism.steps
    events: list[DpEvent] = [GaussianDpEvent(precision**-0.5)] if precision > 0 else []
    for (noise, rate), steps in sorted(sampled.items()):
        events.append(SelfComposedDpEvent(PoissonSampledDpEvent(rate, GaussianDpEvent(noise)), steps))
    return events


def _renyi(events: "list[DpEvent]", delta: float) -> float:
    """Bound ε from above by Rényi divergences: quick and coarse (Mironov, arXiv 1702.07476)."""
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    accountant = RdpAccountant(orders=_ORDERS)
    for event in events:
        accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def find_noise(target: float, delta: float, *, sampling_rate: float, steps: int) -> float:
    """Find the smallest noise multiplier that keeps to an ε, up to a hundredth of itself.

    Args:
        target: ε that must not be passed, above 0.
        delta: δ in (0, 1).
        sampling_rate: q in (0, 1].
        steps: How often the mechanism is made, at least 1.

    Returns:
        z, rounded up: ε of it is at most the target.

    Raises:
        SettingsError: If no noise up to 1e5 does.
    """

    def bound(noise: float) -> float:
        return _renyi(_events([Mechanism(noise, sampling_rate, steps)]), delta)

    high = _smallest(lambda noise: bound(noise) <= target, LARGEST_NOISE)
    if high is None:
        message = (
            f"A target ε must be reachable with a noise multiplier of at most {LARGEST_NOISE:.0g}. {target} "
            f"is not, in {steps} steps with δ = {delta}; raise it, or plan fewer rounds."
        )
        raise SettingsError(message)
    # The coarse bound asks for more noise than is needed, by less than half.
    exact = _smallest(
        lambda noise: epsilon([Mechanism(noise, sampling_rate, steps)], delta) <= target, high, low=high / 2
    )
    return high if exact is None else exact


def _smallest(keeps: Callable[[float], bool], high: float, *, low: float = 0.0) -> float | None:
    """Find the smallest value that keeps a rule, up to a hundredth; None if not even the highest does."""
    if not keeps(high):
        return None
    while high - low > _PRECISION * high:
        middle = math.sqrt(low * high) if low > 0 else high / 8
        if middle < _TINY:
            return high
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high
