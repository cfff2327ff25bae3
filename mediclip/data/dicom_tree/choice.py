"""What somebody who runs a command takes from a tree of DICOM files, before what its settings file says."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mediclip.data.dicom_tree.settings import TreeSettings
from mediclip.errors import SettingsError


@dataclass(frozen=True)
class TreeChoice:
    """Values that override those of the settings file, key by key; None leaves a key as it is.

    Attributes:
        modality: Codes of the modalities to take.
        body_part: Body parts to take.
        view: View positions to take.
        labels: The table of labels and masks, in place of the one in or beside the folder.
    """

    modality: tuple[str, ...] | None = None
    body_part: tuple[str, ...] | None = None
    view: tuple[str, ...] | None = None
    labels: Path | None = None

    @classmethod
    def of(
        cls,
        modality: Iterable[str] | None,
        body_part: Iterable[str] | None,
        view: Iterable[str] | None,
        labels: Path | None,
    ) -> "TreeChoice":
        """Make a choice of what a command line gives, where an option that was not used is None or empty.

        Raises:
            SettingsError: If there is no such table.
        """
        if labels is not None and not labels.is_file():
            message = "--labels must name a CSV or JSON-lines file, but there is none; correct its path."
            raise SettingsError(message)
        modality, body_part, view = (tuple(v) if v else None for v in (modality, body_part, view))
        return cls(modality, body_part, view, labels)

    def __bool__(self) -> bool:
        """Tell whether anything is chosen."""
        return self != TreeChoice()

    def over(self, settings: TreeSettings) -> TreeSettings:
        """Put what is chosen in place of what the settings say."""
        keys = {"modality": self.modality, "body_part": self.body_part, "view": self.view}
        chosen = {key: value for key, value in keys.items() if value is not None}
        return TreeSettings.model_validate(settings.model_dump() | chosen)

    def facts(self) -> dict[str, list[str] | None]:
        """Return what is chosen as plain values; of the table, whether there is one and not where."""
        keys = {"modality": self.modality, "body_part": self.body_part, "view": self.view}
        return {key: None if value is None else list(value) for key, value in keys.items()}
