"""Runs detectors over a test set; each image is read once and encoded once for all that share a backbone."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mediclip.data.preprocess import Preprocess, iter_images
from mediclip.data.samples import Sample, has_masks
from mediclip.evaluation.cases import Case, CaseGroup, choose_cases, positions_of
from mediclip.evaluation.duplicates import CopyFilter, Fingerprint, fingerprint
from mediclip.evaluation.pixel_metrics import PixelMetrics
from mediclip.evaluation.prediction import Prediction, Summary, pool, summarise
from mediclip.model.backbone import Backbone
from mediclip.model.memory import Judgement

__all__ = ["Detector", "Prediction", "Summary", "pool", "predict", "predict_cases", "summarise"]


class Detector(Protocol):
    """Whatever scores images: a :class:`mediclip.model.network.MediClip`, or a rival beside it.

    Detectors of the same backbone and taps get the same tokens.
    """

    @property
    def backbone(self) -> Backbone:
        """What encodes the images."""
        ...

    @property
    def taps(self) -> tuple[int, ...]:
        """Which of its blocks are read."""
        ...

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Encode ``(B, S, S)`` in [0, 1] into what :meth:`judge` takes."""
        ...

    def judge(self, tokens: Sequence[Tensor]) -> Judgement:
        """Say how abnormal images are."""
        ...


def predict(
    networks: Mapping[str, Detector],
    samples: Sequence[Sample],
    preprocess: Preprocess,
    *,
    batch_size: int = 16,
    keep_maps: Collection[int] = (),
    support: Iterable[Fingerprint] = (),
    on_batch: Callable[[int, int], None] | None = None,
) -> dict[str, Prediction]:
    """Score images with one or more detectors.

    The memory needed does not grow with the number of images, but for the maps that are asked for.

    Args:
        networks: Detectors by name. Those with the same backbone and taps share the encoded images.
        samples: Images to score, in the order of the result.
        preprocess: The one that the detectors were trained with.
        batch_size: Images encoded at a time, at least 1.
        keep_maps: Indexes of the samples whose maps are returned.
        support: Fingerprints of the images that any of the detectors was trained on; test images that are
            copies or near-copies of one are marked as not unique.
        on_batch: Told after each batch how many images are done and how many there are.

    Returns:
        One prediction for each name, with pixel metrics where the samples have masks.

    Raises:
        ImageError: If an image cannot be used.
        MaskError: If the samples have masks and one is missing or cannot be used.
        SettingsError: If the batch size is below 1.
    """
    with_pixels = has_masks(samples)
    collectors = {name: _Collector.empty(with_pixels=with_pixels) for name in networks}
    groups: dict[tuple[int, tuple[int, ...]], list[str]] = defaultdict(list)
    for name, network in networks.items():
        groups[id(network.backbone), network.taps].append(name)
    copies = CopyFilter(support)
    unique: list[bool] = []
    for images in iter_images(samples, preprocess, batch_size):
        batch = _Batch.following(len(unique), images, samples, copies)
        masks = np.stack([preprocess.load_mask(s) for s in batch.samples]) if with_pixels else None
        with torch.inference_mode():
            for names in groups.values():
                first = networks[names[0]]
                tokens = first.tokens(torch.from_numpy(images).to(first.backbone.device))
                for name in names:
                    collectors[name].add(networks[name].judge(tokens), batch, masks, keep_maps)
        unique += batch.unique.tolist()
        if on_batch is not None:
            on_batch(len(unique), len(samples))
    labels = np.array([s.label for s in samples], dtype=np.bool_)
    return {
        name: Prediction(
            scores=np.array(c.scores, dtype=np.float64),
            labels=labels,
            unique=np.array(unique, dtype=np.bool_),
            pixel=c.pixel,
            unique_pixel=c.unique_pixel,
            maps=c.maps,
        )
        for name, c in collectors.items()
    }


@dataclass(frozen=True)
class _Batch:
    """B samples, and ``(B,)`` whether each is no copy."""

    samples: Sequence[Sample]
    unique: NDArray[np.bool_]

    @classmethod
    def following(
        cls, start: int, images: NDArray[np.float32], samples: Sequence[Sample], copies: CopyFilter
    ) -> "_Batch":
        unique = np.array([copies.is_new(fingerprint(image)) for image in images], dtype=np.bool_)
        return cls(samples[start : start + len(images)], unique)


@dataclass
class _Collector:
    """What one detector has said so far."""

    pixel: PixelMetrics | None
    unique_pixel: PixelMetrics | None
    scores: list[float] = field(default_factory=list)
    maps: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def empty(cls, *, with_pixels: bool) -> "_Collector":
        return cls(PixelMetrics() if with_pixels else None, PixelMetrics() if with_pixels else None)

    def add(
        self, said: Judgement, batch: _Batch, masks: NDArray[np.bool_] | None, keep_maps: Collection[int]
    ) -> None:
        self.scores += said.scores.tolist()
        maps: NDArray[np.float32] = said.maps.float().cpu().numpy()  # (B, S, S)
        for sample, one in zip(batch.samples, maps, strict=True):
            if sample.index in keep_maps:
                self.maps[sample.index] = one.copy()
        if masks is not None and self.pixel is not None and self.unique_pixel is not None:
            self.pixel.update(maps, masks)
            if batch.unique.any():
                self.unique_pixel.update(maps[batch.unique], masks[batch.unique])


def predict_cases(
    networks: Mapping[str, Detector],
    samples: Sequence[Sample],
    preprocess: Preprocess,
    prediction: Prediction,
    *,
    each: int = 4,
) -> tuple[CaseGroup, ...]:
    """Gather the scans that a report shows, with the maps of one or more detectors.

    Args:
        networks: Detectors by the name under which their maps are shown.
        samples: The test set that ``prediction`` is about.
        preprocess: The one that the detectors were trained with.
        prediction: Whose scores choose the scans.
        each: Scans for each reason, at least 1.

    Returns:
        Groups as :func:`choose_cases` orders them.

    Raises:
        ImageError: If an image cannot be used.
        MaskError: If the samples have masks and one is missing or cannot be used.
    """
    choices = choose_cases(prediction.labels, prediction.scores, each=each)
    chosen = [samples[p] for p in positions_of(choices)]
    shown = predict(networks, chosen, preprocess, keep_maps={s.index for s in chosen})
    with_masks = has_masks(samples)

    def case(position: int) -> Case:
        sample = samples[position]
        return Case(
            title=sample.title,
            label=sample.label,
            score=float(prediction.scores[position]),
            image=preprocess.load_image(sample),
            mask=preprocess.load_mask(sample) if with_masks and sample.label else None,
            maps={name: shown[name].maps[sample.index] for name in networks},
        )

    return tuple(CaseGroup(c.title, c.note, tuple(map(case, c.positions))) for c in choices)
