from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Description(_message.Message):
    __slots__ = ("site", "source_digest", "audit_lines", "audit_head")
    SITE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    AUDIT_LINES_FIELD_NUMBER: _ClassVar[int]
    AUDIT_HEAD_FIELD_NUMBER: _ClassVar[int]
    site: str
    source_digest: str
    audit_lines: int
    audit_head: str
    def __init__(self, site: _Optional[str] = ..., source_digest: _Optional[str] = ..., audit_lines: _Optional[int] = ..., audit_head: _Optional[str] = ...) -> None: ...

class SchemaQuestion(_message.Message):
    __slots__ = ("federation", "recipe")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    federation: str
    recipe: str
    def __init__(self, federation: _Optional[str] = ..., recipe: _Optional[str] = ...) -> None: ...

class SchemaAnswer(_message.Message):
    __slots__ = ("digest",)
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    digest: str
    def __init__(self, digest: _Optional[str] = ...) -> None: ...

class CodecQuestion(_message.Message):
    __slots__ = ("federation", "codec")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    federation: str
    codec: str
    def __init__(self, federation: _Optional[str] = ..., codec: _Optional[str] = ...) -> None: ...

class CodecAnswer(_message.Message):
    __slots__ = ("codec",)
    CODEC_FIELD_NUMBER: _ClassVar[int]
    codec: str
    def __init__(self, codec: _Optional[str] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "shape", "data")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Parcel(_message.Message):
    __slots__ = ("codec", "schema_digest", "base", "tensors")
    CODEC_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_DIGEST_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    codec: str
    schema_digest: str
    base: str
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    def __init__(self, codec: _Optional[str] = ..., schema_digest: _Optional[str] = ..., base: _Optional[str] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ...) -> None: ...

class FitQuestion(_message.Message):
    __slots__ = ("federation", "number", "parcel", "seed", "recipe", "local_steps", "proximal_mu", "answer_codec", "differences_follow")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    PARCEL_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_STEPS_FIELD_NUMBER: _ClassVar[int]
    PROXIMAL_MU_FIELD_NUMBER: _ClassVar[int]
    ANSWER_CODEC_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FOLLOW_FIELD_NUMBER: _ClassVar[int]
    federation: str
    number: int
    parcel: Parcel
    seed: int
    recipe: str
    local_steps: int
    proximal_mu: float
    answer_codec: str
    differences_follow: bool
    def __init__(self, federation: _Optional[str] = ..., number: _Optional[int] = ..., parcel: _Optional[_Union[Parcel, _Mapping]] = ..., seed: _Optional[int] = ..., recipe: _Optional[str] = ..., local_steps: _Optional[int] = ..., proximal_mu: _Optional[float] = ..., answer_codec: _Optional[str] = ..., differences_follow: _Optional[bool] = ...) -> None: ...

class FitAnswer(_message.Message):
    __slots__ = ("parcel", "examples", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    PARCEL_FIELD_NUMBER: _ClassVar[int]
    EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    parcel: Parcel
    examples: int
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, parcel: _Optional[_Union[Parcel, _Mapping]] = ..., examples: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...

class DescriptorQuestion(_message.Message):
    __slots__ = ("federation", "recipe")
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    federation: str
    recipe: str
    def __init__(self, federation: _Optional[str] = ..., recipe: _Optional[str] = ...) -> None: ...

class Descriptor(_message.Message):
    __slots__ = ("values",)
    VALUES_FIELD_NUMBER: _ClassVar[int]
    values: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, values: _Optional[_Iterable[float]] = ...) -> None: ...

class FinalQuestion(_message.Message):
    __slots__ = ("last", "origin", "safeguard")
    LAST_FIELD_NUMBER: _ClassVar[int]
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    SAFEGUARD_FIELD_NUMBER: _ClassVar[int]
    last: FitQuestion
    origin: str
    safeguard: bool
    def __init__(self, last: _Optional[_Union[FitQuestion, _Mapping]] = ..., origin: _Optional[str] = ..., safeguard: _Optional[bool] = ...) -> None: ...

class FinalAnswer(_message.Message):
    __slots__ = ("metrics",)
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    METRICS_FIELD_NUMBER: _ClassVar[int]
    metrics: _containers.ScalarMap[str, float]
    def __init__(self, metrics: _Optional[_Mapping[str, float]] = ...) -> None: ...
