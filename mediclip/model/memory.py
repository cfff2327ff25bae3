"""A site's own memory of normal tokens, and the scores that it gives together with the text map.

It is made of the site's scans. It is therefore private: it lies in the site's model file, marked as such, it
is no part of the trainables, and ``mediclip export --shareable`` leaves it out.

Two kinds of evidence are told apart. *Focal*: a few tokens have no like among the remembered ones at about
their place, and the text map agrees; the mean of the highest share of the joint map says how much. *Diffuse*:
all tokens of an early tap are a little further from their likes than usual, as in a pneumonia. Either is
measured in standard deviations of what the support images show when each is left out of the memory in turn,
and the two are joined by a soft maximum, ln(e^focal + e^diffuse), since a disease is seldom both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from mediclip.config import MemorySettings, Recipe
from mediclip.data.moved import moved_copies
from mediclip.errors import CheckpointError, SettingsError
from mediclip.model.anomaly_map import image_score
from mediclip.model.nearest import nearest_anywhere, nearest_around, pooled_features
from mediclip.rng import Name, generator

_BATCH: Final = 16
_LEAST_SPREAD: Final = 1e-4
# A deviation of so many spreads is drawn, and scored, half way between 0.5 and 1.
_HALF_WAY: Final = 4.0
_NORMS: Final = ("distance", "text", "focal", "diffuse")


@dataclass(frozen=True)
class Norm:
    """Mean and standard deviation of a quantity on normal images; the second is above 0."""

    mean: float
    spread: float

    @classmethod
    def of(cls, values: Tensor) -> "Norm":
        """Take both from at least two values."""
        wide = values.double().flatten()
        return cls(float(wide.mean()), max(float(wide.std()), _LEAST_SPREAD))

    def standardise(self, values: Tensor) -> Tensor:
        """Count the spreads above the mean."""
        return (values - self.mean) / self.spread


@dataclass(frozen=True)
class Judgement:
    """What a detector says about B images.

    Attributes:
        maps: ``(B, S, S)`` in [0, 1], higher for more abnormal.
        scores: ``(B,)`` in [0, 1].
    """

    maps: Tensor
    scores: Tensor


class Tower(Protocol):
    """What building a memory needs of a network."""

    @property
    def recipe(self) -> Recipe:
        """How it is made and used."""
        ...

    def tokens(self, images: Tensor) -> list[Tensor]:
        """Encode ``(B, S, S)`` in [0, 1] into one ``(B, h, w, C)`` tensor a tap."""
        ...

    def contrast(self, tokens: Sequence[Tensor]) -> Tensor:
        """Give the cosine with *abnormal* less that with *normal*, ``(B, h, w)``."""
        ...


@dataclass(frozen=True)
class NormalityMemory:
    """The normal tokens that a site remembers, and what is usual among them.

    Once it has judged, it holds a float32 copy of both parts too, of twice their size.

    Attributes:
        settings: How it was built and is used.
        top_share: Share of the joint map's values that make the focal evidence.
        focal: ``(K, h, w, L·C)`` float16, of length 1, one for each image and place.
        diffuse: ``(M, C)`` float16, of length 1, tokens of the first tap; M may be 0.
        norms: Of ``distance``, ``text``, ``focal`` and ``diffuse``.
    """

    settings: MemorySettings
    top_share: float
    focal: Tensor
    diffuse: Tensor
    norms: Mapping[str, Norm]

    def judge(self, tokens: Sequence[Tensor], margin: Tensor, size: int) -> Judgement:
        """Score images by memory and text together.

        Args:
            tokens: One ``(B, h, w, C)`` tensor a tap.
            margin: ``(B, h, w)`` of the text map, see :meth:`Tower.contrast`.
            size: Side S of the maps.

        Returns:
            Maps and scores: 0.5 for what is usual, rising with every spread above it, never reaching 1.
        """
        joint, scores = self.weigh(self.compare(tokens), margin)
        full = nn.functional.interpolate(
            _smooth(joint, self.settings.smoothing).unsqueeze(1),
            size=(size, size),
            mode="bilinear",
            align_corners=True,
        )
        return Judgement(_bounded(full[:, 0]), scores)

    def compare(self, tokens: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Look for the likes of tokens: the part of a judgement in which no trained tensor takes part.

        Args:
            tokens: One ``(B, h, w, C)`` tensor a tap.

        Returns:
            Distances ``(B, h, w)``, and the mean distance of the first tap's tokens ``(B,)`` or None where
            the memory has no diffuse part. Memories of the same images give the same.
        """
        features = pooled_features(tokens, self.settings.neighbourhood)
        distance = nearest_around(features, self._focal_by_place, self.settings.radius)
        if not len(self.diffuse):
            return distance, None
        return distance, nearest_anywhere(_directions(tokens[0]), self._diffuse_exact).mean((1, 2))

    def weigh(self, compared: tuple[Tensor, Tensor | None], margin: Tensor) -> tuple[Tensor, Tensor]:
        """Join what :meth:`compare` found with a text map.

        Args:
            compared: What it gave.
            margin: ``(B, h, w)`` of the text map.

        Returns:
            The joint map ``(B, h, w)`` in spreads, and scores ``(B,)`` in (0, 1).
        """
        distance, spread_out = compared
        joint = self._joint(distance, margin)
        evidence = self.norms["focal"].standardise(image_score(joint, self.top_share))
        if spread_out is not None:
            evidence = torch.logaddexp(evidence, self.norms["diffuse"].standardise(spread_out))
        return joint, _bounded(evidence)

    def arrays(self) -> dict[str, NDArray[np.float16]]:
        """Give what a model file keeps, by name."""
        return {"focal": self.focal.cpu().numpy(), "diffuse": self.diffuse.cpu().numpy()}

    def facts(self) -> dict[str, Any]:
        """Give the plain values that belong to :meth:`arrays`."""
        return {
            "settings": self.settings.model_dump(mode="json"),
            "top_share": self.top_share,
            "norms": {name: asdict(norm) for name, norm in self.norms.items()},
        }

    def to(self, device: torch.device | str) -> "NormalityMemory":
        """Give the same memory on a device."""
        focal, diffuse = self.focal.to(device), self.diffuse.to(device)
        return NormalityMemory(self.settings, self.top_share, focal, diffuse, self.norms)

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> "NormalityMemory":
        """Make a memory of what :meth:`arrays` and :meth:`facts` gave.

        Raises:
            CheckpointError: If it is not of that form.
        """
        try:
            norms = {name: Norm(**facts["norms"][name]) for name in _NORMS}
            settings = MemorySettings.parse(facts["settings"], source="the memory of the model file")
            focal, diffuse = (torch.from_numpy(np.array(arrays[n], np.float16)) for n in ("focal", "diffuse"))
            memory = cls(settings, float(facts["top_share"]), focal, diffuse, norms)
            fits = focal.ndim == 4 and diffuse.ndim == 2 and all(norm.spread > 0 for norm in norms.values())
        except (KeyError, TypeError, ValueError) as error:
            raise _unusable() from error
        if not fits:
            raise _unusable()
        return memory

    @cached_property
    def _focal_by_place(self) -> Tensor:
        """``(K, h, w, L·C)`` float32 lying in memory as ``(h, w, K, L·C)``: each image would redo it."""
        return self.focal.permute(1, 2, 0, 3).float().contiguous().permute(2, 0, 1, 3)

    @cached_property
    def _diffuse_exact(self) -> Tensor:
        return self.diffuse.float()

    def _joint(self, distance: Tensor, margin: Tensor) -> Tensor:
        joint = self.norms["distance"].standardise(distance)
        if self.settings.text_weight > 0:
            joint = joint + self.settings.text_weight * self.norms["text"].standardise(margin)
        return joint


