"""Codec ``float16``: differences in half precision."""

import struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mediclip.exchange.codec import Layout, unreadable
from mediclip.model.trainables import TensorSpec

_HEAD: Final = struct.Struct("<h")
_TOP: Final = 15  # 2^15 is the largest power of two in half precision


class Float16:
    """Two bytes a value, all scaled by one power of two so that the largest is just below 2¹⁵."""

    name = "float16/1"
    is_exact = False

    def encode(self, spec: TensorSpec, value: NDArray[np.float32]) -> bytes:  # noqa: ARG002 - of the interface
        """Write a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        shift = _TOP - int(np.frexp(np.abs(value).max())[1])
        return _HEAD.pack(shift) + np.ldexp(value, shift).astype("<f2").tobytes()

    def decode(self, spec: TensorSpec, data: bytes) -> NDArray[np.float32]:
        """Read a tensor; see :class:`mediclip.exchange.codec.Codec`."""
        if len(data) != _HEAD.size + 2 * Layout.of(spec).size:
            raise unreadable(spec, self.name)
        (shift,) = _HEAD.unpack_from(data)
        values = np.frombuffer(data, "<f2", offset=_HEAD.size).astype(np.float32).reshape(spec.shape)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            scaled: NDArray[np.float32] = np.ldexp(values, -shift)
        return scaled
