"""Between the site's plain values and the messages of ``site_service.proto``."""

from client.service import site_service_pb2 as pb
from client.service.fit import FinalQuestion, RoundAnswer, RoundQuestion
from mediclip.exchange.parcel import Parcel
from mediclip.model.trainables import Schema, TensorSpec

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 2**30),
    ("grpc.max_send_message_length", 2**30),
    ("grpc.enable_http_proxy", 0),
)
"""For both ends: room for a large backbone's tensors, and no proxy on the way to a socket."""


def to_question(question: RoundQuestion, federation: str) -> pb.FitQuestion:
    """Write a round's work."""
    return pb.FitQuestion(
        federation=federation,
        number=question.number,
        parcel=_to_parcel(question.parcel),
        seed=question.seed,
        recipe=question.recipe,
        local_steps=question.local_steps,
        proximal_mu=question.proximal_mu,
        answer_codec=question.answer_codec,
        differences_follow=question.differences_follow,
    )


def from_question(question: pb.FitQuestion) -> RoundQuestion:
    """Read a round's work.

    Raises:
        SchemaError: If the tensors are not those of the schema that they name.
    """
    return RoundQuestion(
        number=question.number,
        parcel=_from_parcel(question.parcel),
        seed=question.seed,
        recipe=question.recipe,
        local_steps=question.local_steps,
        proximal_mu=question.proximal_mu,
        answer_codec=question.answer_codec,
        differences_follow=question.differences_follow,
    )


def to_final_question(question: FinalQuestion, federation: str) -> pb.FinalQuestion:
    """Write the end of a run."""
    return pb.FinalQuestion(
        last=to_question(question.last, federation), origin=question.origin, safeguard=question.safeguard
    )


def from_final_question(question: pb.FinalQuestion) -> FinalQuestion:
    """Read the end of a run.

    Raises:
        SchemaError: If the tensors are not those of the schema that they name.
    """
    return FinalQuestion(from_question(question.last), question.origin, question.safeguard)


def to_answer(answer: RoundAnswer) -> pb.FitAnswer:
    """Write an answer."""
    return pb.FitAnswer(
        parcel=_to_parcel(answer.parcel), examples=answer.examples, metrics=dict(answer.metrics)
    )


def from_answer(answer: pb.FitAnswer) -> RoundAnswer:
    """Read an answer.

    Raises:
        SchemaError: If the tensors are not those of the schema that they name.
    """
    return RoundAnswer(_from_parcel(answer.parcel), answer.examples, dict(answer.metrics))


def _to_parcel(parcel: Parcel) -> pb.Parcel:
    specs = parcel.schema.tensors
    return pb.Parcel(
        codec=parcel.codec,
        schema_digest=parcel.schema.digest(),
        base=parcel.base,
        tensors=[pb.Tensor(name=s.name, shape=s.shape, data=parcel.tensors[s.name]) for s in specs],
    )


def _from_parcel(parcel: pb.Parcel) -> Parcel:
    schema = Schema(tuple(TensorSpec(t.name, tuple(t.shape)) for t in parcel.tensors))
    tensors = {t.name: t.data for t in parcel.tensors}
    return Parcel.of(parcel.codec, parcel.schema_digest, parcel.base, schema, tensors)
