"""A site behind its policy: what is asked is judged, answered once, kept, and written to the audit log."""

import hashlib
import logging
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from client.policy import Policy, update_norm
from client.scrub import noted
from client.service.audit import AuditLog, ChainEnd
from client.service.fit import FitReply, FitRequest, PrivateState, Trainer
from client.service.rounds import Question, RoundStore
from mediclip.errors import PolicyError
from mediclip.provenance import source_digest

_log = logging.getLogger("mediclip.client")
_T = TypeVar("_T")


class GuardedSite:
    """A site that answers whom, when and what its policy allows.

    Args:
        site: What trains.
        policy: What is allowed.
        rounds: Where answered rounds are kept.
        audit: Where everything that leaves is written down.
        source: Digest of the application's code; of the one that this process imports when omitted.
    """

    def __init__(
        self, site: Trainer, policy: Policy, rounds: RoundStore, audit: AuditLog, *, source: str | None = None
    ) -> None:
        self._site = site
        self._policy = policy
        self._rounds = rounds
        self._audit = audit
        self._source = source_digest() if source is None else source
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What the server calls the site."""
        return self._site.name

    @property
    def source(self) -> str:
        """Digest of the application's code."""
        return self._source

    @property
    def audit_end(self) -> ChainEnd:
        """How far the audit log goes."""
        return self._audit.end

    def schema_digest(self, recipe: str, federation: str) -> str:
        """Digest the tensors that the site would send.

        Args:
            recipe: The recipe as JSON.
            federation: What the run says it belongs to.

        Returns:
            The digest as hexadecimal.

        Raises:
            MediClipError: If the policy refuses, or the site cannot train with the recipe.
        """

        def answer() -> str:
            self._policy.check_asker(federation, self._source)
            digest = self._site.schema_digest(recipe)
            self._policy.check_images(self._site.count_images(recipe))
            return digest

        with self._lock:
            digest = self._noting(answer, asked="schema")
            self._audit.append("introduced", schema=digest)
            return digest

    def fit(self, request: FitRequest, federation: str) -> FitReply:
        """Train for one round, or repeat the answer that it already got.

        Args:
            request: The round's work.
            federation: What the run says it belongs to.

        Returns:
            What leaves; it is kept and in the audit log before it is returned.

        Raises:
            MediClipError: If the policy refuses, or the site cannot train.
        """
        question = Question(federation, request)
        with self._lock:
            return self._noting(lambda: self._answer(question), asked="round", round=request.number)

    def _answer(self, question: Question) -> FitReply:
        request = question.request
        self._policy.check_asker(question.federation, self._source)
        self._policy.check_round(request.number)
        stored = self._rounds.answer(question)
        if stored is not None:
            reply = self._policy.release(request, stored)
            self._write(request, reply, is_repeated=True)
            return reply
        self._policy.check_images(self._site.count_images(request.recipe))
        made, private = self._site.fit_from(request, self._rounds.private_before(question))
        return self._keep(question, self._policy.release(request, made), private)

    def _keep(self, question: Question, reply: FitReply, private: PrivateState) -> FitReply:
        self._rounds.keep(question, reply, private)
        self._write(question.request, reply, is_repeated=False)
        return reply

    def _write(self, request: FitRequest, reply: FitReply, *, is_repeated: bool) -> None:
        digest = hashlib.sha256()
        for value in reply.tensors.values():
            digest.update(value.tobytes())
        self._audit.append(
            "answered",
            round=request.number,
            is_repeated=is_repeated,
            tensors=[[n, list(v.shape), v.nbytes] for n, v in reply.tensors.items()],
            sha256=digest.hexdigest(),
            norm=update_norm(request.tensors, reply.tensors),
            examples=reply.examples,
            metrics=reply.metrics,
        )

    def _noting(self, answer: Callable[[], _T], **asked: Any) -> _T:  # noqa: ANN401 - plain values
        try:
            return answer()
        except Exception as error:
            event = "refused" if isinstance(error, PolicyError) else "failed"
            self._audit.append(event, **asked, code=noted(error, _log))
            raise
