"""Codecs on the trainables of ViT-L-14: bytes against the budget of 0.6 MiB, one core's time against 1 s."""

from functools import partial

import numpy as np

from benchmarks.harness import Benchmark, Outcome, compare, rounded
from mediclip.config import load_recipe
from mediclip.exchange.codecs import CODEC_NAMES, CodecName, named_codec
from mediclip.exchange.parcel import pack_difference, unpack
from mediclip.model.trainables import BackboneShapes, Schema, Trainables, schema_for

BUDGET = 629_145
"""Bytes of 0.6 MiB."""

_COMPRESSED: tuple[CodecName, ...] = ("two-bit", "low-rank")


def vit_l_14(*, quick: bool = False) -> Schema:
    """Describe the trainables of ViT-L-14 with three taps, 2.49 million values; few with ``quick``."""
    part = 4 if quick else 1
    shapes = BackboneShapes(1024 // part, 768 // part, 768 // part)
    return schema_for(shapes, (12, 18, 24), load_recipe("default").prompts)


def drawn_update(schema: Schema, seed: int) -> Trainables:
    """Draw a difference as training gives it: half of it in a few directions, the rest noise."""
    rng = np.random.default_rng(seed)
    values = {}
    for spec in schema.tensors:
        rows, columns = int(np.prod(spec.shape[:-1])), spec.shape[-1]
        few = rng.standard_normal((rows, 4)) @ rng.standard_normal((4, columns)) / 2
        values[spec.name] = (1e-3 * (few + rng.standard_normal((rows, columns)))).astype(np.float32)
    return {spec.name: values[spec.name].reshape(spec.shape) for spec in schema.tensors}


def _size(*, quick: bool) -> Outcome:
    schema = vit_l_14(quick=quick)
    update = drawn_update(schema, 0)
    details, largest = {}, 0.0
    for name in CODEC_NAMES:
        codec = named_codec(name)
        sizes = {spec.name: len(codec.encode(spec, update[spec.name])) for spec in schema.tensors}
        details[name] = {
            "bytes": sum(sizes.values()),
            "bits_a_value": rounded(8 * sum(sizes.values()) / schema.size()),
        }
        if name in _COMPRESSED:
            largest = max(largest, sum(sizes.values()) / BUDGET)
    return Outcome(largest, {"values": schema.size(), "codecs": details})


def _time(*, quick: bool) -> Outcome:
    schema = vit_l_14(quick=quick)
    update = drawn_update(schema, 0)

    def both(name: CodecName) -> None:
        unpack(pack_difference(named_codec(name), schema, "0" * 64, update).parcel, schema)

    lossy = [name for name in CODEC_NAMES if name != "float32"]
    timings = compare({name: partial(both, name) for name in lossy}, repeats=1 if quick else 5)
    slowest = max(timing.cpu_s for timing in timings.values())
    return Outcome(slowest, {name: timing.as_dict() for name, timing in timings.items()})


BENCHMARKS = (
    Benchmark(
        "exchange_size",
        "bytes of a ViT-L-14 update in two-bit and low-rank, the larger, against 0.6 MiB",
        target=1.0,
        unit="of the budget",
        measure=_size,
        at_most=True,
        is_cheap=True,
    ),
    Benchmark(
        "exchange_time",
        "a ViT-L-14 update written and read by sender and receiver, the slowest codec, against 1 s",
        target=1.0,
        unit="seconds of processor time",
        measure=_time,
        at_most=True,
        is_cheap=True,
    ),
)
