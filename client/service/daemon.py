"""The daemon that owns a site's scans, model and logs: gRPC on a Unix socket that only its user may open.

    python -m client.service.daemon --kit DIR

It ends when its standard input does, if that is a pipe: whoever started it is gone then.
"""

import argparse
import fcntl
import logging
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from client.kit import Kit
from client.scrub import noted
from client.service import site_service_pb2 as pb, wire
from client.service.account import PrivacyAccount
from client.service.audit import AuditLog
from client.service.door import door, find_user
from client.service.guard import GuardedSite
from client.service.rounds import RoundStore
from client.service.site_service_pb2_grpc import SiteServiceServicer, add_SiteServiceServicer_to_server
from mediclip.errors import FederationError, MediClipError, SettingsError
from mediclip.privacy.ledger import Ledger
from mediclip.protocol import SENTENCES

if TYPE_CHECKING:
    from client.service.roles import Trainer

HEALTH_NAME: Final = "mediclip.site.v1.SiteService"
GRACE_S: Final = 5.0
_THREADS: Final = 8
_log = logging.getLogger("mediclip.client")
_T = TypeVar("_T")


class _Servicer(SiteServiceServicer):
    """Translates the socket's messages for the guarded site, and its errors into words."""

    def __init__(self, site: GuardedSite) -> None:
        self._site = site

    def Describe(self, _: pb.DescribeRequest, context: grpc.ServicerContext) -> pb.Description:  # noqa: N802
        """Name the site."""
        site, end = self._site, self._site.audit_end

        def answer() -> pb.Description:
            return pb.Description(
                site=site.name, source_digest=site.source, audit_lines=end.lines, audit_head=end.sha256
            )

        return _answered(context, answer)

    def DigestSchema(  # noqa: N802
        self, question: pb.SchemaQuestion, context: grpc.ServicerContext
    ) -> pb.SchemaAnswer:
        """Digest the tensors."""

        def answer() -> pb.SchemaAnswer:
            return pb.SchemaAnswer(digest=self._site.schema_digest(question.recipe, question.federation))

        return _answered(context, answer)

    def ChooseCodec(  # noqa: N802
        self, question: pb.CodecQuestion, context: grpc.ServicerContext
    ) -> pb.CodecAnswer:
        """Choose the codec."""

        def answer() -> pb.CodecAnswer:
            return pb.CodecAnswer(codec=self._site.choose_codec(question.codec, question.federation))

        return _answered(context, answer)

    def Fit(self, question: pb.FitQuestion, context: grpc.ServicerContext) -> pb.FitAnswer:  # noqa: N802
        """Train for one round."""

        def answer() -> pb.FitAnswer:
            found = self._site.answer(wire.from_question(question), question.federation)
            return wire.to_answer(found)

        return _answered(context, answer)

    def DescribeScans(  # noqa: N802
        self, question: pb.DescriptorQuestion, context: grpc.ServicerContext
    ) -> pb.Descriptor:
        """Describe the scans."""

        def answer() -> pb.Descriptor:
            return pb.Descriptor(values=self._site.descriptor(question.recipe, question.federation))

        return _answered(context, answer)

    def Conclude(self, question: pb.FinalQuestion, context: grpc.ServicerContext) -> pb.FinalAnswer:  # noqa: N802
        """Take in the model that a run ends with."""

        def answer() -> pb.FinalAnswer:
            asked = wire.from_final_question(question)
            return pb.FinalAnswer(metrics=self._site.conclude(asked, question.last.federation))

        return _answered(context, answer)


def _answered(context: grpc.ServicerContext, answer: Callable[[], _T]) -> _T:
    try:
        return answer()
    except Exception as error:  # noqa: BLE001 - whatever a site raises, its text must not leave the daemon
        word = error.code if isinstance(error, MediClipError) else noted(error, _log)
    return _refuse(context, word if word in SENTENCES else MediClipError.code)


def _refuse(context: grpc.ServicerContext, word: str) -> NoReturn:
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, word)
    raise AssertionError  # abort raises


