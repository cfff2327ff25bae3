"""Codec ``float32``: every bit of every value, as NumPy's own format."""

import numpy as np
from numpy.typing import NDArray

from mediclip.model.trainables import TensorSpec
from mediclip.protocol import decode_tensor, encode_tensor


class Float32:
    """Four bytes a value and a header."""

    name = "float32/1"
    is_exact = True

    def encode(self, spec: TensorSpec, value: NDArray[np.float32]) -> bytes:  # noqa: ARG002 - of the interface
        """Write a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        return encode_tensor(value)

    def decode(self, spec: TensorSpec, data: bytes) -> NDArray[np.float32]:
        """Read a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        return decode_tensor(spec, data)
