"""Says in one sentence what is wrong with a setting: its key, what it must be, what was found, what to do."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

_LONGEST = 80
_KINDS = {
    "bool": "true or false",
    "dict": "a table of keys",
    "finite": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "a table of keys",
    "string": "text",
    "tuple": "a list",
}
_LIMITS = ("gt", "ge", "lt", "le")
_LENGTHS = {
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "literal_error": "{expected}",
}


def sentence(settings: type[BaseModel], fault: Mapping[str, Any], *, source: str) -> str:
    """Word one fault that pydantic found.

    Args:
        settings: The settings that were checked; their ranges are quoted whole.
        fault: One of ``ValidationError.errors()``.
        source: What to call the origin, such as ``"recipe 'reference'"``.

    Returns:
        The sentence, on one line, with what was found cut to 80 characters.
    """
    place = [part for part in fault["loc"] if part != "[key]"]
    key = ".".join(str(part) for part in place)
    subject = (
        f"The key '{key}' of {source} is not usable" if key else f"The content of {source} is not usable"
    )
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "missing":
        return f"{subject}: it is required and missing; add it."
    if kind == "extra_forbidden":
        known = ", ".join(_fields(settings, place[:-1]))
        return f"{subject}: it must be one of {known}. It is none of them; correct its name or remove it."
    if kind == "value_error" and isinstance(fault["input"], BaseModel | Mapping):
        return f"{subject}: {context['error']}; correct it."
    limits = {name: context[name] for name in _LIMITS if name in context} | _limits(settings, place)
    found = repr(fault["input"])
    found = found if len(found) <= _LONGEST else f"{found[:_LONGEST]}…"
    return f"{subject}: {_demand(kind, fault['msg'], context, limits)}. Got {found}; correct it."


def _demand(kind: str, message: str, context: Mapping[str, Any], limits: Mapping[str, Any]) -> str:
    if kind == "value_error":
        return str(context["error"])
    if kind in _LENGTHS:
        return "it must be " + _LENGTHS[kind].format_map(context)
    if kind.startswith(("greater_than", "less_than")):
        return f"it must be {_range(limits).removeprefix('of ')}"
    word = _KINDS.get(kind.split("_", maxsplit=1)[0])
    if word is None:
        return message
    return f"it must be {word} {_range(limits)}".rstrip()


def _range(limits: Mapping[str, Any]) -> str:
    low = limits.get("ge", limits.get("gt"))
    high = limits.get("le", limits.get("lt"))
    if low is not None and high is not None:
        left, right = "[" if "ge" in limits else "(", "]" if "le" in limits else ")"
        return f"in {left}{_plain(low)}, {_plain(high)}{right}"
    words = {"ge": "of at least", "gt": "above", "le": "of at most", "lt": "below"}
    return "".join(f"{words[name]} {_plain(limits[name])}" for name in _LIMITS if name in limits)


def _plain(limit: float) -> str:
    return str(int(limit)) if limit == int(limit) else str(limit)


def _model_at(settings: Any, place: list[Any]) -> Any:  # noqa: ANN401 - an annotation may be anything
    for part in place:
        fields = settings.model_fields if _is_model(settings) else {}
        settings = fields[part].annotation if part in fields else None
    return settings


def _is_model(annotation: Any) -> bool:  # noqa: ANN401 - an annotation may be anything
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _fields(settings: type[BaseModel], place: list[Any]) -> list[str]:
    model = _model_at(settings, place)
    return sorted(model.model_fields) if _is_model(model) else ["the known keys"]


def _limits(settings: type[BaseModel], place: list[Any]) -> dict[str, Any]:
    model = _model_at(settings, place[:-1])
    if not place or not _is_model(model) or place[-1] not in model.model_fields:
        return {}
    metadata = model.model_fields[place[-1]].metadata
    pairs = ((name, getattr(entry, name, None)) for entry in metadata for name in _LIMITS)
    return {name: value for name, value in pairs if value is not None}
