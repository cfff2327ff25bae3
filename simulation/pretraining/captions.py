"""Captions in several wordings: what is seen, whether it is healthy, what is wrong, how large and where."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

TEXTURE = "texture"
FOREIGN = "foreign"
"""What a change that is no finding of the organ is called: a foreign patch, or a synthesised anomaly."""

VIEWS: Mapping[str, Sequence[str]] = MappingProxyType({
    "brain": ("axial brain MRI", "brain MR image", "MRI of the head", "axial slice of the brain"),
    "chest": ("chest radiograph", "frontal chest X-ray", "PA chest film", "X-ray of the lungs"),
    "breast": ("breast ultrasound", "ultrasound image of the breast", "breast sonogram"),
    "abdomen": ("abdominal CT", "axial CT of the abdomen", "CT slice of the upper abdomen"),
    "retina": ("fundus photograph", "retinal photograph", "image of the retina"),
    TEXTURE: ("texture", "grey texture", "surface with a pattern"),
})  # fmt: skip
_FINDINGS: Mapping[tuple[str, str], Sequence[str]] = MappingProxyType({
    ("brain", "mass"): ("mass", "tumour", "tumor", "ring-enhancing lesion"),
    ("brain", "spots"): ("bright spot", "focal lesion", "hyperintense lesion"),
    ("brain", "haemorrhage"): ("haemorrhage", "hemorrhage", "bleed", "haematoma"),
    ("chest", "nodule"): ("nodule", "pulmonary nodule", "round opacity", "coin lesion"),
    ("chest", "consolidation"): ("consolidation", "airspace opacity", "infiltrate", "pneumonia"),
    ("chest", "effusion"): ("pleural effusion", "effusion", "pleural fluid"),
    ("breast", "mass"): ("mass", "irregular hypoechoic mass", "tumour", "tumor"),
    ("breast", "cyst"): ("cyst", "anechoic cyst", "simple cyst"),
    ("abdomen", "mass"): ("liver mass", "hypodense liver lesion", "liver metastasis", "tumour"),
    ("abdomen", "cyst"): ("cyst", "fluid-filled cyst", "simple cyst"),
    ("abdomen", "calcification"): ("calcification", "stone", "dense calcification"),
    ("abdomen", "fluid"): ("free fluid", "ascites", "fluid collection"),
    ("retina", "haemorrhage"): ("haemorrhage", "hemorrhage", "dark blot", "bleed"),
    ("retina", "exudates"): ("exudate", "hard exudate", "bright fleck"),
    ("retina", "scar"): ("scar", "pale scar", "chorioretinal lesion"),
})  # fmt: skip
_FOREIGN_WORDS = ("abnormal area", "defect", "irregularity", "foreign patch", "disturbed region")
NORMAL_WORDS = ("normal", "healthy", "unremarkable", "clear", "negative")
ABNORMAL_WORDS = ("abnormal", "pathological", "diseased", "positive")
_HEALTHY = (
    "{word} {view}",
    "{view}, normal findings",
    "{view} with no findings",
    "{view}, no evidence of disease",
    "{view} without a lesion",
    "{word} {view} without abnormality",
)
_ILL = (
    "{view} with a {size} {finding} {place}",
    "{view} with a {finding}",
    "{view} showing a {finding} {place}",
    "{word} {view}",
    "{word} {view} with a {finding}",
    "{size} {finding} {place} of the {view}",
    "{view}, evidence of disease",
    "{view} with a lesion {place}",
    "{view}, abnormal finding {place}",
)
_SMALL, _LARGE = 0.006, 0.03  # share of the image that the finding covers


def write_caption(organ: str, finding: str | None, mask: NDArray[np.bool_], rng: np.random.Generator) -> str:
    """Word what an image shows.

    Args:
        organ: An organ of the phantoms, or ``"texture"``.
        finding: Name of the finding, ``"foreign"``, or None for a healthy image.
        mask: ``(S, S)`` at any resolution, where the finding is; size and place are read from it.
        rng: Chooses the words.

    Returns:
        A caption without a full stop, such as "axial brain MRI with a small bright spot in the upper left".
    """
    view = _one_of(rng, VIEWS[organ])
    if finding is None:
        return _one_of(rng, _HEALTHY).format(word=_one_of(rng, NORMAL_WORDS), view=view)
    names = _FINDINGS.get((organ, finding), _FOREIGN_WORDS)
    caption = _one_of(rng, _ILL).format(
        word=_one_of(rng, ABNORMAL_WORDS),
        view=view,
        finding=_one_of(rng, names),
        size=_size(mask),
        place=_place(mask),
    )
    return re.sub(r"\ba (?=[aeiou])", "an ", caption)


def _one_of(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _size(mask: NDArray[np.bool_]) -> str:
    share = mask.mean()
    return "small" if share < _SMALL else "large" if share > _LARGE else "medium-sized"


def _place(mask: NDArray[np.bool_]) -> str:
    """Say where the middle of the mask is, as the image is seen."""
    rows, columns = np.nonzero(mask)
    down, right = (rows.mean() + 0.5) / mask.shape[0], (columns.mean() + 0.5) / mask.shape[1]
    height = "upper" if down < 0.42 else "lower" if down > 0.58 else ""
    side = "left" if right < 0.45 else "right" if right > 0.55 else ""
    if height and side:
        return f"in the {height} {side}"
    return f"in the {height} part" if height else f"on the {side}" if side else "in the middle"
