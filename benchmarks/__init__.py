"""Measurements of speed and memory as ratios of one run. None is a test: machines are shared and noisy.

    python -m benchmarks --list
    python -m benchmarks --json benchmarks.json
    python -m benchmarks synthesis --quick

To add one, put a module here that ends with a tuple named ``BENCHMARKS``; ``python -m benchmarks`` finds it::

    from benchmarks.harness import Benchmark, Outcome, compare

    def _measure(*, quick: bool) -> Outcome:
        data = prepare(10 if quick else 10_000)
        work = {"plain": lambda: plain(data), "ours": lambda: fast(data)}
        timings = compare(work, repeats=3 if quick else 7)
        return Outcome(
            timings["plain"].cpu_s / timings["ours"].cpu_s,
            {name: timing.as_dict() for name, timing in timings.items()},
        )

    BENCHMARKS = (
        Benchmark("fast_thing", "plain form against ours, one core", target=10, unit="times less CPU time",
                  measure=_measure),
    )

A benchmark has one ratio, which must be at least its target, or at most with ``at_most=True``. What is
compared runs in turn in one process or, where memory counts, each in a fresh one
(:func:`benchmarks.harness.in_fresh_process`). With ``quick`` it ends within two seconds: that tries the
code, and its figures mean nothing. Say ``is_cheap=True`` if it then needs nothing but this repository, and a
test runs it.
"""
