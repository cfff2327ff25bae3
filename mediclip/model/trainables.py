"""The exact list of tensors that may leave a site, and nothing else.

Whatever is not described by :func:`shared_schema` stays where it is: scans, tokens, masks, the backbone, and
the groups of trained tensors that a recipe calls private. The module needs NumPy alone, so that a server
without torch can check what it is sent.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mediclip.config import CLASSES, PrivateGroup, PromptSettings
from mediclip.errors import SchemaError, SettingsError
from mediclip.rng import generator

Trainables = dict[str, NDArray[np.float32]]
CONTEXT_STD = 0.02
_ADAPTER = "adapter."


@dataclass(frozen=True)
class TensorSpec:
    """One tensor: its name and shape. The type is always float32."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class BackboneShapes:
    """What the trainables' shapes depend on.

    Attributes:
        width: Width C of the image tower.
        embed_dim: Width D of the joint embedding.
        text_width: Width W of the text tower.
    """

    width: int
    embed_dim: int
    text_width: int


@dataclass(frozen=True)
class Schema:
    """The tensors that travel, in their fixed order."""

    tensors: tuple[TensorSpec, ...]

    def digest(self) -> str:
        """Return the SHA-256 of names, shapes and types, as hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def size(self) -> int:
        """Count the values in all tensors."""
        return sum(int(np.prod(t.shape)) for t in self.tensors)

    def to_json(self) -> str:
        """Write the schema as one line of JSON."""
        rows = [{"name": t.name, "shape": list(t.shape), "dtype": "float32"} for t in self.tensors]
        return json.dumps(rows, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Schema":
        """Read what :meth:`to_json` wrote.

        Raises:
            SchemaError: If the text is no list of different names, each with a shape of numbers of at least
                1 and the type float32.
        """
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError):
            rows = None
        if not isinstance(rows, list) or not rows or not all(map(_is_tensor, rows)):
            message = (
                "A schema must be a JSON list of name, shape and dtype float32, with at least one tensor. "
                "It is not; write it again."
            )
            raise SchemaError(message)
        if len({row["name"] for row in rows}) != len(rows):
            message = "Each tensor of a schema must have a name of its own. One stands twice; write it again."
            raise SchemaError(message)
        return cls(tuple(TensorSpec(row["name"], tuple(row["shape"])) for row in rows))


def _is_tensor(row: Any) -> bool:  # noqa: ANN401 - whatever JSON can hold
    """Say whether a value read from JSON describes one tensor."""
    if not isinstance(row, dict) or set(row) != {"name", "shape", "dtype"}:
        return False
    name, shape = row["name"], row["shape"]
    sizes_are_good = isinstance(shape, list) and all(type(n) is int and n >= 1 for n in shape)
    return isinstance(name, str) and sizes_are_good and row["dtype"] == "float32"


def schema_for(
    shapes: BackboneShapes, taps: tuple[int, ...], prompts: PromptSettings, *, adapter_rank: int | None = None
) -> Schema:
    """Describe the trainables of one model.

    Args:
        shapes: Widths of the backbone.
        taps: Tapped layers, 1-based, rising.
        prompts: Phrases, context and positions.
        adapter_rank: Rank r of the adapters' trained change; None trains them as a whole.

    Returns:
        For each tap ``adapter.<tap>.weight`` ``(D, C)`` and ``adapter.<tap>.bias`` ``(D,)``; with a rank r
        ``adapter.<tap>.down`` ``(r, C)`` and ``adapter.<tap>.up`` ``(D, r)``, and none with rank 0. For each
        class and position ``prompt.<class>.<position>``, ``(phrases, n_ctx, W)`` when class-specific and
        ``(n_ctx, W)`` when shared.
    """
    tensors: list[TensorSpec] = []
    for tap in taps:
        parts: dict[str, tuple[int, ...]] = {
            "weight": (shapes.embed_dim, shapes.width),
            "bias": (shapes.embed_dim,),
        }
        if adapter_rank is not None:
            parts = {"down": (adapter_rank, shapes.width), "up": (shapes.embed_dim, adapter_rank)}
        if adapter_rank != 0:
            tensors.extend(TensorSpec(f"adapter.{tap}.{part}", shape) for part, shape in parts.items())
    for name in CLASSES:
        shared = (prompts.n_ctx, shapes.text_width)
        shape = (len(prompts.phrases(name)), *shared) if prompts.class_specific else shared
        tensors.extend(TensorSpec(f"prompt.{name}.{p}", shape) for p in prompts.positions)
    return Schema(tuple(tensors))


def shared_schema(schema: Schema, private: Collection[PrivateGroup]) -> Schema:
    """Take out what each site keeps for itself.

    Args:
        schema: All trained tensors of a model.
        private: Groups that stay: ``adapters`` of all taps or the ``last_adapter`` alone, ``prompts`` of both
            classes, ``normal_prompts`` or ``abnormal_prompts``.

    Returns:
        The tensors that travel, in the schema's order; the same schema where nothing is private.

    Raises:
        SettingsError: If nothing would travel.
    """
    taps = [int(t.name.split(".")[1]) for t in schema.tensors if t.name.startswith(_ADAPTER)]
    prefixes: dict[PrivateGroup, str] = {
        "adapters": _ADAPTER,
        "last_adapter": f"{_ADAPTER}{max(taps, default=0)}.",
        "prompts": "prompt.",
        **{_prompts_of(name): f"prompt.{name}." for name in CLASSES},
    }
    kept = tuple(prefixes[group] for group in private)
    shared = tuple(t for t in schema.tensors if not t.name.startswith(kept))
    if not shared:
        message = (
            "A federation must share at least one trained tensor. All are private, "
            f"{', '.join(private)}; take a group out of 'private' in the recipe."
        )
        raise SettingsError(message)
    return Schema(shared)


def _prompts_of(name: str) -> PrivateGroup:
    return "normal_prompts" if name == "normal" else "abnormal_prompts"


def initial_trainables(schema: Schema, seed: int) -> Trainables:
    """Draw start values that depend on the schema and the seed alone.

    Args:
        schema: What to draw.
        seed: The run's seed.

    Returns:
        Adapters uniform in ±1/√C, as a freshly made 1×1 convolution has them, and contexts N(0, 0.02). Of a
        low rank, ``down`` is uniform in ±1/√C and ``up`` zero, so that nothing is changed at first. Every
        tensor has its own stream.
    """
    fan_in = {
        t.name.removesuffix(".weight"): t.shape[1] for t in schema.tensors if t.name.endswith(".weight")
    }
    values: Trainables = {}
    for spec in schema.tensors:
        rng = generator(seed, "initial", spec.name)
        prefix = spec.name.rsplit(".", 1)[0]
        if spec.name.startswith(_ADAPTER) and spec.name.endswith(".up"):
            drawn = np.zeros(spec.shape)
        elif spec.name.startswith(_ADAPTER) and spec.name.endswith(".down"):
            drawn = rng.uniform(-1, 1, spec.shape) * spec.shape[1] ** -0.5
        elif prefix in fan_in:
            bound = fan_in[prefix] ** -0.5
            drawn = rng.uniform(-bound, bound, spec.shape)
        else:
            drawn = rng.normal(0.0, CONTEXT_STD, spec.shape)
        values[spec.name] = drawn.astype(np.float32)
    return values


def check_trainables(schema: Schema, values: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise unless the tensors are exactly those of the schema, and finite.

    Args:
        schema: What must be there.
        values: What is there.

    Raises:
        SchemaError: If a name is missing or unknown, a shape or type differs, or a value is not finite.
    """
    expected = {t.name: t for t in schema.tensors}
    names = set(values)
    if names != set(expected):
        missing, unknown = sorted(set(expected) - names), sorted(names - set(expected))
        message = (
            f"The tensors must be those of the model's schema. Missing: {missing}; unknown: {unknown}. "
            "Use the same recipe, taps and backbone on both sides."
        )
        raise SchemaError(message)
    for spec in schema.tensors:
        value = values[spec.name]
        if value.shape != spec.shape or value.dtype != np.float32:
            message = (
                f"The tensor '{spec.name}' must be float32 with shape {spec.shape}. "
                f"Got {value.dtype} with shape {value.shape}; use the same recipe, taps and backbone."
            )
            raise SchemaError(message)
        if not np.isfinite(value).all():
            message = f"The tensor '{spec.name}' must be finite. It is not; train again from a good model."
            raise SchemaError(message)
