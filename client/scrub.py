"""What of an error may be written at the site, and the one word of it that may leave."""

import logging
import traceback
from pathlib import Path

from mediclip.errors import MediClipError


def noted(error: Exception, log: logging.Logger) -> str:
    """Log an error at the site and return the word that may leave.

    Args:
        error: What was raised. Of an error that is not this project's own not even the site's log gets the
            text, which may quote a path or a patient, but its kind and where it was raised.
        log: The site's log.

    Returns:
        The code of the error, ``"failed"`` for one that is not this project's own.
    """
    if isinstance(error, MediClipError):
        log.error("%s", error)
        return error.code
    frames = traceback.extract_tb(error.__traceback__)
    places = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))
    log.error("%s at %s", type(error).__name__, places)
    return MediClipError.code
