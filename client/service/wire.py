"""Between the site's plain values and the messages of ``site_service.proto``."""

from client.service import site_service_pb2 as pb
from client.service.fit import FitReply, FitRequest
from mediclip.model.trainables import TensorSpec, Trainables
from mediclip.protocol import decode_tensor, encode_tensor

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 2**30),
    ("grpc.max_send_message_length", 2**30),
    ("grpc.enable_http_proxy", 0),
)
"""For both ends: room for a large backbone's tensors, and no proxy on the way to a socket."""


def to_question(request: FitRequest, federation: str) -> pb.FitQuestion:
    """Write a request."""
    return pb.FitQuestion(
        federation=federation,
        number=request.number,
        tensors=_to_tensors(request.tensors),
        seed=request.seed,
        recipe=request.recipe,
        local_steps=request.local_steps,
        proximal_mu=request.proximal_mu,
        schema_digest=request.schema_digest,
    )


def from_question(question: pb.FitQuestion) -> FitRequest:
    """Read a request.

    Raises:
        SchemaError: If a tensor is none.
    """
    return FitRequest(
        number=question.number,
        tensors=_from_tensors(question.tensors),
        seed=question.seed,
        recipe=question.recipe,
        local_steps=question.local_steps,
        proximal_mu=question.proximal_mu,
        schema_digest=question.schema_digest,
    )


def to_answer(reply: FitReply) -> pb.FitAnswer:
    """Write a reply."""
    return pb.FitAnswer(
        tensors=_to_tensors(reply.tensors), examples=reply.examples, metrics=dict(reply.metrics)
    )


def from_answer(answer: pb.FitAnswer) -> FitReply:
    """Read a reply.

    Raises:
        SchemaError: If a tensor is none.
    """
    return FitReply(_from_tensors(answer.tensors), answer.examples, dict(answer.metrics))


def _to_tensors(values: Trainables) -> list[pb.Tensor]:
    return [pb.Tensor(name=n, shape=v.shape, data=encode_tensor(v)) for n, v in values.items()]


def _from_tensors(tensors: "list[pb.Tensor]") -> Trainables:
    # A copy, because what is read in place cannot be written and torch objects to that.
    return {t.name: decode_tensor(TensorSpec(t.name, tuple(t.shape)), t.data).copy() for t in tensors}
