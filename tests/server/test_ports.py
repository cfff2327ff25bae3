"""The public port under strangers: real sockets, TLS, and an application that would take whatever comes."""

import asyncio
import http.client
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

import pytest
import uvicorn

from server.authority import make_authority, make_server_certificate, now_utc
from server.bounds import Bounded, Bounds, Refusals
from server.flower_processes import free_port
from server.ports import Patience, Port, _owner_of, is_own_user

QUICK = Patience(connections=6, per_host=4, handshake_s=0.5, quiet_s=0.5)
SMALL = Bounds(
    stranger_bytes=1000,
    site_bytes=100_000,
    bodies=2,
    grace_s=0.5,
    slowest=1e6,
    refusals=5,
    refusals_per_s=0.0,
)
SIGNED = {"x-signed": "yes"}


class Echo:
    """Answers with the length of the body, and remembers the lengths."""

    def __init__(self):
        self.lengths = []

    async def __call__(self, scope, receive, send):
        message = await receive()
        assert not message["more_body"]
        self.lengths.append(len(message["body"]))
        if scope["path"] == "/slow":
            await asyncio.sleep(2.0)
        status = 401 if scope["path"] == "/refused" else 200
        body = str(len(message["body"])).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def has_signed(scope):
    return (b"x-signed", b"yes") in scope["headers"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority = make_authority("ports", now_utc())
    pem, key = make_server_certificate(authority, "localhost", now_utc(), 1)
    (folder / "ca.crt").write_bytes(authority[0])
    (folder / "server.crt").write_bytes(pem)
    (folder / "server.key").write_bytes(key)
    return folder


@contextmanager
def listening(certificate, patience=QUICK, bounds=SMALL, admits=None):
    """Run a guarded server in a thread; gives the port and the application."""
    echo, number = Echo(), free_port()

    async def serve():
        application = Bounded(echo, has_signed, bounds, Refusals(bounds))
        server = uvicorn.Server(
            uvicorn.Config(
                application, lifespan="off", log_level="critical", ws="none",
                ssl_keyfile=certificate / "server.key", ssl_certfile=certificate / "server.crt",
            )
        )  # fmt: skip
        serving = asyncio.create_task(server.serve(sockets=[]))
        while not server.started:
            await asyncio.sleep(0.01)
        port = Port(server, ("127.0.0.1", number), patience, admits)
        accepting = asyncio.create_task(port.serve())
        ready.set()
        await asyncio.get_running_loop().run_in_executor(None, stop.wait)
        accepting.cancel()
        server.should_exit = server.force_exit = True
        await asyncio.gather(serving, accepting, return_exceptions=True)

    ready, stop = threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield number, echo
    finally:
        stop.set()
        thread.join(20)


def trust(certificate):
    return ssl.create_default_context(cafile=certificate / "ca.crt")


def post(certificate, port, body=b"", path="/", **headers):
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust(certificate))
    try:
        connection.request("POST", path, body, headers)
        return connection.getresponse().status
    finally:
        connection.close()


def is_closed(connection, within_s=5.0):
    """Say whether the other side closes a connection that is only listened to."""
    connection.settimeout(within_s)
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_bodies_up_to_the_bound_pass_whole(certificate):
    with listening(certificate) as (port, echo):
        assert post(certificate, port, b"x" * 1000) == 200
        assert post(certificate, port, b"x" * 100_000, **SIGNED) == 200
    assert echo.lengths == [1000, 100_000]


@pytest.mark.parametrize(
    ("length", "headers"),
    [(1001, {}), (10**9, {}), (100_001, SIGNED), (10**15, SIGNED)],
    ids=["stranger", "gigabyte", "site", "petabyte"],
)
def test_a_body_that_says_it_is_too_long_is_refused_before_it_comes(certificate, length, headers):
    with listening(certificate) as (port, echo):
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust(certificate))
        connection.putrequest("POST", "/")
        for name, value in {"content-length": str(length), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()
    assert echo.lengths == []


def test_a_body_of_unknown_length_is_cut_where_a_sites_must_end_and_a_strangers_not_begun(certificate):
    def chunks():
        for _ in range(200):
            yield b"x" * 1000

    with listening(certificate) as (port, echo):
        assert send_chunks(certificate, port, chunks(), SIGNED) == 413
        assert send_chunks(certificate, port, chunks(), {}) == 413
    assert echo.lengths == []


def send_chunks(certificate, port, chunks, headers):
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust(certificate))
    with suppress(OSError):  # the answer came before all was sent
        connection.request("POST", "/", chunks, headers, encode_chunked=True)
    try:
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 413  # closed on whoever goes on sending
    finally:
        connection.close()


