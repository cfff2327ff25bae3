"""What a benchmark is, how times are taken side by side, and what a run of many leaves behind."""

import importlib
import math
import multiprocessing
import os
import pkgutil
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import benchmarks

SCHEMA = 1
_MIB = 1 << 20
_OWN_MODULES = ("harness", "__main__")


@dataclass(frozen=True)
class Outcome:
    """What a benchmark found.

    Attributes:
        ratio: The one number that the target is about, finite.
        details: Plain values: times in seconds, sizes, counts, whatever explains the ratio.
    """

    ratio: float
    details: dict[str, Any] = field(default_factory=dict)


class Measure(Protocol):
    """Runs one benchmark."""

    def __call__(self, *, quick: bool) -> Outcome:
        """Measure; a second or two with ``quick``, whose figures mean nothing."""
        ...


@dataclass(frozen=True)
class Benchmark:
    """One comparison that can be run by name.

    Attributes:
        name: How it is called on the command line.
        compares: What stands against what, and on what.
        target: What the ratio must reach.
        unit: What the ratio counts, such as ``"times less CPU time"``.
        measure: Runs it.
        at_most: Whether the ratio must stay at or below the target and not reach it from below.
        is_cheap: Whether a quick run takes a second or two and needs nothing but this repository, so that a
            test can run it.
    """

    name: str
    compares: str
    target: float
    unit: str
    measure: Measure
    at_most: bool = False
    is_cheap: bool = False

    def is_met(self, ratio: float) -> bool:
        """Say whether a ratio reaches the target."""
        return ratio <= self.target if self.at_most else ratio >= self.target

    @property
    def goal(self) -> str:
        """The target in words."""
        return f"{'at most' if self.at_most else 'at least'} {self.target:g}"


@dataclass(frozen=True)
class Timing:
    """Median times of one call.

    Attributes:
        cpu_s: Seconds of processor time of this process, all its threads, and of children that have ended.
        wall_s: Seconds that passed.
        repeats: Calls that the medians are of.
    """

    cpu_s: float
    wall_s: float
    repeats: int

    def as_dict(self) -> dict[str, float]:
        """Give the times as plain values with four significant digits."""
        return {"cpu_s": rounded(self.cpu_s), "wall_s": rounded(self.wall_s), "repeats": self.repeats}


def compare(
    work: Mapping[str, Callable[[], object]], *, repeats: int = 5, warm_up: bool = True
) -> dict[str, Timing]:
    """Time pieces of work in turn, so that a change of the machine's load meets all of them.

    Args:
        work: What to call, by name.
        repeats: Rounds, at least 1; each calls every piece once.
        warm_up: Whether every piece is called once beforehand, untimed.

    Returns:
        Median times by name.
    """
    if warm_up:
        for call in work.values():
            call()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for _ in range(repeats):
        for name, call in work.items():
            cpu, wall = _cpu_seconds(), time.perf_counter()
            call()
            taken[name].append((_cpu_seconds() - cpu, time.perf_counter() - wall))
    return {
        name: Timing(statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs), repeats)
        for name, pairs in taken.items()
    }


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


@dataclass(frozen=True)
class Cost:
    """What one call cost in a process of its own.

    Attributes:
        value: What the call returned.
        cpu_s: Processor time of the call in seconds, without the start of the process.
        wall_s: Seconds that it took.
        peak_mib: Most memory that the process held at any time, its libraries included, in MiB.
    """

    value: Any
    cpu_s: float
    wall_s: float
    peak_mib: float

    def as_dict(self) -> dict[str, float]:
        """Give what was spent as plain values with four significant digits."""
        return {k: rounded(v) for k, v in asdict(self).items() if k != "value"}


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Cost:  # noqa: ANN401 - whatever it takes
    """Call a function in a new process: only there does its peak of memory belong to it.

    Args:
        function: A function of a module.
        arguments: Picklable.

    Returns:
        Its value and cost.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measured, function, arguments).result()


def _measured(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Cost:
    cpu, wall = _cpu_seconds(), time.perf_counter()
    value = function(*arguments)
    return Cost(value, _cpu_seconds() - cpu, time.perf_counter() - wall, peak_mib())


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB.

    Linux hands the parent's peak on to a child in ``ru_maxrss``; ``VmHWM`` is the process's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB


def rounded(value: float, digits: int = 4) -> float:
    """Round to significant digits."""
    return float(f"{value:.{digits}g}")


def find_benchmarks() -> dict[str, Benchmark]:
    """Collect what the modules of this package declare, by name, in the order of the names."""
    found: dict[str, Benchmark] = {}
    for module in pkgutil.iter_modules(benchmarks.__path__):
        if module.name in _OWN_MODULES or module.name.startswith("_"):
            continue
        # A module without the tuple is a program of its own, such as one that takes hours.
        declared: Sequence[Benchmark] = getattr(
            importlib.import_module(f"benchmarks.{module.name}"), "BENCHMARKS", ()
        )
        for benchmark in declared:
            if benchmark.name in found:
                message = f"Each benchmark must have a name of its own. Two are called {benchmark.name!r}."
                raise ValueError(message)
            found[benchmark.name] = benchmark
    return dict(sorted(found.items()))


def run(benchmark: Benchmark, *, quick: bool) -> dict[str, Any]:
    """Measure one benchmark.

    Args:
        benchmark: What to run.
        quick: Whether only the code is tried.

    Returns:
        ``name``, ``ratio``, ``target``, ``unit`` and ``details``, in plain values.
    """
    outcome = benchmark.measure(quick=quick)
    if not math.isfinite(outcome.ratio):
        message = f"A ratio must be finite. {benchmark.name} found {outcome.ratio}."
        raise ValueError(message)
    details = {
        "compares": benchmark.compares,
        "goal": benchmark.goal,
        "met": benchmark.is_met(outcome.ratio),
        "quick": quick,
        **outcome.details,
    }
    return {
        "name": benchmark.name,
        "ratio": rounded(outcome.ratio),
        "target": benchmark.target,
        "unit": benchmark.unit,
        "details": details,
    }


def describe_machine() -> dict[str, Any]:
    """Name what times depend on, and nothing that tells whose machine it is."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "numpy", "scipy", "flwr")},
    }


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    if listed.exists():
        for line in listed.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
