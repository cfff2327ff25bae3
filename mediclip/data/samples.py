"""What a data set is: samples in a fixed order, in two splits.

A sample is named by its position (``"test image 12 of busi"``, counted from 0), never by its path: paths may
hold a patient's name. For the same reason the ``repr`` of a sample leaves its paths out.

One rule says when pixel metrics exist: **a set has masks when at least one abnormal sample names one**, and
then every abnormal sample must have one. See :func:`has_masks`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from mediclip.data.policies import Choices

NORMAL: Final = 0
ABNORMAL: Final = 1
LABEL_NAMES: Final = ("normal", "abnormal")
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Sample:
    """One image, its label and its mask.

    Attributes:
        index: Position in its split, from 0.
        image: The image's file.
        label: 0 normal, 1 abnormal.
        label_name: The label as the list spells it.
        set_name: Name of the data set.
        mask: The mask's file, or None. Always None for a normal sample: its mask is empty.
        split: Which split ``index`` counts in.
        group: Which images belong together because they show one patient: a keyed hash, never an identifier.
            None where nothing is known; such an image stands for itself.
        frame: Which frame of a file with several, from 0; None for the one that stands for the file: the
            first, or the middle slice of a volume.
    """

    index: int
    image: Path = field(repr=False)
    label: int
    label_name: str
    set_name: str
    mask: Path | None = field(default=None, repr=False)
    split: Split = "test"
    group: str | None = field(default=None, repr=False)
    frame: int | None = None

    @property
    def title(self) -> str:
        """Name the sample in a message, without its path: ``"test image 12 of busi"``."""
        return f"{self.split} image {self.index} of {self.set_name}"


@dataclass(frozen=True)
class Dataset:
    """A named set: a pool to draw support images from, and the images to be judged on.

    Attributes:
        name: What results call the set.
        train: The pool, in a fixed order.
        test: The test images, in a fixed order, disjoint from ``train``. Empty when the set holds nothing
            to be judged on.
        left_out: How many files of the folder are not in it, for each reason; empty where none is left out.
        policies: Policies that the folder asks for in place of the usual ones, by modality.
    """

    name: str
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    left_out: Mapping[str, int] = field(default_factory=dict, compare=False)
    policies: Choices = field(default_factory=dict, compare=False)


def has_masks(samples: Iterable[Sample]) -> bool:
    """Tell whether pixel metrics are defined on these samples.

    Args:
        samples: Usually a data set's test split.

    Returns:
        True when at least one abnormal sample names a mask. Each abnormal sample must then have one, and
        :meth:`mediclip.data.preprocess.Preprocess.load_mask` raises ``MaskError`` for one that has not.
        False means that image metrics alone can be computed, which is no error.
    """
    return any(sample.mask is not None for sample in samples if sample.label == ABNORMAL)
