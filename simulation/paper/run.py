"""Runs the cells side by side and writes what a person and a script read."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal

from mediclip.config import load_recipe
from mediclip.errors import SettingsError
from mediclip.model.backbone_loading import load_backbone
from mediclip.training.checkpoint import versions, write_atomically
from mediclip.training.run import findable_spec
from simulation.paper.catalogue import LAYOUT, PAPER_SETS, Found, find_sets
from simulation.paper.cells import Task, read_result, run_task, variants_of
from simulation.paper.grid import Grid, PaperSettings, make_grid, make_variants
from simulation.paper.page import write_benchmark_page
from simulation.paper.summary import cell_rows, summarise_rows, to_plain
from simulation.paper.tables import PART_TITLES, make_tables, to_markdown, write_csv

RunOn = Literal["processes", "ray"]
RESULTS, TABLE, MARKDOWN, PAGE = "results.json", "results.csv", "results.md", "report.html"
_ENVIRONMENT: Final = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Cells run side by side, each with one thread; Ray sends nothing home and leaves the GPUs' names alone."""


@dataclass(frozen=True)
class PaperRun:
    """A benchmark that is ready to run.

    Attributes:
        out: Its folder.
        found: The sets.
        grid: The cells.
        tasks: One for each cell of the grid.
        facts: What makes the numbers again.
    """

    out: Path
    found: Found
    grid: Grid
    tasks: tuple[Task, ...]
    facts: dict[str, Any]


def plan_paper(
    settings: PaperSettings,
    *,
    data_root: Path,
    out: Path,
    backbone: str,
    taps: tuple[int, ...] | None = None,
    only: tuple[str, ...] | None = None,
    device: str = "cpu",
) -> PaperRun:
    """Find the sets, load the backbone once to know it, and list the cells.

    Args:
        settings: What is asked for.
        data_root: Folder with one subfolder a set.
        out: Folder of the benchmark.
        backbone: Backbone spec.
        taps: Tapped blocks; the backbone's own when None.
        only: Names of sets to use; all that there are when None.
        device: Torch device; ``cuda`` gives cells to all GPUs in turn.

    Returns:
        The run.

    Raises:
        BackboneError: If the backbone cannot be loaded.
        SettingsError: If no set is there, or the taps are not of the backbone.
    """
    recipes = {recipe.name: recipe for recipe in map(load_recipe, settings.recipes)}
    first = next(iter(recipes.values()))
    ablations = make_variants(first) if "ablation" in settings.parts else {}
    found = find_sets(data_root, only)
    if not found.folders:
        message = (
            f"--data-root must hold a set. {data_root} holds none that can be read; lay one out as {LAYOUT}."
        )
        raise SettingsError(message)
    loaded = load_backbone(backbone, image_size=first.image_size)
    loaded.check_taps(taps or loaded.default_taps())
    grid = make_grid(settings, tuple(recipes), found.datasets, tuple(ablations))
    tasks = tuple(
        Task(
            cell,
            variants_of(recipes, ablations, cell),
            {name: found.folders[name].resolve() for name in (cell.set_name, *cell.tested_on)},
            out.resolve(),
            findable_spec(backbone),
            loaded.sha256,
            taps,
            device if device != "cuda" else f"cuda:{number % _gpus()}",
        )
        for number, cell in enumerate(grid.cells)
    )
    facts = {
        "settings": settings.model_dump(mode="json"),
        "backbone": loaded.name,
        "backbone_sha256": loaded.sha256,
        "taps": list(taps or loaded.default_taps()),
        "recipes": {name: recipe.digest() for name, recipe in recipes.items()},
        "versions": versions(),
    }
    return PaperRun(out, found, grid, tasks, facts)


def run_paper(
    run: PaperRun, *, jobs: int | None, on: RunOn, command: str, on_cell: Callable[[int, int, str], None]
) -> dict[str, Any]:
    """Run the cells that are not done and write the results of all.

    Args:
        run: From :func:`plan_paper`.
        jobs: Cells at a time; as many as there are cores when None.
        on: Where: processes of this machine, or a Ray cluster.
        command: What was typed.
        on_cell: Told of cells done, cells in all, and the last one's name.

    Returns:
        The content of ``results.json``.

    Raises:
        CheckpointError: If the folder holds cells of other data, another backbone or other recipes.
    """
    documents: dict[str, dict[str, Any]] = {}
    waiting: list[Task] = []
    for task in run.tasks:
        done = read_result(task)
        if done is None:
            waiting.append(task)
        else:
            documents[task.cell.name] = done
    on_cell(len(documents), len(run.tasks), "")
    if waiting:
        with _workers(on, jobs or os.cpu_count() or 1) as results:
            for task, document in results(waiting):
                documents[task.cell.name] = document
                on_cell(len(documents), len(run.tasks), task.cell.name)
    ordered = [documents[task.cell.name] for task in run.tasks]
    return _write(run, ordered, command)