@contextmanager
def serving(site: GuardedSite, socket: Path) -> Iterator[None]:
    """Serve a site on a Unix socket with mode 0600 until the block ends.

    Args:
        site: The site.
        socket: Path of the socket; a dead daemon's is replaced.

    Raises:
        FederationError: If the socket cannot be made.
    """
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=wire.CHANNEL_OPTIONS)
    add_SiteServiceServicer_to_server(_Servicer(site), server)  # type: ignore[no-untyped-call]
    state = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(state, server)
    _bind(server, socket)
    server.start()
    for name in ("", HEALTH_NAME):
        state.set(name, health_pb2.HealthCheckResponse.SERVING)
    try:
        yield
    finally:
        state.enter_graceful_shutdown()
        server.stop(GRACE_S).wait()
        socket.unlink(missing_ok=True)


def _bind(server: Any, socket: Path) -> None:  # noqa: ANN401 - gRPC is not typed
    before = os.umask(0o177)  # from the first moment on, not after a chmod
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        message = (
            "The daemon must be able to make its socket in the kit's state folder. It cannot; "
            "check who owns that folder."
        )
        raise FederationError(message) from error
    finally:
        os.umask(before)
    mode = stat.S_IMODE(socket.stat().st_mode)
    if mode != 0o600:
        message = f"The daemon's socket must have mode 600. It has {mode:o}; use a local file system."
        raise FederationError(message)


@contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Hold the kit's state for this process alone; the lock goes with the process, however it ends."""
    with (state / "daemon.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = "A kit must be used by one daemon. Another runs with this one; stop that first."
            raise FederationError(message) from error
        yield


def run(kit: Kit, stop: threading.Event, *, site: "Trainer | None" = None) -> None:
    """Serve a kit's site until told to stop.

    Args:
        kit: The kit.
        stop: Set it to end.
        site: What trains; the site that the kit's settings describe when omitted.

    Raises:
        MediClipError: If the kit cannot be used, its audit log was changed, or another daemon runs.
    """
    with _alone(kit.make_state()):
        audit = AuditLog(kit.audit)
        account = PrivacyAccount(kit.site().privacy, Ledger(kit.ledger))
        guarded = GuardedSite(
            site or _open(kit),
            kit.policy(),
            RoundStore(kit.rounds),
            audit,
            account=account,
            models=kit.models,
        )
        user = kit.site().clientapp_user
        with ExitStack() as stack:
            stack.enter_context(serving(guarded, kit.own_socket))
            if user is not None:
                stack.enter_context(door(kit.socket, kit.own_socket, find_user(user)))
            audit_end = guarded.audit_end
            _log.info("Serving %s; the audit log has %d lines", guarded.name, audit_end.lines)
            stop.wait()
            _log.info("Stopping %s", guarded.name)


def _open(kit: Kit) -> "Trainer":
    import torch  # noqa: PLC0415 - seconds that a kit with a fault need not wait

    from client.service.site import Site  # noqa: PLC0415
    from mediclip.data.array_cache import ArrayCache  # noqa: PLC0415

    settings = kit.site()
    if settings.backbone_sha256 is None:
        message = (
            "A site's backbone must be pinned by its SHA-256, so that no other can be put in its place. "
            "site.toml does not; add the line that 'mediclip client check' prints."
        )
        raise SettingsError(message)
    torch.set_num_threads(settings.threads)
    return Site.open(settings, cache=ArrayCache(kit.make_state() / "squares"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the daemon until SIGTERM, SIGINT or the end of its starter."""
    parser = argparse.ArgumentParser(description="The daemon of one site.")
    parser.add_argument("--kit", type=Path, required=True, metavar="DIR")
    kit_folder = parser.parse_args(arguments).kit
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if stat.S_ISFIFO(os.fstat(sys.stdin.fileno()).st_mode):
        threading.Thread(target=_follow, args=(stop,), daemon=True).start()
    try:
        run(Kit(kit_folder), stop)
    except MediClipError as error:
        _log.error("%s", error)
        raise SystemExit(error.exit_code) from None
    logging.shutdown()
    os._exit(0)  # a round in work is not waited for: it is asked again and gives the same answer


def _follow(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    stop.set()


if __name__ == "__main__":
    main()
