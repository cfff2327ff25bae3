"""What a site is to those who ask: one that trains, one that keeps too, one behind the ClientApp's seam."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from client.service.conclusion import Conclusion, FinalRequest
from client.service.fit import FinalQuestion, FitReply, FitRequest, PrivateState, RoundAnswer, RoundQuestion


class Named(Protocol):
    """What every view of a site has."""

    @property
    def name(self) -> str:
        """What the server calls the site."""
        ...

    def schema_digest(self, recipe: str) -> str:
        """Digest the tensors that the site would send.

        Args:
            recipe: The recipe as JSON.

        Raises:
            MediClipError: If the site cannot or will not train with it.
        """
        ...


class Fitter(Named, Protocol):
    """A site that trains and keeps nothing: enough for a simulation without private parts."""

    def fit(self, request: FitRequest) -> FitReply:
        """Train for one round; the same request gets the same reply.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...


@runtime_checkable
class Keeper(Named, Protocol):
    """A site that trains from what it kept, and leaves keeping it to others."""

    def descriptor(self, recipe: str) -> tuple[float, ...]:
        """Describe the support images for a recipe in JSON; see :mod:`mediclip.model.descriptor`."""
        ...

    def conclude(self, request: FinalRequest, private: PrivateState, folder: Path | None) -> Conclusion:
        """Decide what the site keeps of a run; see :func:`client.service.candidates.conclude`."""
        ...

    def fit_from(self, request: FitRequest, private: PrivateState) -> tuple[FitReply, PrivateState]:
        """Train for one round from what the site kept before it.

        Args:
            request: The round's work.
            private: What the site kept after the round before; empty at first.

        Returns:
            What may leave, and what the site keeps; the same for the same arguments.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...


class Trainer(Keeper, Protocol):
    """A site as its daemon sees it: it trains, and leaves keeping and deciding to others."""

    def count_images(self, recipe: str) -> int:
        """Count the support images that a recipe in JSON would be trained with."""
        ...

    def image_digests(self, recipe: str) -> tuple[str, ...]:
        """Digest each support image, as the privacy ledger knows it, for a recipe in JSON."""
        ...


class SiteService(Named, Protocol):
    """A site as the ClientApp sees it, whether it lives in this process or behind a socket."""

    def choose_codec(self, wanted: str) -> str:
        """Choose the codec of the site's answers, all names with version.

        Raises:
            MediClipError: If the site allows none that the server can read.
        """
        ...

    def answer(self, question: RoundQuestion) -> RoundAnswer:
        """Train for one round; the same question gets the same answer.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...

    def descriptor(self, recipe: str) -> tuple[float, ...]:
        """Describe the scans, for a recipe in JSON.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...

    def conclude(self, question: FinalQuestion) -> dict[str, float]:
        """Take a run's model in, and give the numbers that may leave; again for the same question.

        Raises:
            MediClipError: If the site cannot or will not.
        """
        ...
