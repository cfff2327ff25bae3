"""A ``federation.toml`` to begin with: every key, what it means, and what is known of the backbone."""

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from server.federation import BackboneSettings, FederationSettings

_ENTRY: Final = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)
_HEAD: Final = """\
# A federation's settings. What stands behind a # in front of a key is what holds without it.
# Complete "address" and "sites", then:  mediclip server provision federation.toml
"""


def federation_toml(
    facts: Mapping[str, Any], *, name: str, address: str, sites: Sequence[str], recipe: str
) -> str:
    """Write settings that can be provisioned as they are.

    Args:
        facts: What ``mediclip backbone --json`` prints.
        name: Name of the federation.
        address: ``host:port`` under which the sites will reach the coordinator.
        sites: Names of the sites, at least one.
        recipe: Recipe by name or file.

    Returns:
        The text of ``federation.toml``.

    Raises:
        SettingsError: If a value is out of its range, or a fact is missing.
    """
    model = {key: facts.get(key) for key in BackboneSettings.model_fields}
    chosen: dict[str, Any] = {
        "name": name,
        "address": address,
        "sites": list(sites),
        "taps": list(facts.get("taps", ())),
        "recipe": recipe,
        "shots": FederationSettings.model_fields["shots"].default,
        "rounds": FederationSettings.model_fields["rounds"].default,
    }
    FederationSettings.parse(chosen | {"backbone": model}, source="the new federation")
    meanings = _meanings(FederationSettings)
    own = [key for key in FederationSettings.model_fields if key in FederationSettings.__annotations__]
    keys = [*own, *(key for key in FederationSettings.model_fields if key not in own)]
    defaults = {key: field.default for key, field in FederationSettings.model_fields.items()}
    parts = [_HEAD, *(_entry(key, meanings[key], defaults[key], chosen) for key in keys if key != "backbone")]
    parts.append(f"\n# {_comment(meanings['backbone'])}\n[backbone]\n")
    about = _meanings(BackboneSettings)
    parts += [_entry(key, about[key], None, model) for key in BackboneSettings.model_fields]
    return "".join(parts).replace("[backbone]\n\n", "[backbone]\n")


def _entry(key: str, meaning: str, default: object, chosen: Mapping[str, Any]) -> str:
    value, mark = (chosen[key], "") if chosen.get(key) is not None else (default, "# ")
    # A JSON string, number, truth value or array of these is also TOML.
    text = '""' if value is None else json.dumps(value, ensure_ascii=False)
    return f"\n# {_comment(meaning)}\n{mark}{key} = {text}\n"


def _comment(meaning: str) -> str:
    plain = re.sub(r"\s+", " ", meaning).replace("``", "").strip()
    return plain[0].upper() + plain[1:]


def _meanings(settings: type[FederationSettings | BackboneSettings]) -> dict[str, str]:
    """Read what the keys mean from the ``Attributes`` of a class and its bases."""
    found: dict[str, str] = {}
    for kind in reversed(settings.__mro__):
        found |= dict(_ENTRY.findall(inspect.getdoc(kind) or "")) if kind.__doc__ else {}
    return found
