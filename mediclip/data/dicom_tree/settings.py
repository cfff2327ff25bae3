"""Which images of a tree are meant: by modality, body part and view, and which frames of those with several.

Arguments in a program; for the command line the file ``dicom.toml`` in the folder, or ``scans.toml`` beside
``scans/``::

    modality = ["CR", "DX"]
    body_part = ["CHEST"]
    view = ["PA", "AP"]
    frames = "middle"

    [policy]
    MR = "stored-range"
"""

import tomllib
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mediclip.data.policies import POLICY_NAMES, PolicyName
from mediclip.errors import ManifestError, SettingsError

MAX_SETTINGS_BYTES: Final = 2**16
Frames = Literal["middle", "first", "all"]


def code(value: str) -> str:
    """Write a coded string as it is compared: without spaces around, in capitals."""
    return value.strip().upper()


def _codes(value: object) -> object:
    values = [value] if isinstance(value, str) else value
    if isinstance(values, list | tuple | set | frozenset):
        return frozenset(code(one) if isinstance(one, str) else one for one in values)
    return values


Code = Annotated[str, BeforeValidator(lambda value: code(value) if isinstance(value, str) else value)]
Codes = Annotated[frozenset[str], BeforeValidator(_codes)]


class TreeSettings(BaseModel):
    """What to take from a tree.

    Attributes:
        modality: Codes of the modalities to take, such as ``"MR"``; any when empty.
        body_part: Body parts to take, as the files spell them (Body Part Examined); any when empty.
        view: View positions to take, such as ``"PA"``; any when empty.
        frames: Which frames of a file with several become images: the middle one (of an even number the
            later), the first, or all. A ``frame`` in the table comes before.
        policy: How images are shown, by modality, where it is not to be the usual way
            (:mod:`mediclip.data.policies`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Codes = frozenset()
    body_part: Codes = frozenset()
    view: Codes = frozenset()
    frames: Frames = "middle"
    policy: dict[Code, PolicyName] = Field(default_factory=dict)


def find_settings_file(directory: Path, name: str) -> Path | None:
    """Look for the settings file in and beside a folder.

    Args:
        directory: The folder.
        name: What messages call the set.

    Returns:
        The file's path, or None where there is none.

    Raises:
        ManifestError: If there are two.
    """
    real = directory.resolve()
    places = [real / "dicom.toml"]
    if real.name:
        places.append(real.with_name(real.name + ".toml"))
    found = [place for place in places if place.is_file() and not place.is_symlink()]
    if len(found) > 1:
        message = (
            f"The data folder of {name!r} must have one settings file at most, but there is one in it "
            "and one beside it; keep one of them."
        )
        raise ManifestError(message)
    return found[0] if found else None


def find_settings(directory: Path, name: str) -> TreeSettings:
    """Read the settings in or beside a folder.

    Args:
        directory: The folder.
        name: What messages call the set.

    Returns:
        The settings; those that take everything where there is no file.

    Raises:
        ManifestError: If there are two files or one cannot be read.
        SettingsError: If a key or value is unknown.
    """
    file = find_settings_file(directory, name)
    if file is None:
        return TreeSettings()
    try:
        with file.open("rb") as stream:
            content = tomllib.loads(stream.read(MAX_SETTINGS_BYTES).decode("utf-8"))
        return TreeSettings.model_validate(content)
    except OSError as error:  # its own text would quote the path
        message = (
            f"The settings of {name!r} must be readable, but they are not ({error.strerror}); correct that."
        )
        raise ManifestError(message) from None
    except ValidationError as error:
        keys = ", ".join(sorted({str(part["loc"][0]) for part in error.errors() if part["loc"]}))
        message = (
            f"The settings of {name!r} must be modality, body_part and view, each a list of codes, frames "
            f"(middle, first or all), and a table policy with {', '.join(POLICY_NAMES)} as values, but these "
            f"keys are unknown or have another value: {keys}; correct them."
        )
        raise SettingsError(message) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        message = f"The settings of {name!r} must be a TOML file in UTF-8, but they are not; correct them."
        raise ManifestError(message) from None
