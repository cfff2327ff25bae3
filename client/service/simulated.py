"""A site without a daemon, for simulations: no policy and no audit log, but what it keeps between rounds."""

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Final

from client.service.ended import EndedRun, delivered
from client.service.exchange import encoded, received, undecoded, without_exchange
from client.service.fit import FinalQuestion, PrivateState, RoundAnswer, RoundQuestion
from client.service.roles import Fitter, Keeper
from client.service.rounds import KEPT_ROUNDS, Question, RoundStore
from mediclip.errors import PolicyError
from mediclip.exchange.codecs import FLOAT32, agreed_codec
from mediclip.protocol import DESCRIPTOR

MODELS: Final = "models"
"""Name of the folder in a site's for the models of finished runs."""


class SimulatedSite:
    """A site without policy and log, with its side of the exchange and what it keeps from round to round.

    Args:
        site: What trains.
        folder: Where private tensors, models and leftovers are kept, so that a run that was killed goes on as
            it would have; in memory when omitted.
    """

    def __init__(self, site: Fitter, folder: Path | None = None) -> None:
        self._site = site
        self._rounds = None if folder is None else RoundStore(folder)
        self._models = None if folder is None else folder / MODELS
        self._memory: dict[str, dict[int, PrivateState]] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What the server calls the site."""
        return self._site.name

    def schema_digest(self, recipe: str) -> str:
        """Digest the tensors that the site would send; see :class:`client.service.roles.SiteService`."""
        return self._site.schema_digest(recipe)

    def choose_codec(self, wanted: str) -> str:
        """Take what the server wants.

        Raises:
            SchemaError: If this version has no such codec.
        """
        return agreed_codec(wanted).name

    def answer(self, question: RoundQuestion) -> RoundAnswer:
        """Train for one round; see :class:`client.service.roles.SiteService`."""
        is_whole = question.answer_codec == FLOAT32.name and not question.parcel.base
        if is_whole and not question.differences_follow and not _has_own_part(question.recipe):
            return self._answer(question, {})[0]
        with self._lock:
            return self._answer_from_kept(question)

    def descriptor(self, recipe: str) -> tuple[float, ...]:
        """Describe the scans; see :class:`client.service.roles.SiteService`.

        Raises:
            PolicyError: If the site only trains.
        """
        if isinstance(self._site, Keeper):
            return self._site.descriptor(recipe)
        message = (
            "A site must be able to describe its scans. This one cannot; it trains the model of all sites."
        )
        raise PolicyError(message, reason=DESCRIPTOR)

    def conclude(self, question: FinalQuestion) -> dict[str, float]:
        """Take in a run's model and decide; what the site keeps is in its folder, and nothing leaves."""
        if not isinstance(self._site, Keeper):
            return {}
        with self._lock:
            request, asked, kept = delivered(question, "", self._kept_before, self._site.schema_digest)
            ended = EndedRun(self._models, asked, request)
            if ended.read() is None:
                ended.write(self._site.conclude(request, without_exchange(kept), ended.folder))
        return {}

    def _answer_from_kept(self, question: RoundQuestion) -> RoundAnswer:
        asked = Question("", undecoded(question), question.answer_codec)
        answer, state = self._answer(question, self._kept_before(asked))
        if self._rounds is not None:
            self._rounds.keep(asked, answer, state)
            return answer
        states = self._memory.setdefault(asked.run(), {})
        earlier = sorted(number for number in states if number < question.number)[-KEPT_ROUNDS:]
        self._memory[asked.run()] = {number: states[number] for number in earlier} | {question.number: state}
        return answer

    def _kept_before(self, asked: Question) -> PrivateState:
        if self._rounds is not None:
            return self._rounds.private_before(asked)
        states = self._memory.get(asked.run(), {})
        earlier = [number for number in states if number < asked.request.number]
        return states[max(earlier)] if earlier else {}

    def _answer(self, question: RoundQuestion, kept: PrivateState) -> tuple[RoundAnswer, PrivateState]:
        tensors = received(question, kept, lambda: self._site.schema_digest(question.recipe))
        request = replace(undecoded(question), tensors=tensors)
        if isinstance(self._site, Keeper):
            reply, private = self._site.fit_from(request, without_exchange(kept))
        else:
            reply, private = self._site.fit(request), {}
        answer, state = encoded(question, request, reply, kept)
        return answer, {**private, **state}


def _has_own_part(recipe: str) -> bool:
    """Say whether a recipe calls something private; what is no recipe is the site's to refuse."""
    try:
        values = json.loads(recipe)
    except ValueError:
        return False
    return isinstance(values, dict) and bool(values.get("private"))
