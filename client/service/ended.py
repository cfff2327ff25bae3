"""The end of a run at a site: what was delivered, read, and what the site made of it, on disk."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from client.service.conclusion import CONCLUSION, CandidateName, Conclusion, FinalRequest, Mark, Origin
from client.service.exchange import received, undecoded
from client.service.fit import FinalQuestion, PrivateState
from client.service.rounds import Question
from mediclip.errors import CheckpointError, FederationError
from mediclip.training.checkpoint import write_atomically


def delivered(
    asked: FinalQuestion,
    federation: str,
    kept_before: Callable[[Question], PrivateState],
    own_digest: Callable[[str], str],
) -> tuple[FinalRequest, Question, PrivateState]:
    """Read the end of a run.

    Args:
        asked: As it came.
        federation: What the run says it belongs to.
        kept_before: Gives what the site kept before a question.
        own_digest: Digests the tensors that the site would send, for a recipe.

    Returns:
        The end of the run, decoded; the question by which it is known; and what the site kept after its last
        round.

    Raises:
        FederationError: If the origin of the model is unknown.
        SchemaError: If the parcel is damaged, a difference, or of other tensors.
    """
    if asked.origin not in get_args(Origin):
        message = "A delivered model must be 'global' or of a 'cluster'. It is neither; run the same version."
        raise FederationError(message)
    private = kept_before(Question(federation, undecoded(asked.last.run_goes_on())))
    tensors = received(asked.last, private, lambda: own_digest(asked.last.recipe))
    last = replace(undecoded(asked.last), tensors=tensors)
    request = FinalRequest(last, cast("Origin", asked.origin), asked.safeguard)
    return request, Question(federation, last), private


class EndedRun:
    """What a site made of one run.

    Args:
        models: Folder of the site's runs; None keeps nothing.
        question: By which the end of the run is known.
        request: The end of the run.

    Attributes:
        name: Name of the run's folder: a part of a digest.
        folder: The folder; None where nothing is kept.
    """

    def __init__(self, models: Path | None, question: Question, request: FinalRequest) -> None:
        self._question = f"{question.digest()} {request.origin} {request.safeguard}"
        self.name = question.run()[:16]
        self.folder = None if models is None else models / self.name

    def read(self) -> Conclusion | None:
        """Read what was concluded; None if nothing was, or of another model.

        Raises:
            CheckpointError: If the file is damaged.
        """
        if self.folder is None or not (self.folder / CONCLUSION).exists():
            return None
        try:
            values = json.loads((self.folder / CONCLUSION).read_text(encoding="utf-8"))
            if values["question"] != self._question:
                return None
            marks: dict[CandidateName, Mark] = {n: Mark(**mark) for n, mark in values["marks"].items()}
            return Conclusion(values["kept"], marks, values["compared_on"], values["images"])
        except (KeyError, TypeError, ValueError) as error:
            message = (
                f"The file {CONCLUSION} of a finished run must be as the site wrote it. It is not; remove "
                "it, and the site decides anew when it is asked again."
            )
            raise CheckpointError(message) from error

    def write(self, found: Conclusion) -> None:
        """Write what was concluded, after the models are there."""
        if self.folder is None:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps({"question": self._question, **found.facts()}, indent=2)
        write_atomically(self.folder / CONCLUSION, text.encode())
