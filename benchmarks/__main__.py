"""``python -m benchmarks [NAME...] --json FILE``: run benchmarks, print their ratios, write them down."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from benchmarks.harness import SCHEMA, Benchmark, describe_machine, find_benchmarks, run


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what was asked for.

    Args:
        arguments: What stands after the program's name; the process's own when omitted.
    """
    known = find_benchmarks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="benchmarks, or how their names begin; all when none"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and run none")
    parser.add_argument("--quick", action="store_true", help="try the code; the figures mean nothing")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if not any(k.startswith(name) for k in known)]
    if unknown:
        parser.error(f"no benchmark is called {unknown[0]!r}; see --list")
    chosen = [b for n, b in known.items() if not asked.names or any(n.startswith(a) for a in asked.names)]
    if asked.list:
        _print_list(chosen)
        return
    results = []
    for number, benchmark in enumerate(chosen, start=1):
        sys.stderr.write(f"{number}/{len(chosen)} {benchmark.name}\n")
        results.append(run(benchmark, quick=asked.quick))
        if asked.json is not None:  # after each, so that a long run that is stopped leaves what it has
            content = {"schema": SCHEMA, "machine": describe_machine(), "results": results}
            asked.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    _print_results(chosen, results)


def _print_list(chosen: Sequence[Benchmark]) -> None:
    table = Table(Column("benchmark", no_wrap=True), "compares", "target", "unit")
    for benchmark in chosen:
        table.add_row(benchmark.name, benchmark.compares, benchmark.goal, benchmark.unit)
    Console().print(table)


def _print_results(chosen: Sequence[Benchmark], results: Sequence[dict[str, Any]]) -> None:
    table = Table(Column("benchmark", no_wrap=True), "ratio", "target", "", "unit")
    for benchmark, result in zip(chosen, results, strict=True):
        met = "met" if result["details"]["met"] else "missed"
        table.add_row(benchmark.name, f"{result['ratio']:g}", benchmark.goal, met, benchmark.unit)
    Console().print(table)


if __name__ == "__main__":
    # Sites and coordinators are sessions of their own: what is ended by a time limit must end them itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    main()
