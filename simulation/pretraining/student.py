"""The CLIP in training with the heads that only training needs, and its four losses.

1. open_clip's contrastive loss between images and captions.
2. A dense one: each patch token, projected as the class token is, against the mean text feature of normal and
   of abnormal phrases; where the mask covers the patch it should be nearer to the abnormal ones.
3. The same question to a linear head at the layers that a detector taps, so that these tokens can answer it.
4. Restoration: part of the patches is hidden and their pixels, normalised in each patch, are predicted
   (Xie et al., SimMIM, arXiv 2111.09886; the target is that of He et al., arXiv 2111.06377).
"""

import math
from dataclasses import dataclass

import torch
from open_clip.loss import ClipLoss
from open_clip.model import CLIP
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from mediclip.model.backbone import OPENAI_MEAN, OPENAI_STD
from simulation.pretraining.settings import PretrainSettings

_FIRST_SCALE = 10.0
_COVERED = 0.25
"""Share of a patch from which on it counts as abnormal."""


@dataclass(frozen=True)
class Batch:
    """What one step sees.

    Attributes:
        images: ``(B, S, S)`` float32 in [0, 1]; the first ``B - M`` have captions, the last M are masked.
        masks: ``(B, S, S)`` float32 in [0, 1], where they are abnormal.
        captions: ``(B - M, T)`` token numbers.
        phrases: ``(P, T)`` token numbers, first those of normal phrases.
        normal_phrases: How many of them are normal.
        hidden: ``(M, h·w)`` bool, the patches that are hidden.
    """

    images: Tensor
    masks: Tensor
    captions: Tensor
    phrases: Tensor
    normal_phrases: int
    hidden: Tensor


class Student(nn.Module):
    """A CLIP, its heads, and what they are trained for."""

    def __init__(self, settings: PretrainSettings) -> None:
        super().__init__()
        self.settings = settings
        self.clip = CLIP(**settings.model_cfg())
        visual = self.clip.visual
        assert isinstance(visual, VisionTransformer)  # noqa: S101 - by construction; for the type checker
        self.visual: VisionTransformer = visual
        width, depth = settings.tower.image_width, settings.tower.image_layers
        self.tap_layers = sorted({max(1, math.ceil(depth * part)) for part in (0.5, 0.75, 1.0)})
        self.tap_heads = nn.ModuleList(nn.Linear(width, 1) for _ in self.tap_layers)
        self.hidden_patch = nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.hidden_patch, std=0.02)
        self.restore = nn.Linear(width, settings.patch_size**2)
        self.dense_scale = nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))
        self.dense_offset = nn.Parameter(torch.tensor(-1.0))
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(OPENAI_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(OPENAI_STD).view(1, 3, 1, 1), persistent=False)
        self.contrast = ClipLoss()

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the four losses, each weighted as the settings say.

        Args:
            batch: What to learn from.

        Returns:
            Scalars by name; their sum is what a step lowers.
        """
        settings = self.settings
        masked = len(batch.hidden)
        plain = len(batch.images) - masked
        taps = self._encode(batch.images, batch.hidden)
        last = self.visual.ln_post(taps[-1][:plain])
        pooled, tokens = last[:, 0], last[:, 1:]
        texts = self.clip.encode_text(torch.cat([batch.captions, batch.phrases]))
        captions, phrases = texts[:plain], texts[plain:]
        images = functional.normalize(pooled @ self.visual.proj, dim=-1)
        found = {
            "contrastive": settings.contrastive
            * self.contrast(images, functional.normalize(captions, dim=-1), self.clip.logit_scale.exp())
        }

        covered = self._covered(batch.masks[:plain])
        columns = [
            group.mean(0)
            for group in phrases.split([batch.normal_phrases, len(phrases) - batch.normal_phrases])
        ]
        normal, abnormal = (functional.normalize(column, dim=0) for column in columns)
        local = functional.normalize(tokens @ self.visual.proj, dim=-1)
        margin = local @ (abnormal - normal)
        logits = margin * self.dense_scale.exp() + self.dense_offset
        # The whole image answers too, so that image and text agree on what normal is.
        overall = images @ (abnormal - normal) * self.dense_scale.exp()
        found["dense"] = settings.dense * (
            _balanced(logits, covered) + functional.binary_cross_entropy_with_logits(overall, covered.amax(1))
        )
        heads = [
            _balanced(head(tap[:plain, 1:]).squeeze(-1), covered)
            for head, tap in zip(self.tap_heads, taps, strict=True)
        ]
        found["taps"] = settings.taps * torch.stack(heads).mean()
        if masked:
            target = self._pixels(batch.images[plain:])
            restored = self.restore(taps[-1][plain:, 1:])
            found["restoration"] = settings.restoration * (restored - target)[batch.hidden].abs().mean()
        return found

    def _encode(self, images: Tensor, hidden: Tensor) -> list[Tensor]:
        """Return the tokens ``(B, 1 + h·w, C)`` after each tapped layer, part of the last images hidden."""
        visual = self.visual
        patches = visual.conv1((images[:, None] - self.mean) / self.std).flatten(2).transpose(1, 2)
        if len(hidden):
            plain = len(patches) - len(hidden)
            covered = torch.where(hidden[..., None], self.hidden_patch.to(patches.dtype), patches[plain:])
            patches = torch.cat([patches[:plain], covered])
        first = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = visual.ln_pre(torch.cat([first, patches], dim=1) + self._positions(patches.shape[1]))
        taps = []
        for number, block in enumerate(visual.transformer.resblocks, start=1):
            tokens = block(tokens)
            if number in self.tap_layers:
                taps.append(tokens)
        return taps

    def _positions(self, patches: int) -> Tensor:
        """Return the positional embedding ``(1 + patches, C)``; that of a larger patch is its parts' mean."""
        positions: Tensor = self.visual.positional_embedding
        side = round((len(positions) - 1) ** 0.5)
        times = side // round(patches**0.5)
        if times == 1:
            return positions
        grid = positions[1:].T.reshape(1, -1, side, side)
        return torch.cat([positions[:1], functional.avg_pool2d(grid, times).flatten(2)[0].T])

    def _covered(self, masks: Tensor) -> Tensor:
        """Say which patches are abnormal: ``(B, h·w)`` of 0 and 1."""
        share = functional.avg_pool2d(masks[:, None], self.settings.patch_size).flatten(1)
        return (share > _COVERED).float()

    def _pixels(self, images: Tensor) -> Tensor:
        """Return each patch's pixels with mean 0 and spread 1: ``(M, h·w, p²)``."""
        size = self.settings.patch_size
        patches = functional.unfold(images[:, None], size, stride=size).transpose(1, 2)
        centred = patches - patches.mean(-1, keepdim=True)
        return centred / (patches.var(-1, keepdim=True) + 1e-4).sqrt()


def _balanced(logits: Tensor, covered: Tensor) -> Tensor:
    """Binary cross-entropy in which abnormal patches, which are few, weigh as much as a fifth of all."""
    share = covered.mean().clamp(0.005, 1)
    weight = torch.where(covered > 0, 0.2 / share, torch.ones_like(share))
    return (functional.binary_cross_entropy_with_logits(logits, covered, reduction="none") * weight).mean()
