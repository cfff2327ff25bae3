"""The last answered rounds of a site on disk, each with what the site kept for itself after it.

One file holds both, and is written at once: after a crash a round is either answered and kept, or neither.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from client.service.fit import FitRequest, PrivateState, RoundAnswer
from mediclip.errors import CheckpointError, SchemaError
from mediclip.exchange.codecs import FLOAT32
from mediclip.exchange.parcel import Parcel
from mediclip.model.trainables import Schema
from mediclip.training.checkpoint import load_tensors, save_tensors

KEPT_ROUNDS: Final = 3
_SENT, _PRIVATE = "sent/", "private/"


@dataclass(frozen=True)
class Question:
    """A request with the federation that asks.

    Attributes:
        federation: Name of the federation; empty where the run does not say.
        request: The round's work; its tensors may be missing where only the run and the number count.
        answer_codec: Codec of the answer, a name with version.
    """

    federation: str
    request: FitRequest
    answer_codec: str = FLOAT32.name

    def run(self) -> str:
        """Digest what all rounds of one run share, as hexadecimal; a resumed run is the same run."""
        request = self.request
        return _digest(self.federation, request.seed, request.recipe, request.schema_digest)

    def digest(self) -> str:
        """Digest everything that decides the answer, as hexadecimal."""
        request = self.request
        digest = hashlib.sha256(
            _digest(
                self.run(), request.number, request.local_steps, request.proximal_mu, self.answer_codec
            ).encode()
        )
        for name in sorted(request.tensors):
            value = request.tensors[name]
            digest.update(f"{name}{value.dtype}{value.shape}".encode())
            digest.update(value.tobytes())
        return digest.hexdigest()


class RoundStore:
    """Rounds of a site's runs.

    Args:
        folder: Where they lie; only the site's own user may read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def answer(self, question: Question) -> RoundAnswer | None:
        """Give the answer that a question got, or None if it is new.

        Raises:
            CheckpointError: If the round's file is damaged.
        """
        path = self._file(question.run(), question.request.number)
        if not path.exists():
            return None
        tensors, facts = load_tensors(path)
        if facts.get("question") != question.digest():
            return None
        try:
            schema = Schema.from_json(facts["schema"])
            sent = {spec.name: tensors[_SENT + spec.name].tobytes() for spec in schema.tensors}
            parcel = Parcel(facts["codec"], schema, facts["base"], sent)
            return RoundAnswer(parcel, int(facts["examples"]), facts["metrics"])
        except (KeyError, TypeError, ValueError, SchemaError) as error:
            message = (
                f"The file of round {question.request.number} must be as the site wrote it. It is not; "
                "restore the folder of rounds from a backup, or remove it to begin anew."
            )
            raise CheckpointError(message) from error

    def private_before(self, question: Question) -> PrivateState:
        """Give what the site kept after the last round before a question's; empty if there was none.

        Raises:
            CheckpointError: If that round's file is damaged.
        """
        earlier = [n for n in self._numbers(question.run()) if n < question.request.number]
        if not earlier:
            return {}
        return private_part(self._file(question.run(), max(earlier)))

    def keep(self, question: Question, answer: RoundAnswer, private: PrivateState) -> None:
        """Write a round, and forget those that it makes void: later ones and long past ones."""
        run, number = question.run(), question.request.number
        self._folder.joinpath(run).mkdir(mode=0o700, parents=True, exist_ok=True)
        parcel = answer.parcel
        tensors = {_SENT + name: np.frombuffer(data, np.uint8) for name, data in parcel.tensors.items()}
        tensors_private = {f"{_PRIVATE}{name}": value for name, value in private.items()}
        facts = {
            "question": question.digest(),
            "codec": parcel.codec,
            "schema": parcel.schema.to_json(),
            "base": parcel.base,
            "examples": answer.examples,
            "metrics": answer.metrics,
        }
        save_tensors(self._file(run, number), {**tensors, **tensors_private}, facts)
        kept = [n for n in self._numbers(run) if n <= number][-KEPT_ROUNDS:]
        for other in set(self._numbers(run)) - set(kept):
            self._file(run, other).unlink()

    def _numbers(self, run: str) -> list[int]:
        return sorted(int(p.stem.removeprefix("round-")) for p in (self._folder / run).glob("round-*"))

    def _file(self, run: str, number: int) -> Path:
        return self._folder / run / f"round-{number:06d}.safetensors"


def private_part(path: Path) -> PrivateState:
    """Read what a site kept for itself after a round.

    Args:
        path: The round's file.

    Raises:
        CheckpointError: If the file is damaged.
    """
    tensors, _ = load_tensors(path)
    return {n.removeprefix(_PRIVATE): v for n, v in tensors.items() if n.startswith(_PRIVATE)}


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
