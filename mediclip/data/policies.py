"""Which policy shows the values of which modality: named, versioned and hashed.

Header windows of MR, CR and US depend on who sat at the console, and CT has none or several, so that a model
would see the same tissue in other greys from site to site. What is fixed here is part of the preprocessing
that a model file names: whatever would change a pixel is a new version. Another policy can be chosen for a
modality, by a recipe, on the command line or in a folder's ``dicom.toml``; the choice is part of the digest.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, get_args

from mediclip.errors import SettingsError

Window = tuple[float, float]
Settings = Mapping[str, object]
PolicyName = Literal["ct-window", "foreground-percentiles", "header-voi", "stored-range"]
Choices = Mapping[str, PolicyName]


@dataclass(frozen=True)
class Policy:
    """How the grey frames of some modalities are shown.

    Attributes:
        name: ``ct-window``, ``foreground-percentiles``, ``header-voi``, ``stored-range`` or ``by-depth``.
        version: Goes up with whatever would change a pixel.
        settings: Its numbers.
        crop: Whether a frame is cut to its ultrasound region.
    """

    name: str
    version: int
    settings: Settings = field(default_factory=dict)
    crop: bool = False

    def facts(self) -> dict[str, object]:
        """Return name, version and all numbers, as JSON can hold them."""
        return {"name": self.name, "version": self.version, "crop": self.crop, **self.settings}


_HEAD: Final[Window] = (40, 80)
_LUNG: Final[Window] = (-600, 1500)
SOFT_TISSUE: Final[Window] = (40, 400)
_BONE: Final[Window] = (400, 1800)
_BONY: Final = (
    *("ANKLE", "ARM", "CLAVICLE", "CSPINE", "ELBOW", "EXTREMITY", "FEMUR", "FINGER", "FOOT", "HAND", "HIP"),
    *("JAW", "KNEE", "LEG", "LSPINE", "SHOULDER", "SPINE", "SSPINE", "TOE", "TSPINE", "WRIST"),
)
CT_WINDOWS: Final[Mapping[str, Window]] = {
    **dict.fromkeys(("BRAIN", "HEAD", "SKULL"), _HEAD),
    **dict.fromkeys(("CHEST", "LUNG", "THORAX"), _LUNG),
    **dict.fromkeys(_BONY, _BONE),
}
"""Centre and width in Hounsfield units by body part (DICOM PS3.16 annex L); soft tissue where not listed."""

_CT: Final = Policy("ct-window", 1, {"windows": CT_WINDOWS, "other": SOFT_TISSUE})
LOW_PERCENT: Final = 0.5
HIGH_PERCENT: Final = 99.5
_PERCENTILES: Final = Policy("foreground-percentiles", 1, {"low": LOW_PERCENT, "high": HIGH_PERCENT})
_HEADER: Final = Policy("header-voi", 1)
_STORED: Final = Policy("stored-range", 1, crop=True)
SHALLOW_BITS: Final = 8
DEFAULT: Final = Policy("by-depth", 1, {"stored_range_up_to_bits": SHALLOW_BITS})
POLICIES: Final[Mapping[str, Policy]] = {
    "CT": _CT,
    **dict.fromkeys(("MR", "NM", "PT"), _PERCENTILES),
    **dict.fromkeys(("CR", "DX", "IO", "MG", "PX", "RF", "RG", "XA"), _HEADER),
    "US": _STORED,
    "NIfTI": _PERCENTILES,  # no modality of DICOM, which has capitals only
}
"""Policy by modality; ``DEFAULT`` for the others."""


_NAMED: Final[Mapping[PolicyName, Policy]] = {
    "ct-window": _CT,
    "foreground-percentiles": _PERCENTILES,
    "header-voi": _HEADER,
    "stored-range": _STORED,
}
POLICY_NAMES: Final = tuple(_NAMED)
"""What may be chosen for a modality in place of its usual policy."""


def policy_of(modality: str, choices: Choices | None = None) -> Policy:
    """Find the policy of a modality.

    Args:
        modality: Its code, such as ``"MR"``.
        choices: Policies chosen in place of the usual ones, by modality. What is cut stays so.

    Returns:
        The policy.
    """
    usual = POLICIES.get(modality, DEFAULT)
    chosen = (choices or {}).get(modality)
    return usual if chosen is None else replace(_NAMED[chosen], crop=usual.crop)


def policies_digest(choices: Choices | None = None) -> str:
    """Return the SHA-256 of all policies in canonical JSON, as hexadecimal.

    Args:
        choices: Policies chosen in place of the usual ones; those that are the usual ones change nothing.
    """
    chosen = {modality for modality in choices or () if policy_of(modality, choices) != policy_of(modality)}
    facts = {modality: policy_of(modality, choices).facts() for modality in {*POLICIES, *chosen}}
    text = json.dumps({**facts, "": DEFAULT.facts()}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def agreed(choices: Choices, asked: Choices, *, name: str) -> dict[str, PolicyName]:
    """Join what a run has chosen with what a data folder asks for.

    Args:
        choices: Policies chosen so far, by modality.
        asked: Policies that the folder asks for.
        name: What messages call the folder's set.

    Returns:
        Both.

    Raises:
        SettingsError: If they name two policies for one modality.
    """
    for modality, policy in asked.items():
        if choices.get(modality, policy) != policy:
            raise _disagreement(name, modality, policy, choices[modality])
    return {**choices, **asked}


def check_same(choices: Choices, asked: Choices, *, name: str) -> None:
    """Hold what is asked for against the policies that a model was trained under.

    Args:
        choices: The model's choices, by modality; it saw other modalities under their usual policies.
        asked: What a data folder or a command asks for.
        name: What messages call who asks.

    Raises:
        SettingsError: If a modality would be shown in another way than the model was trained with.
    """
    for modality, policy in asked.items():
        mine = policy_of(modality, choices)
        if policy_of(modality, asked) != mine:
            raise _disagreement(name, modality, policy, mine.name)


def _disagreement(name: str, modality: str, asked: str, chosen: str) -> SettingsError:
    return SettingsError(
        f"The policy of {modality} must be the same for the model and for {name}, but these name {chosen!r} "
        f"and {asked!r}; name one of them in both, or train again."
    )


def parse_choices(texts: list[str] | None) -> dict[str, PolicyName]:
    """Read choices as the command line has them: ``MR=stored-range``.

    Args:
        texts: One for each modality; none at all for None.

    Returns:
        Policy by modality.

    Raises:
        SettingsError: If one has another form, or names no policy.
    """
    found: dict[str, PolicyName] = {}
    for text in texts or ():
        modality, _, wanted = text.partition("=")
        policy = next((name for name in get_args(PolicyName) if name == wanted.strip()), None)
        if policy is None or not modality.strip():
            message = (
                f"--policy must be MODALITY=POLICY, such as MR=stored-range, with one of "
                f"{', '.join(POLICY_NAMES)}. Got {text!r}; correct it."
            )
            raise SettingsError(message)
        found[modality.strip().upper()] = policy
    return found
