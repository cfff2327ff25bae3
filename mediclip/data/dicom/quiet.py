"""Keep what libraries say about a file to themselves: their warnings and log lines quote its content."""

import logging
import warnings
from functools import cache
from typing import Final

_LOUD: Final = r"(pydicom|pylibjpeg|openjpeg|jpeg_ls|gdcm|nibabel|mediclip\.data\.(dicom|nifti))(\.|$)"
_LOGGERS: Final = ("pydicom", "pylibjpeg", "openjpeg", "nibabel", "nibabel.global")


def _drop(_: logging.LogRecord) -> bool:
    return False


@cache
def _loggers() -> tuple[logging.Logger, ...]:
    return tuple(map(logging.getLogger, _LOGGERS))


def hush() -> None:
    """Silence the libraries that read medical images, from now on and in all threads.

    Called before each file, because others (a test runner, a host program) put the filters back. Doing it
    for the length of a call alone would race with other threads: the filters belong to the process.
    """
    first = warnings.filters[0] if warnings.filters else None
    if first is None or getattr(first[3], "pattern", None) != _LOUD:
        warnings.filterwarnings("ignore", module=_LOUD)
    for logger in _loggers():
        logger.addFilter(_drop)


def hush_gdcm() -> None:
    """Silence GDCM, which writes to standard error by itself."""
    import gdcm  # noqa: PLC0415 - heavy, and wanted only where it decodes

    for switch in ("WarningOff", "ErrorOff", "DebugOff"):
        getattr(gdcm.Trace, switch)()
