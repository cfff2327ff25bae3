"""A site behind the socket of its daemon, as the ClientApp sees it; without torch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import grpc

from client.service import site_service_pb2 as pb, wire
from client.service.fit import FinalQuestion, RoundAnswer, RoundQuestion
from client.service.site_service_pb2_grpc import SiteServiceStub
from mediclip.errors import ServiceError
from mediclip.protocol import SENTENCES

PATIENCE_S: Final = 120.0
_PAUSE_S: Final = 0.2
_ANSWER_S: Final = 600.0
_T = TypeVar("_T")


class RemoteSite:
    """A site that another process serves.

    Args:
        socket: The daemon's Unix socket.
        federation: What the run says it belongs to; the site's policy judges it.
        patience_s: How long a daemon that is away, or goes away during a round, may take to come back: a
            round that is asked again gets the same answer.
    """

    def __init__(self, socket: Path, federation: str = "", *, patience_s: float = PATIENCE_S) -> None:
        self._federation = federation
        self._patience_s = patience_s
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=wire.CHANNEL_OPTIONS)
        self._stub = SiteServiceStub(self._channel)  # type: ignore[no-untyped-call]

    @property
    def name(self) -> str:
        """What the server calls the site.

        Raises:
            ServiceError: If the daemon is away.
        """
        return self.describe().site

    def describe(self) -> pb.Description:
        """Ask the daemon who it is and how far its audit log goes.

        Raises:
            ServiceError: If the daemon is away.
        """
        description: pb.Description = self._call(
            lambda: self._stub.Describe(pb.DescribeRequest(), timeout=_ANSWER_S)
        )
        return description

    def schema_digest(self, recipe: str) -> str:
        """Digest the tensors that the site would send.

        Args:
            recipe: The recipe as JSON.

        Raises:
            ServiceError: With the site's word, or because the daemon is away.
        """
        question = pb.SchemaQuestion(federation=self._federation, recipe=recipe)
        answer: pb.SchemaAnswer = self._call(lambda: self._stub.DigestSchema(question, timeout=_ANSWER_S))
        return answer.digest

    def choose_codec(self, wanted: str) -> str:
        """Choose the codec of the site's answers, all names with version.

        Raises:
            ServiceError: With the site's word, or because the daemon is away.
        """
        question = pb.CodecQuestion(federation=self._federation, codec=wanted)
        answer: pb.CodecAnswer = self._call(lambda: self._stub.ChooseCodec(question, timeout=_ANSWER_S))
        return answer.codec

    def answer(self, question: RoundQuestion) -> RoundAnswer:
        """Train for one round; the same question gets the same answer.

        Raises:
            ServiceError: With the site's word, or because the daemon is away.
        """
        message = wire.to_question(question, self._federation)
        # Training takes what it takes: the server's timeout ends a round, not this.
        return wire.from_answer(self._call(lambda: self._stub.Fit(message)))

    def descriptor(self, recipe: str) -> tuple[float, ...]:
        """Describe the scans.

        Args:
            recipe: The recipe as JSON.

        Raises:
            ServiceError: With the site's word, or because the daemon is away.
        """
        question = pb.DescriptorQuestion(federation=self._federation, recipe=recipe)
        answer: pb.Descriptor = self._call(lambda: self._stub.DescribeScans(question, timeout=_ANSWER_S))
        return tuple(answer.values)

    def conclude(self, question: FinalQuestion) -> dict[str, float]:
        """Hand over the model that a run ends with; the same question gets the same answer.

        Raises:
            ServiceError: With the site's word, or because the daemon is away.
        """
        message = wire.to_final_question(question, self._federation)
        answer: pb.FinalAnswer = self._call(lambda: self._stub.Conclude(message))
        return dict(answer.metrics)

    def close(self) -> None:
        """Let go of the socket."""
        self._channel.close()

    def _call(self, call: Callable[[], _T]) -> _T:
        deadline = time.monotonic() + self._patience_s
        while True:
            started = time.monotonic()
            try:
                return call()
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise _as_error(error) from None
                if time.monotonic() - started > 1:  # it was there: its time to come back begins now
                    deadline = time.monotonic() + self._patience_s
                if time.monotonic() >= deadline:
                    message = (
                        "The site's daemon must be running. Nothing answers on its socket; "
                        "start it with 'mediclip client start'."
                    )
                    raise ServiceError(message) from None
            time.sleep(_PAUSE_S)


def _as_error(error: grpc.RpcError) -> ServiceError:
    is_word = error.code() == grpc.StatusCode.FAILED_PRECONDITION and error.details() in SENTENCES
    word = error.details() if is_word else "failed"
    message = f"The site's daemon must be able to answer. It refused ({word}); its log says why."
    return ServiceError(message, code=word)