def notes(run: PaperRun, documents: Sequence[dict[str, Any]]) -> list[str]:
    """Say in sentences what the tables lack, and where to get it."""
    told = [
        f"{PAPER_SETS[name].title if name in PAPER_SETS else name} is absent"
        + (f": {PAPER_SETS[name].source}; lay it out as {LAYOUT}." if name in PAPER_SETS else ".")
        for name in run.found.absent
    ]
    told += [f"{name} cannot be used: {reason}" for name, reason in run.found.unreadable.items()]
    few: dict[tuple[str, str, int], set[int]] = {}
    for cell, pool in run.grid.too_few:
        few.setdefault((PART_TITLES[cell.part], cell.set_name, pool), set()).add(cell.sites * cell.shots)
    told += [
        f"{title}, {name}: not run where {', '.join(map(str, sorted(needed)))} normal training images are "
        f"needed, for it has {pool}."
        for (title, name, pool), needed in few.items()
    ]
    return told + [f"A cell failed: {d['failed']}" for d in documents if "failed" in d]


def _write(run: PaperRun, documents: Sequence[dict[str, Any]], command: str) -> dict[str, Any]:
    rows = cell_rows(documents)
    lines = summarise_rows(rows)
    told = notes(run, documents)
    document = {
        "schema": 1,
        **run.facts,
        "command": command,
        "sets": list(run.found.folders),
        "absent": list(run.found.absent),
        "notes": told,
        "failed": [d["cell"] for d in documents if "failed" in d],
        "rows": rows,
        "summary": to_plain(lines),
    }
    run.out.mkdir(parents=True, exist_ok=True)
    tables = make_tables(lines)
    text = [f"# The benchmark\n\n`{command}`\n\n" + "".join(f"- {note}\n" for note in told)]
    text += [f"\n## {PART_TITLES[table.part]}\n\n{to_markdown(table)}" for table in tables]
    write_atomically(run.out / RESULTS, json.dumps(document, indent=1).encode())
    write_atomically(run.out / TABLE, write_csv(rows).encode())
    write_atomically(run.out / MARKDOWN, "".join(text).encode())
    facts = {name: str(value) for name, value in run.facts.items()}
    write_benchmark_page(
        run.out / PAGE, lines=lines, documents=documents, notes=told, command=command, facts=facts
    )
    return document


Results = Callable[[Sequence[Task]], Iterator[tuple[Task, dict[str, Any]]]]


@contextmanager
def _workers(on: RunOn, jobs: int) -> Iterator[Results]:
    """Give a function that runs tasks side by side and yields each when it is done."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)  # the processes inherit it
    try:
        if on == "ray":
            yield _with_ray
        elif jobs == 1:
            yield lambda tasks: ((task, run_task(task)) for task in tasks)
        else:
            pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"))
            try:
                yield lambda tasks: _in_pool(pool, tasks)
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _in_pool(pool: ProcessPoolExecutor, tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
    futures = {pool.submit(run_task, task): task for task in tasks}
    for future in as_completed(futures):
        yield futures[future], future.result()


def _with_ray(tasks: Sequence[Task]) -> Iterator[tuple[Task, dict[str, Any]]]:
    import ray  # noqa: PLC0415 - two seconds that only this way of running needs

    path = {"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path), **_ENVIRONMENT}}
    ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, runtime_env=path)
    on_gpu = any(task.device != "cpu" for task in tasks)
    remote = ray.remote(num_cpus=1, num_gpus=1 if on_gpu else 0)(run_task)
    try:
        waiting = {remote.remote(task): task for task in tasks}
        while waiting:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), ray.get(done)
    finally:
        ray.shutdown()


def _gpus() -> int:
    import torch  # noqa: PLC0415

    return max(1, torch.cuda.device_count())