@torch.no_grad()
def build_memory(
    network: Tower, support: NDArray[np.float32], *, seed: int, stream: tuple[Name, ...] = ()
) -> NormalityMemory:
    """Remember a site's normal images, and what is usual among them for a trained network.

    The network has seen the support images with synthetic anomalies and finds them cleaner than others; the
    text map is therefore standardised on moved copies of them. The distances need no such care: each image
    is left out of the memory when it is measured.

    Args:
        network: The trained network; a memory is void once it is trained further.
        support: ``(K, S, S)`` normal images in [0, 1], K at least 2; those beyond the recipe's limit are
            left out.
        seed: The run's seed.
        stream: Names that set this memory's randomness apart, such as the site's.

    Returns:
        The memory, K·h·w·L·C·2 bytes for the focal part and at most M·C·2 for the diffuse one.

    Raises:
        SettingsError: If the recipe has no memory or there are fewer than 2 images.
    """
    settings = network.recipe.memory
    images = support[: settings.images] if settings is not None else support
    if settings is None or len(images) < 2:
        message = (
            "A memory must be asked for by the recipe and have at least 2 support images. "
            f"There are {len(support)} images, and [memory] is {'absent' if settings is None else 'there'}; "
            "raise --shots, or take a recipe without [memory]."
        )
        raise SettingsError(message)
    rng = generator(seed, *stream, "memory")
    copies = moved_copies(images, settings.views, rng)
    features, early, margins = _encode(network, images, settings.neighbourhood)
    moved = _encode(network, copies, settings.neighbourhood)[2] if len(copies) else margins

    focal = features.half()
    distance = nearest_around(features, focal.float(), settings.radius, leave_own_out=True)
    chosen = np.sort(rng.permutation(early[..., 0].numel())[: settings.diffuse_tokens])
    places = torch.from_numpy(chosen).to(early.device)
    diffuse = early.flatten(0, 2)[places].half()
    norms = {"distance": Norm.of(distance), "text": Norm.of(moved)}
    unfinished = NormalityMemory(settings, network.recipe.top_share, focal, diffuse, norms)
    joint = unfinished._joint(distance, margins)  # noqa: SLF001 - of this module
    norms["focal"] = Norm.of(image_score(joint, network.recipe.top_share))
    if len(diffuse):
        owners = places // early[0, ..., 0].numel()
        norms["diffuse"] = Norm.of(nearest_anywhere(early, diffuse.float(), owners=owners).mean((1, 2)))
    else:
        norms["diffuse"] = Norm(0.0, 1.0)
    return NormalityMemory(settings, network.recipe.top_share, focal, diffuse, norms)


