"""From a sample to the square grey image that the network sees, the same way in training and in use.

The steps have a name and a version: whatever would change a pixel is a new version, so that a model file can
say what its images went through (:meth:`Preprocess.settings`) and be refused by a program that does it
another way.

No file is opened in this process: :mod:`mediclip.data.pool` does that in others, which can be ended.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mediclip.data.policies import POLICY_NAMES, Choices, policies_digest
from mediclip.data.pool import File, shared_pool
from mediclip.data.samples import NORMAL, Sample
from mediclip.errors import MaskError, SettingsError

MIN_SIZE: Final = 32
MAX_SIZE: Final = 1024
_LOADED_AT_ONCE: Final = 32
# By one process, without waiting for this one in between.
_LOADED_BY_ONE: Final = 4
_MAX_WORKERS: Final = 8


@dataclass(frozen=True)
class Preprocess:
    """Grey, squashed to a square with bilinear filtering, scaled to [0, 1].

    How DICOM and NIfTI become grey is fixed by the policies of :mod:`mediclip.data.policies`, whose digest is
    one of the settings. Rasters do not depend on them.

    See :func:`mediclip.data.square.to_square` for the resizing.

    Attributes:
        image_size: Side S of the square in pixels, in [32, 1024].
        policies: Policies of DICOM chosen in place of the usual ones, by modality.
    """

    name: ClassVar[str] = "raster"
    version: ClassVar[int] = 1
    image_size: int = 224
    policies: Choices = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        size = self.image_size
        if type(size) is not int or not MIN_SIZE <= size <= MAX_SIZE:
            message = (
                f"The 'image_size' of the preprocessing must be an int in [{MIN_SIZE}, {MAX_SIZE}], "
                f"but it is {size!r}; correct it."
            )
            raise SettingsError(message)

    def settings(self) -> dict[str, object]:
        """Return name, version and settings, as a model file keeps them: of policies, digest and choice."""
        chosen = {"chosen_policies": dict(self.policies)} if self.policies else {}
        return {
            "name": self.name,
            "version": self.version,
            "image_size": self.image_size,
            "policies": policies_digest(self.policies),
            **chosen,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> "Preprocess":
        """Make the preprocessing that a model file asks for.

        Args:
            settings: What :meth:`settings` returned, of this program or of one that read rasters alone and
                named no policies.

        Returns:
            The same preprocessing.

        Raises:
            SettingsError: If this program has no preprocessing of that name and version, or other policies.
        """
        size, chosen = settings.get("image_size"), settings.get("chosen_policies", {})
        if isinstance(size, int) and isinstance(chosen, dict) and _are_policies(chosen.values()):
            made = cls(size, chosen)
            plain = {key: value for key, value in made.settings().items() if key != "policies"}
            if dict(settings) in (made.settings(), {} if chosen else plain):
                return made
        message = (
            f"The preprocessing must be {cls.name!r} version {cls.version} with an image_size and the "
            f"policies {policies_digest()[:12]} or a choice of these, but {dict(settings)} is asked for; use "
            "the release that the model was made with."
        )
        raise SettingsError(message)

    def digest(self) -> str:
        """Return the SHA-256 of the settings in canonical JSON, as hexadecimal."""
        text = json.dumps(self.settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def load_image(self, sample: Sample) -> NDArray[np.float32]:
        """Read a sample's image.

        Args:
            sample: Whose image.

        Returns:
            ``(S, S)`` in [0, 1].

        Raises:
            ImageError: If its file cannot be used.
        """
        return self.load_file(sample.image, name=sample.title, frame=sample.frame)

    def load_file(self, path: Path, *, name: str, frame: int | None = None) -> NDArray[np.float32]:
        """Read an image that belongs to no data set.

        Args:
            path: The file.
            name: What messages call it, such as ``"image 3"``; not its path.
            frame: Which frame of a file with several, from 0; when omitted the one that stands for the file.

        Returns:
            ``(S, S)`` in [0, 1].

        Raises:
            ImageError: If the file cannot be used.
        """
        return self.load_files([(path, name, frame)])[0]

    def load_files(self, files: Sequence[File]) -> list[NDArray[np.float32]]:
        """Read several images one after the other, in one process.

        Args:
            files: At least one, each with what messages call it and its frame or None, as
                :meth:`load_file`.

        Returns:
            ``(S, S)`` in [0, 1] for each.

        Raises:
            ImageError: If one cannot be used: the first such file.
        """
        return shared_pool().read_squares(files, side=self.image_size, choices=self.policies)

    def load_mask(self, sample: Sample) -> NDArray[np.bool_]:
        """Read a sample's mask, for pixel metrics.

        Masks are read only in a set that has them (:func:`mediclip.data.manifest.has_masks`), where every
        abnormal sample needs one.

        Args:
            sample: Whose mask.

        Returns:
            ``(S, S)``, True where abnormal, resized to the nearest pixel; all False for a normal sample.

        Raises:
            MaskError: If an abnormal sample has no mask, its file is missing or cannot be used, or it has
                another size than the image.
            ImageError: If the image cannot be used.
        """
        side = self.image_size
        if sample.label == NORMAL:
            return np.zeros((side, side), dtype=np.bool_)
        if sample.mask is None:
            message = (
                f"Cannot use {sample.title}: every abnormal image of a set with masks must have one, "
                "but it has none; add its mask, or remove all masks to go without pixel metrics."
            )
            raise MaskError(message)
        pool = shared_pool()
        mask = pool.read_mask(sample.mask, name=f"the mask of {sample.title}", frame=sample.frame)
        height, width = pool.read_shape(sample.image, name=sample.title)
        if mask.shape != (height, width):
            message = (
                f"Cannot use the mask of {sample.title}: it must have its image's size, {height} x {width} "
                f"(height x width), but it has {mask.shape[0]} x {mask.shape[1]}; export it again."
            )
            raise MaskError(message)
        if (box := pool.read_box(sample.image, name=sample.title)) is not None:
            top, left, height, width = box
            mask = mask[top : top + height, left : left + width]
        square = Image.fromarray(mask.astype(np.uint8)).resize((side, side), Image.Resampling.NEAREST)
        return np.asarray(square).astype(np.bool_)


class SquareCache(Protocol):
    """Gives squares that were made before; see :class:`mediclip.data.array_cache.ArrayCache`."""

    def load(
        self, path: Path, preprocess: Preprocess, *, name: str, frame: int | None = None
    ) -> NDArray[np.float32]:
        """Give the square of a file."""
        ...


def load_images(
    samples: Sequence[Sample], preprocess: Preprocess, cache: SquareCache | None = None
) -> NDArray[np.float32]:
    """Read the images of many samples at once, on several threads.

    Args:
        samples: N samples.
        preprocess: How.
        cache: Where squares are kept from run to run, if anywhere.

    Returns:
        ``(N, S, S)`` in [0, 1], in the samples' order.

    Raises:
        ImageError: If a file cannot be used: the first such sample in order.
    """
    images = np.empty((len(samples), preprocess.image_size, preprocess.image_size), dtype=np.float32)
    done = 0
    for batch in iter_images(samples, preprocess, _LOADED_AT_ONCE, cache):
        images[done : done + len(batch)] = batch
        done += len(batch)
    return images


def iter_images(
    samples: Sequence[Sample], preprocess: Preprocess, batch_size: int, cache: SquareCache | None = None
) -> Iterator[NDArray[np.float32]]:
    """Read the images of many samples batch by batch, the next one while the last is in use.

    Args:
        samples: N samples.
        preprocess: How.
        batch_size: Images B in one batch, at least 1.
        cache: Where squares are kept from run to run, if anywhere.

    Yields:
        ``(B, S, S)`` in [0, 1], in the samples' order; the last batch may be smaller.

    Raises:
        ImageError: If a file cannot be used: the first such sample in order.
        SettingsError: If the batch size is below 1.
    """
    if batch_size < 1:
        message = f"The 'batch_size' must be at least 1, but it is {batch_size}; correct it."
        raise SettingsError(message)
    ahead: deque[list[Future[list[NDArray[np.float32]]]]] = deque()
    threads = min(_MAX_WORKERS, os.cpu_count() or 1)
    part = min(_LOADED_BY_ONE, ceil(batch_size / threads))
    pool = ThreadPoolExecutor(threads, thread_name_prefix="images")
    try:
        for start in range(0, len(samples), batch_size):
            batch = samples[start : start + batch_size]
            parts = (batch[first : first + part] for first in range(0, len(batch), part))
            ahead.append([pool.submit(_load, preprocess, some, cache) for some in parts])
            if len(ahead) > 1:
                yield _joined(ahead.popleft())
        while ahead:
            yield _joined(ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _load(
    preprocess: Preprocess, samples: Sequence[Sample], cache: SquareCache | None
) -> list[NDArray[np.float32]]:
    if cache is None:
        return preprocess.load_files([(sample.image, sample.title, sample.frame) for sample in samples])
    return [cache.load(one.image, preprocess, name=one.title, frame=one.frame) for one in samples]


def _joined(parts: Iterable[Future[list[NDArray[np.float32]]]]) -> NDArray[np.float32]:
    return np.stack([image for part in parts for image in part.result()])


def _are_policies(names: Iterable[object]) -> bool:
    return all(name in POLICY_NAMES for name in names)
