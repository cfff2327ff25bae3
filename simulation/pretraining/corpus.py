"""The corpus on disk: examples drawn by many processes, in chunks, each once; an interrupted run goes on."""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from mediclip.errors import CheckpointError
from mediclip.training.checkpoint import write_atomically
from simulation.pretraining.examples import draw_example

CHUNK = 500
"""Examples a file."""


@dataclass(frozen=True)
class Corpus:
    """All examples in memory: 8 bits a pixel, one a pixel of the masks.

    Attributes:
        images: ``(N, S, S)`` uint8.
        masks: ``(N, S, S / 8)`` uint8, packed bits along the rows.
        organs: N organs, ``"texture"`` among them.
        findings: N names of findings, None for a healthy image.
    """

    images: NDArray[np.uint8]
    masks: NDArray[np.uint8]
    organs: Sequence[str]
    findings: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.images)

    def masks_of(self, indexes: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Unpack some masks: ``(n, S, S)``."""
        return np.unpackbits(self.masks[indexes], axis=-1).astype(np.bool_)


def build_corpus(
    directory: Path,
    *,
    seed: int,
    examples: int,
    size: int,
    workers: int,
    on_example: Callable[[int, int], None] | None = None,
) -> Corpus:
    """Draw what is not drawn yet and load the corpus.

    Args:
        directory: Folder of the chunks; those of the same seed and size that it holds are used.
        seed: Seed of the corpus.
        examples: Number of examples N.
        size: Side S of the images in pixels, a multiple of 8.
        workers: Processes that draw, at least 1.
        on_example: Called with how many are there and N, now and then.

    Returns:
        The corpus; the same for the same seed, N and size, whoever drew it.

    Raises:
        CheckpointError: If a chunk cannot be read.
    """
    directory.mkdir(parents=True, exist_ok=True)
    counts = [min(CHUNK, examples - first) for first in range(0, examples, CHUNK)]
    paths = [
        directory / f"{seed}-{size}-{number:05d}-{count}.safetensors" for number, count in enumerate(counts)
    ]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    done = examples - sum(counts[number] for number in missing)
    with ProcessPoolExecutor(workers) as pool:
        jobs = {
            pool.submit(_write_chunk, paths[number], seed, number * CHUNK, counts[number], size): number
            for number in missing
        }
        for job in as_completed(jobs):
            job.result()
            done += counts[jobs[job]]
            if on_example:
                on_example(done, examples)
    parts = [_read_chunk(path) for path in paths]
    return Corpus(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        [organ for part in parts for organ, _ in part[2]],
        [finding for part in parts for _, finding in part[2]],
    )


def corpus_digest(corpus: Corpus) -> str:
    """Return the SHA-256 of images, masks and what they show, in their order."""
    digest = hashlib.sha256(json.dumps([list(corpus.organs), list(corpus.findings)]).encode())
    digest.update(np.ascontiguousarray(corpus.images).data)
    digest.update(np.ascontiguousarray(corpus.masks).data)
    return digest.hexdigest()


def _write_chunk(path: Path, seed: int, first: int, count: int, size: int) -> None:
    examples = [draw_example(seed, first + i, size) for i in range(count)]
    shown = json.dumps([(example.organ, example.finding) for example in examples]).encode()
    tensors = {
        "images": np.stack([example.image for example in examples]),
        "masks": np.stack([np.packbits(example.mask, axis=-1) for example in examples]),
        "shown": np.frombuffer(shown, np.uint8),
    }
    write_atomically(path, save(tensors))


def _read_chunk(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], list[tuple[str, str | None]]]:
    try:
        tensors = load_file(path)
        return tensors["images"], tensors["masks"], json.loads(tensors["shown"].tobytes())
    except Exception as error:  # safetensors raises its own class, and what the file holds decides the rest
        message = f"A chunk of the corpus must be readable. {path.name} is not; remove it to draw it again."
        raise CheckpointError(message) from error
