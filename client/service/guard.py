"""A site behind its policy: what is asked is judged, answered once, kept, and written to the audit log."""

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from client.policy import Policy, Release
from client.scrub import noted
from client.service.account import PrivacyAccount
from client.service.audit import AuditLog, ChainEnd
from client.service.ended import EndedRun, delivered
from client.service.exchange import as_seen, encoded, received, undecoded, without_exchange
from client.service.fit import FinalQuestion, RoundAnswer, RoundQuestion
from client.service.roles import Trainer
from client.service.rounds import Question, RoundStore
from mediclip.errors import PolicyError
from mediclip.protocol import DESCRIPTOR
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
        account: What each round is paid from; nothing is paid when omitted.
        models: Folder for the models of finished runs; none are written when omitted.
        source: Digest of the application's code; of the one that this process imports when omitted.

    Raises:
        CheckpointError: If the account is older than the audit log.
    """

    def __init__(
        self,
        site: Trainer,
        policy: Policy,
        rounds: RoundStore,
        audit: AuditLog,
        *,
        account: PrivacyAccount | None = None,
        models: Path | None = None,
        source: str | None = None,
    ) -> None:
        self._site = site
        self._policy = policy
        self._rounds = rounds
        self._audit = audit
        self._account = account
        self._models = models
        if account is not None:
            account.check_not_older(audit.last("privacy").get("ledger_lines", 0))
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

    def choose_codec(self, wanted: str, federation: str) -> str:
        """Choose the codec in which updates leave.

        Args:
            wanted: The server's choice, a name with version.
            federation: What the run says it belongs to.

        Returns:
            A name with version that the server can read.

        Raises:
            PolicyError: If the policy refuses.
        """

        def answer() -> str:
            self._policy.check_asker(federation, self._source)
            return self._policy.choose_codec(wanted)

        with self._lock:
            return self._noting(answer, asked="codec")

    def answer(self, question: RoundQuestion, federation: str) -> RoundAnswer:
        """Train for one round, or repeat the answer that it already got.

        Args:
            question: The round's work.
            federation: What the run says it belongs to.

        Returns:
            What leaves; it is kept and in the audit log before it is returned.

        Raises:
            MediClipError: If the policy refuses, or the site cannot train.
        """
        with self._lock:
            return self._noting(
                lambda: self._answer(question, federation), asked="round", round=question.number
            )

    def descriptor(self, recipe: str, federation: str) -> tuple[float, ...]:
        """Describe the scans, if the policy lets that leave.

        Args:
            recipe: The recipe as JSON.
            federation: What the run says it belongs to.

        Returns:
            The descriptor; it is in the audit log before it is returned.

        Raises:
            MediClipError: If the policy refuses, or the site cannot use its scans.
        """

        def answer() -> tuple[float, ...]:
            self._policy.check_asker(federation, self._source)
            self._policy.check_descriptor()
            self._policy.check_images(self._site.count_images(recipe))
            return self._site.descriptor(recipe)

        with self._lock:
            values = self._noting(answer, asked=DESCRIPTOR)
            digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
            self._audit.append("described", numbers=len(values), sha256=digest)
            return values

    def conclude(self, question: FinalQuestion, federation: str) -> dict[str, float]:
        """Take in the model that a run ends with, decide what is kept, and say no more than is allowed.

        Args:
            question: The end of the run.
            federation: What the run says it belongs to.

        Returns:
            The numbers that the policy names.

        Raises:
            MediClipError: If the policy refuses, or the site cannot use the model.
        """
        with self._lock:
            return self._noting(
                lambda: self._conclude(question, federation), asked="end", round=question.last.number
            )

    def _conclude(self, asked: FinalQuestion, federation: str) -> dict[str, float]:
        self._policy.check_asker(federation, self._source)
        self._policy.check_round(asked.last.number, asked.last.local_steps)
        request, question, kept = delivered(
            asked, federation, self._rounds.private_before, self._site.schema_digest
        )
        self._policy.check_model(request.last.tensors)
        images = self._site.count_images(request.last.recipe)
        self._policy.check_images(images)
        ended = EndedRun(self._models, question, request)
        found = ended.read()
        is_repeated = found is not None
        if found is None:
            found = self._site.conclude(request, without_exchange(kept), ended.folder)
            ended.write(found)
        leaving = self._policy.numbers(found.metrics(), images)
        self._audit.append(
            "concluded",
            round=asked.last.number,
            run=ended.name,
            is_repeated=is_repeated,
            metrics=leaving,
            **found.facts(),
        )
        return leaving

    def _answer(self, asked: RoundQuestion, federation: str) -> RoundAnswer:
        self._policy.check_asker(federation, self._source)
        self._policy.check_round(asked.number, asked.local_steps)
        self._policy.check_codec(asked.answer_codec)
        request = undecoded(asked)
        kept = self._rounds.private_before(Question(federation, request))
        tensors = received(asked, kept, lambda: self._site.schema_digest(asked.recipe))
        self._policy.check_model(tensors)
        question = Question(federation, replace(request, tensors=tensors), asked.answer_codec)
        stored = self._rounds.answer(question)
        if stored is not None and (self._account is None or self._account.has_paid(question)):
            return self._let_go(question, stored, is_repeated=True)
        started = time.monotonic()
        self._policy.check_images(self._site.count_images(asked.recipe))
        if self._account is not None:
            self._account.pay(question, self._site)
        made, private = self._site.fit_from(question.request, without_exchange(kept))
        release = self._policy.release(question.request, made)
        limit = self._policy.max_update_norm
        answer, state = encoded(asked, question.request, release.reply, kept, max_norm=limit)
        clipped = {"clipped_from": release.made_norm} if release.is_clipped else {}
        return self._let_go(
            question,
            answer,
            is_repeated=False,
            seconds=round(time.monotonic() - started, 3),
            keep=lambda leaving: self._rounds.keep(question, leaving, {**private, **state}),
            **clipped,
        )

    def _let_go(
        self,
        question: Question,
        answer: RoundAnswer,
        *,
        is_repeated: bool,
        keep: Callable[[RoundAnswer], None] = lambda _: None,
        **facts: Any,  # noqa: ANN401 - plain values
    ) -> RoundAnswer:
        """Judge what the coordinator will read, not what was trained: only the former leaves."""
        seen = self._policy.judge(question.request, as_seen(answer, question.request))
        leaving = replace(answer, metrics=seen.reply.metrics)
        keep(leaving)
        if self._account is not None:
            self._account.settle(question)
            facts["privacy"] = self._account.facts()
        self._write(question.request.number, leaving, seen, is_repeated=is_repeated, **facts)
        return leaving

    def _write(
        self,
        number: int,
        answer: RoundAnswer,
        seen: Release,
        *,
        is_repeated: bool,
        **facts: Any,  # noqa: ANN401 - plain values
    ) -> None:
        parcel, digest = answer.parcel, hashlib.sha256()
        for data in parcel.tensors.values():
            digest.update(data)
        self._audit.append(
            "answered",
            round=number,
            is_repeated=is_repeated,
            codec=parcel.codec,
            tensors=[[n, list(v.shape), len(parcel.tensors[n])] for n, v in seen.reply.tensors.items()],
            sha256=digest.hexdigest(),
            norm=seen.norm,
            examples=answer.examples,
            metrics=answer.metrics,
            **facts,
        )

    def _noting(self, answer: Callable[[], _T], **asked: Any) -> _T:  # noqa: ANN401 - plain values
        try:
            return answer()
        except Exception as error:
            event = "refused" if isinstance(error, PolicyError) else "failed"
            self._audit.append(event, **asked, code=noted(error, _log))
            raise
