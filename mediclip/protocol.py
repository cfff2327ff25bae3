"""What server and site say to each other beside the tensors: record names, keys, metrics, error codes.

Both sides import this page and nothing of each other. A key, metric or code that is not written here does not
travel: the site does not send it and the server refuses it.
"""

import io
import math
import re
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mediclip.errors import SchemaError
from mediclip.model.trainables import TensorSpec

ARRAYS: Final = "arrays"
CONFIG: Final = "config"
METRICS: Final = "metrics"

ROLL_CALL: Final = "roll_call"
"""Action of the question that a server asks a node once: who are you, and do we agree?"""

ROLL_CALL_KEYS: Final = frozenset({"recipe", "schema-digest", "codec"})
PRESENT_KEYS: Final = frozenset({"site", "schema-digest", "source-digest", "codec", "error"})
PARCEL_KEYS: Final = frozenset({"codec", "schema-digest", "base"})
"""What stands beside tensors, in both directions; the tensors are in the record of arrays, as one packet."""

TRAIN_KEYS: Final = PARCEL_KEYS | {
    "server-round",
    "seed",
    "recipe",
    "local-steps",
    "proximal-mu",
    "answer-codec",
    "differences-follow",
}

FINAL_KEYS: Final = PARCEL_KEYS | {"server-round", "seed", "recipe", "local-steps", "origin", "safeguard"}
"""What stands beside the tensors of the model that a run ends with."""

DESCRIPTOR: Final = "descriptor"
"""Action of the question for a site's descriptor, name of the record's key, and reason of a refusal."""

DESCRIPTOR_KEYS: Final = frozenset({"recipe"})

NUM_EXAMPLES: Final = "num-examples"
METRIC_NAMES: Final = ("train_loss", "val_loss", "val_pixel_auroc")
"""Every metric that a site may be allowed to send with an update, beside the number of its support images."""

FINAL_METRIC_NAMES: Final = ("kept_delivered", "kept_score")
"""Those of the end of a run: whether the site keeps the delivered model, and how well what it keeps told
synthetic anomalies from its normal images. Unlike the others no site sends them unless its policy names
them."""

# Magic, version 1.0 and header length, then the header as np.save writes it: nothing is evaluated.
_HEADER: Final = re.compile(
    rb"\x93NUMPY\x01\x00(?s:..)"
    rb"\{'descr': '<f4', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[0-9, ]{0,200})\), \} *\n"
)

_FAILED: Final = "failed"
SENTENCES: Final = {
    _FAILED: "The site could not answer; its own log says why.",
    "settings": "The site's settings do not allow or do not fit what was asked.",
    "data": "The site cannot use its images.",
    "manifest": "The site's data folder has no layout that can be read.",
    "image": "One of the site's files is no usable image.",
    "mask": "One of the site's masks does not fit its image.",
    "support-set": "The site has fewer normal images than shots.",
    "backbone": "The site cannot load its backbone, or it is not the expected one.",
    "taps": "The site's tapped layers lie outside its backbone.",
    "prompts": "The phrases or the context do not fit the site's text tower.",
    "schema": "The site's model and the server's differ in their tensors.",
    "base": "The site does not hold the model that the server's differences start from.",
    "checkpoint": "One of the site's files is damaged.",
    "federation": "The site takes no part in what was asked.",
    "service": "The service that owns the site's scans is not running.",
    "policy-federation": "The site's policy names another federation.",
    "policy-source": "The site's policy names other application code.",
    "policy-rounds": "The site's policy ends before this round.",
    "policy-images": "The site has fewer images than its policy asks for.",
    "policy-norm": "The site's own update is larger than its policy lets leave.",
    "policy-codec": "The site's policy lets no update leave in the codec that was asked for.",
    "not-dicom": "One of the site's files is no DICOM file.",
    "truncated": "One of the site's files is truncated.",
    "no-pixels": "One of the site's files holds no pixels.",
    "invalid-header": "One of the site's files has a header that cannot be used.",
    "transfer-syntax": "One of the site's files is coded in a way that is not read.",
    "decoder-missing": "The site lacks the decoder of one of its files.",
    "decode-failed": "One of the site's files cannot be decoded.",
    "encrypted": "One of the site's files is encrypted.",
    "too-large": "One of the site's files is larger than the caps allow.",
    "degenerate": "One of the site's images is constant or empty.",
    "policy-budget": "The site's privacy budget does not last for this round.",
    "policy-steps": "The site's policy asks for more local steps in a round.",
    "policy-model": "The model that was sent is larger than the site's policy takes.",
    "policy-descriptor": "The site's policy lets no descriptor of its scans leave.",
}
"""The only texts that leave a site in place of an exception, by the code of the error."""

_FIRST_CODE: Final = 100
ERROR_CODES: Final = {word: _FIRST_CODE + i for i, word in enumerate(SENTENCES)}
_WORDS: Final = {code: word for word, code in ERROR_CODES.items()}


def error_reply(word: str) -> tuple[int, str]:
    """Return number and sentence for the code of an error; an unknown one counts as ``"failed"``."""
    known = word if word in SENTENCES else _FAILED
    return ERROR_CODES[known], SENTENCES[known]


def error_word(code: int) -> str:
    """Return the word for a number that came over the network; whatever is not ours is ``"failed"``."""
    return _WORDS.get(code, _FAILED)


def encode_tensor(value: NDArray[np.float32]) -> bytes:
    """Write a tensor as NumPy's own format, without pickle."""
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def decode_tensor(spec: TensorSpec, data: bytes) -> NDArray[np.float32]:
    """Read a tensor that came over the network, reserving no more memory than was sent.

    Args:
        spec: Name and shape that it must have.
        data: NumPy's own format.

    Returns:
        float32 of that shape, read-only, values unchecked.

    Raises:
        SchemaError: If it is no such array, or its shape, type or length is another.
    """
    header = _HEADER.match(data)
    if header is None:
        message = f"The tensor '{spec.name}' must be a float32 NumPy array. It cannot be read; send it again."
        raise SchemaError(message)
    shape = tuple(int(n) for n in header["shape"].replace(b",", b" ").split())
    body = memoryview(data)[header.end() :]
    if shape != spec.shape or len(body) != 4 * math.prod(spec.shape):
        message = (
            f"The tensor '{spec.name}' must have shape {spec.shape}. Got {shape} in {len(body)} bytes; "
            "use the same recipe, taps and backbone."
        )
        raise SchemaError(message)
    order: Literal["F", "C"] = "F" if header["fortran"] == b"True" else "C"
    return np.frombuffer(body, np.dtype("<f4")).reshape(shape, order=order)
