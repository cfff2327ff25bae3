"""The codecs by name."""

from typing import Final, Literal, get_args

from mediclip.errors import SchemaError
from mediclip.exchange.codec import Codec
from mediclip.exchange.float16 import Float16
from mediclip.exchange.float32 import Float32
from mediclip.exchange.int8 import Int8
from mediclip.exchange.low_rank import LowRank
from mediclip.exchange.two_bit import TwoBit

CodecName = Literal["float32", "float16", "int8", "two-bit", "low-rank"]
CODEC_NAMES: Final[tuple[CodecName, ...]] = get_args(CodecName)
FLOAT32: Final[Codec] = Float32()
_CODECS: Final[dict[str, Codec]] = {c.name: c for c in (FLOAT32, Float16(), Int8(), TwoBit(), LowRank())}


def named_codec(name: CodecName) -> Codec:
    """Give this version's codec of a name."""
    return next(codec for codec in _CODECS.values() if short_name(codec.name) == name)


def agreed_codec(name: str) -> Codec:
    """Give the codec that a message names.

    Args:
        name: Name with version, such as ``two-bit/1``.

    Raises:
        SchemaError: If this version has none of that name and version.
    """
    codec = _CODECS.get(name)
    if codec is None:
        message = (
            f"A parcel must be written by one of the codecs {', '.join(_CODECS)}. Its codec is another; run "
            "the same version on both sides."
        )
        raise SchemaError(message)
    return codec


def short_name(name: str) -> str:
    """Give a codec's name without its version."""
    return name.partition("/")[0]
