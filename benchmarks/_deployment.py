"""A coordinator, and what it needs, as real processes for benchmarks: settings, kits, logs, memory."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mediclip.config import load_recipe
from mediclip.model.trainables import BackboneShapes
from server.federation import load_federation
from server.flower_processes import free_port, stop_group
from server.provision import provision

ROOT: Final = Path(__file__).resolve().parents[1]
_PROGRAM: Final = "from mediclip.cli.main import main; main()"
_LOOK_EVERY_S: Final = 0.2


def toml(values: Mapping[str, Any]) -> str:
    """Write plain values as TOML."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if value is not None)


def write_federation(
    folder: Path,
    sites: list[str],
    backbone: tuple[str, BackboneShapes, tuple[int, ...]],
    **changes: Any,  # noqa: ANN401 - whatever the settings take
) -> Path:
    """Write settings with a cheap recipe, and provision the kits.

    Args:
        folder: Where; the kits come into its folder ``kits``.
        sites: Names of the sites.
        backbone: Spec, widths and taps.
        **changes: Keys of ``federation.toml``.

    Returns:
        ``federation.toml``.
    """
    cheap = {"name": "cheap", "batch_size": 2, "bank_views": 1}
    recipe = load_recipe("default").model_dump(mode="json", exclude_none=True) | cheap
    tables = {key: recipe.pop(key) for key in [k for k, v in recipe.items() if isinstance(v, dict)]}
    text = toml(recipe) + "".join(f"[{key}]\n{toml(table)}" for key, table in tables.items())
    (folder / "cheap.toml").write_text(text, encoding="utf-8")
    spec, shapes, taps = backbone
    values = {
        "name": "benchmark",
        "address": f"127.0.0.1:{free_port()}",
        "sites": sites,
        "taps": list(taps),
        "recipe": "cheap.toml",
        "local_steps": 2,
        "min_sites": 1,
        **changes,
    }
    model = {
        "spec": spec,
        "width": shapes.width,
        "embed_dim": shapes.embed_dim,
        "text_width": shapes.text_width,
    }
    path = folder / "federation.toml"
    path.write_text(f"{toml(values)}[backbone]\n{toml(model)}", encoding="utf-8")
    provision(load_federation(path)[0], folder / "kits")
    return path


@contextmanager
def running(log: Path, *arguments: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ``mediclip`` in a process group of its own, its output going to a file."""
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", _PROGRAM, *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop_group(process)


def finish(process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait for a process that must end well.

    Raises:
        SystemExit: If it does not; its log is printed.
    """
    if process.wait() != 0:
        sys.stderr.write(log.read_text(encoding="utf-8"))
        raise SystemExit(1)


class PeakMemory:
    """Follows the largest memory of a process and of what it started, by what each is, in MiB.

    Args:
        pid: Number of the process.
        words: Parts of command lines, and what to call the processes that have them; others are ``name``.
        name: What to call the process itself.
    """

    def __init__(self, pid: int, words: Mapping[str, str], name: str) -> None:
        self._pid, self._words, self._name = pid, words, name
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.mib: dict[str, int] = {}

    def __enter__(self) -> "PeakMemory":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._end.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._end.wait(_LOOK_EVERY_S):
            front = [self._pid]
            while front:
                number = front.pop()
                children = Path(f"/proc/{number}/task/{number}/children")
                try:
                    command = Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace")
                    status = Path(f"/proc/{number}/status").read_text()
                    front += [int(child) for child in children.read_text().split()]
                except OSError:
                    continue
                peak = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
                name = next((n for word, n in self._words.items() if word in command), self._name)
                self.mib[name] = max(self.mib.get(name, 0), *(kib // 1024 for kib in peak), 0)