def _encode(network: Tower, images: NDArray[np.float32], neighbourhood: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give pooled features, directions of the first tap and text margins of K images."""
    features, early, margins = [], [], []
    for start in range(0, len(images), _BATCH):
        tokens = network.tokens(torch.from_numpy(images[start : start + _BATCH]))
        features.append(pooled_features(tokens, neighbourhood))
        early.append(_directions(tokens[0]))
        margins.append(network.contrast(tokens))
    return torch.cat(features), torch.cat(early), torch.cat(margins)


def _smooth(grid: Tensor, sigma: float) -> Tensor:
    """Blur ``(B, h, w)`` with a Gaussian of ``sigma`` tokens; what is beyond an edge is as the edge."""
    if sigma == 0:
        return grid
    rows, columns = (
        torch.from_numpy(ndimage.gaussian_filter1d(np.eye(length), sigma, axis=0, mode="nearest")).to(grid)
        for length in grid.shape[1:]
    )
    return rows @ grid @ columns.T


def _directions(tokens: Tensor) -> Tensor:
    return nn.functional.normalize(tokens, dim=-1)


def _bounded(evidence: Tensor) -> Tensor:
    """Squeeze spreads into (0, 1) without ever making two of them equal, as a logistic function would."""
    return 0.5 + 0.5 * evidence / (_HALF_WAY + evidence.abs())


def _unusable() -> CheckpointError:
    return CheckpointError(
        "The private memory of a model file must be as this version writes it. It is not; train again, or "
        "remember the site's images again."
    )