@pytest.mark.parametrize(
    "sent", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n\r\n"], ids=["nothing", "a bit", "plain"]
)
def test_a_handshake_that_does_not_come_is_not_waited_for(certificate, sent):
    with listening(certificate) as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(sent)
        assert is_closed(connection)
        assert post(certificate, port) == 200


@pytest.mark.parametrize("head", [b"", b"POST / HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a head"])
def test_a_request_that_does_not_come_is_not_waited_for(certificate, head):
    with listening(certificate) as (port, echo):
        plain = socket.create_connection(("127.0.0.1", port))
        with trust(certificate).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(head)
            assert is_closed(connection)
    assert echo.lengths == []


def test_a_head_that_drips_is_cut_off_though_it_never_pauses(certificate):
    with listening(certificate) as (port, _):
        plain = socket.create_connection(("127.0.0.1", port))
        with trust(certificate).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(b"POST / HTTP/1.1\r\n")
            with pytest.raises(OSError):  # noqa: PT011 - whichever the system has
                drip(connection)


def drip(connection):
    for _ in range(200):
        connection.sendall(b"x-drip: 1\r\n")
        time.sleep(0.05)


def test_a_body_that_drips_is_refused_in_time(certificate):
    with listening(certificate) as (port, echo):
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust(certificate))
        connection.putrequest("POST", "/")
        connection.putheader("content-length", "900")
        connection.endheaders()
        connection.send(b"x")
        assert connection.getresponse().status == 408
        connection.close()
    assert echo.lengths == []


def test_a_request_may_take_its_time_and_a_connection_serves_many(certificate):
    with listening(certificate, Patience(quiet_s=1.0)) as (port, echo):
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust(certificate))
        for path in ("/slow", "/", "/", "/slow"):
            connection.request("POST", path, b"x")
            assert connection.getresponse().read() == b"1"
            time.sleep(0.4)
        assert len(echo.lengths) == 4
        assert is_closed(connection.sock)
        connection.close()


def test_an_overlong_head_is_refused(certificate):
    with listening(certificate) as (port, echo):
        plain = socket.create_connection(("127.0.0.1", port))
        with trust(certificate).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            with suppress(OSError):  # it may be closed before all is sent
                connection.sendall(b"POST / HTTP/1.1\r\nx-long: " + b"x" * 200_000)
            assert is_closed(connection)
    assert echo.lengths == []


def test_one_address_holds_no_more_than_its_share_and_gets_it_back(certificate):
    patience = Patience(connections=6, per_host=4, handshake_s=30.0, quiet_s=30.0)
    with listening(certificate, patience) as (port, _):
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
        with pytest.raises(OSError):  # noqa: PT011
            post(certificate, port)
        others = [
            socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0)) for _ in range(2)
        ]
        third = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.3", 0))
        assert is_closed(third)  # all places are taken
        for connection in (*held, *others, third):
            connection.close()
        deadline = time.monotonic() + 10
        while True:
            try:
                assert post(certificate, port) == 200
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


def test_a_host_that_is_refused_too_often_is_not_listened_to(certificate):
    with listening(certificate) as (port, echo):
        for _ in range(SMALL.refusals):
            assert post(certificate, port, path="/refused") == 401
        before = len(echo.lengths)
        assert post(certificate, port) == 429
        assert len(echo.lengths) == before


def test_what_was_refused_is_forgotten_steadily():
    now = [0.0]
    refusals = Refusals(Bounds(refusals=3, refusals_per_s=0.5), lambda: now[0])
    for _ in range(3):
        refusals.add("a")
    assert (refusals.is_out("a"), refusals.is_out("b")) == (True, False)
    now[0] = 2.0
    assert refusals.count("a") == 2.0
    assert not refusals.is_out("a")
    now[0] = 100.0
    assert refusals.count("a") == 0.0


def test_a_connection_of_this_user_is_known_as_such_and_others_are_told_apart(certificate):
    seen = []

    def admits(peer, own):
        seen.append((is_own_user(peer, own), _owner_of(peer, own), _owner_of(("127.0.0.1", 1), own)))
        return len(seen) == 1

    with listening(certificate, admits=admits) as (port, _):
        assert post(certificate, port) == 200
        with pytest.raises(OSError):  # noqa: PT011
            post(certificate, port)
    assert all(is_own and nobody is None for is_own, _, nobody in seen)
