"""Why a file cannot be used, raised where it is found and put into words where the file's name is known."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from mediclip.data.source import unusable
from mediclip.errors import DecodeError, ImageError, InvalidHeaderError, MediClipError, TooLargeError

AGAIN: Final = "export it again or take it out of the set"


class Fault(Exception):  # noqa: N818 - a reason on its way to become an error
    """One reason, not yet a sentence.

    Attributes:
        error: What to raise in the end.
        must: What has to hold, after "it must".
        found: What was found instead: no value of the file, no name.
        do: What the reader can do about it.
        keyword: The attribute at fault, for ``InvalidHeaderError``.
    """

    def __init__(
        self, error: type[ImageError], must: str, found: str, do: str = AGAIN, *, keyword: str = ""
    ) -> None:
        super().__init__(must, found)
        self.error = error
        self.must = must
        self.found = found
        self.do = do
        self.keyword = keyword

    def named(self, name: str) -> ImageError:
        """Make the error, as a sentence about the file of that name."""
        sentence = str(unusable(name, self.must, self.found, self.do))
        if issubclass(self.error, InvalidHeaderError):
            return self.error(sentence, keyword=self.keyword)
        return self.error(sentence)


def invalid(keyword: str, must: str, found: str) -> Fault:
    """Make the fault of one attribute.

    Args:
        keyword: Its keyword (PS3.6).
        must: What has to hold, after "it must have".
        found: What was found, without quoting it.

    Returns:
        The fault, to be raised.
    """
    return Fault(InvalidHeaderError, f"have {keyword} {must}", found, keyword=keyword)


def too_large(must: str, found: str) -> Fault:
    """Make the fault of a file that asks for more than the caps allow."""
    do = "export a part of it, or take it out of the set"
    return Fault(TooLargeError, f"have at most {must}", found, do)


@contextmanager
def named(name: str) -> Iterator[None]:
    """Put into words whatever goes wrong with a file; nothing that a library says is passed on.

    Args:
        name: What messages call the file, such as ``"test image 12"``; never its path.

    Raises:
        ImageError: For a fault, for want of memory, and for any error that a library comes up with.
    """
    try:
        yield
    except MediClipError:
        raise
    except Fault as fault:
        raise fault.named(name) from None
    except MemoryError:
        raise too_large("what the memory holds", "it needs more").named(name) from None
    except Exception:  # noqa: BLE001 - a library meets damage in any way, and its text may quote the file
        raise Fault(DecodeError, "be undamaged", "it cannot be read").named(name) from None
