"""What a training step is made of."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Images = NDArray[np.float32]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Batch:
    """Tokens of synthesised images and their labels.

    Attributes:
        tokens: One ``(B, h, w, C)`` tensor a tap.
        labels: ``(B, S, S)`` in [0, 1].
    """

    tokens: list[Tensor]
    labels: Tensor
