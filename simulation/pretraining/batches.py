"""What each step sees, drawn from the corpus by the step's number alone, so that a run can be resumed."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer
from torch.nn import functional

from mediclip.config import load_recipe
from mediclip.rng import generator
from simulation.pretraining.augment import augment
from simulation.pretraining.captions import ABNORMAL_WORDS, NORMAL_WORDS, VIEWS, write_caption
from simulation.pretraining.corpus import Corpus
from simulation.pretraining.settings import PretrainSettings
from simulation.pretraining.student import Batch

_PHRASES = 8
"""Phrases a class and step; their mean is what patches are compared with."""
_CELLS = 56
"""Cells along a side in which a caption says what is seen, whatever the size of the image."""


class Batches:
    """Makes the batch of any step.

    Args:
        corpus: The examples.
        settings: The run.
        device: Where the tensors shall lie.
    """

    def __init__(self, corpus: Corpus, settings: PretrainSettings, device: torch.device) -> None:
        self._corpus, self._settings, self._device = corpus, settings, device
        self._tokenizer = SimpleTokenizer()
        prompts = load_recipe("default").prompts
        self._phrases = (prompts.normal, prompts.abnormal)

    def at(self, step: int) -> Batch:
        """Draw the batch of one step, from 0 on; every example comes once before any comes again."""
        settings = self._settings
        rng = generator(settings.seed, "pretraining-step", step)
        chosen = self._indexes(step)
        images = torch.from_numpy(self._corpus.images[chosen]).to(self._device).float() / 255
        masks = torch.from_numpy(self._corpus.masks_of(chosen)).to(self._device).float()
        size = settings.size_at(step)
        if (times := settings.image_size // size) > 1:
            images, masks = (functional.avg_pool2d(part[:, None], times)[:, 0] for part in (images, masks))
        images, masks = augment(images, masks, rng)
        plain = settings.batch_size - settings.masked
        words = self._captions(chosen[:plain], masks[:plain], rng)
        phrases, normal = self._some_phrases(rng)
        patches = (size // settings.patch_size) ** 2
        order = rng.permuted(np.tile(np.arange(patches), (settings.masked, 1)), axis=1)
        return Batch(
            images=images,
            masks=masks,
            captions=self._tokenizer(words).to(self._device),
            phrases=self._tokenizer(phrases).to(self._device),
            normal_phrases=normal,
            hidden=torch.from_numpy(order < round(settings.mask_ratio * patches)).to(self._device),
        )

    def _indexes(self, step: int) -> NDArray[np.intp]:
        total, size = len(self._corpus), self._settings.batch_size
        places = np.arange(step * size, (step + 1) * size)
        chosen = np.empty(size, np.intp)
        for epoch in np.unique(places // total):
            here = places // total == epoch
            order = generator(self._settings.seed, "pretraining-order", int(epoch)).permutation(total)
            chosen[here] = order[places[here] % total]
        return chosen

    def _captions(self, chosen: NDArray[np.intp], masks: torch.Tensor, rng: np.random.Generator) -> list[str]:
        """Word what is still seen after the augmentation: a finding may have left the picture."""
        cell = max(1, masks.shape[-1] // _CELLS)
        small = (functional.avg_pool2d(masks[:, None], cell)[:, 0] > 0.25).cpu().numpy()
        corpus = self._corpus
        return [
            write_caption(corpus.organs[i], corpus.findings[i] if mask.any() else None, mask, rng) + "."
            for i, mask in zip(chosen, small, strict=True)
        ]

    def _some_phrases(self, rng: np.random.Generator) -> tuple[list[str], int]:
        """Take phrases of the detector's own prompts, some of them with a view named as in a caption."""
        made: list[list[str]] = []
        for phrases, words in zip(self._phrases, (NORMAL_WORDS, ABNORMAL_WORDS), strict=True):
            some = [f"{_pick(rng, phrases)}." for _ in range(_PHRASES // 2)]
            views = tuple(view for views in VIEWS.values() for view in views)
            some += [f"{_pick(rng, words)} {_pick(rng, views)}." for _ in range(_PHRASES - len(some))]
            made.append(some)
        return made[0] + made[1], len(made[0])


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]
