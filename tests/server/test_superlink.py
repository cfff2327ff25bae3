"""What leans on Flower's internals, held to the real thing: routes, guard, and what a stranger can do."""

import asyncio
import http.client
import importlib
import inspect
import os
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from fastapi.routing import iter_route_contexts
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import bytes_to_public_key
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec import run_superexec

from mediclip import bundle
from mediclip.errors import FederationError
from server.authority import make_node_key
from server.federation import load_federation
from server.flower_processes import FlowerHome, free_port, script, stop_group, wait_until_listening
from server.guards import SECRET_HEADER, control_token, fleet_only
from server.programs import superlink_command
from server.provision import provision
from server.superlink import DATABASE, SUPERLINK_PROGRAM, ControlApi, key_bytes

# Every path that the public port offers. A version of Flower that adds one must be looked at first.
PUBLIC = {"/health"} | {
    f"/v1/fleet/{name}"
    for name in (
        "activate-node",
        "confirm-message-received",
        "deactivate-node",
        "get-fab",
        "get-run",
        "pull-messages",
        "pull-object",
        "push-messages",
        "push-object",
        "register-node",
        "send-node-heartbeat",
        "unregister-node",
    )
}
# What a stranger would like to do: list runs and nodes, register, submit code, take a task.
COVETED = {
    "/v1/control/list-nodes",
    "/v1/control/list-runs",
    "/v1/control/register-node",
    "/v1/control/start-run",
    "/v1/control/stop-run",
    "/v1/runtime/acquire-task",
    "/v1/runtime/pull-messages",
    "/v1/runtime/push-messages",
}


NOBODY = 65534
SECRET = b"known to the coordinator alone"


def paths_of_flower():
    factory = importlib.import_module("flwr.superlink.main")
    return {context.path for context in iter_route_contexts(factory.create_app().routes)}


def test_flower_still_has_the_names_that_are_leaned_on():
    program = importlib.import_module(SUPERLINK_PROGRAM)
    assert callable(program._parse_superlink_lifespan_config)
    fields = program.SuperLinkLifespanConfig.__dataclass_fields__
    assert {"host", "port", "ssl_keyfile", "ssl_certfile"} <= set(fields)


def test_flowers_database_takes_the_pragma_that_is_added():
    database = importlib.import_module(DATABASE)
    assert {len(pragma) for pragma in database.SQLITE_PRAGMAS} == {2}
    assert 'cursor.execute(f"PRAGMA {pragma} = {value};")' in inspect.getsource(database)


def test_flowers_paths_are_those_that_were_looked_at():
    paths = paths_of_flower()
    assert {p for p in paths if p.startswith("/v1/fleet/") or p == "/health"} == PUBLIC
    assert paths >= COVETED


def passes(kind, path):
    """Say whether the guard lets a request through, and the status if not."""
    reached, sent = [], []

    async def application(scope, _receive, _send):
        reached.append(scope["path"])

    async def send(message):
        sent.append(message.get("status", message["type"]))

    asyncio.run(fleet_only(application)({"type": kind, "path": path}, None, send))
    return bool(reached), sent[:1]


@pytest.mark.parametrize("path", sorted(PUBLIC))
def test_the_guard_lets_a_sites_requests_through(path):
    assert passes("http", path) == (True, [])


@pytest.mark.parametrize(
    "path",
    [
        *sorted(COVETED),
        "",
        "/",
        "/docs",
        "/v1/fleet",
        "/v1/fleets/x",
        "//v1/fleet/x",
        "/V1/fleet/x",
        "/health/",
    ],
)
def test_the_guard_answers_404_to_all_else(path):
    assert passes("http", path) == (False, [404])


def test_the_guard_closes_web_sockets_and_passes_on_no_lifespan():
    assert passes("websocket", "/v1/fleet/x") == (False, ["websocket.close"])
    assert passes("lifespan", "/v1/fleet/x") == (False, [])


def test_a_public_key_is_stored_as_flower_stores_it():
    private, public = make_node_key()
    key = serialization.load_ssh_private_key(private, password=None)
    assert bytes_to_public_key(key_bytes(public)) == key.public_key()


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    """A SuperLink with both listeners, and a home for each: the coordinator's and a stranger's."""
    folder = tmp_path_factory.mktemp("link")
    settings = federation_settings(folder)
    kits = provision(settings, folder / "kits").kits
    with superlink(folder, kits, settings.listener[1]) as (private, process):
        homes = {
            name: FlowerHome.open(folder / name, name, f"127.0.0.1:{port}", certificate=kits.authority)
            for name, port in (("inside", private), ("outside", settings.listener[1]))
        }
        yield kits, settings.listener[1], private, homes, process


def federation_settings(folder):
    text = (
        f'name = "guarded"\naddress = "127.0.0.1:{free_port()}"\nsites = ["north"]\n'
        "min_sites = 1\ntaps = [1]\n"
        '[backbone]\nspec = "embedded"\nwidth = 1\nembed_dim = 1\ntext_width = 1\n'
    )
    (folder / "federation.toml").write_text(text)
    return load_federation(folder / "federation.toml")[0]


@contextmanager
def superlink(folder, kits, public):
    port = free_port()
    (folder / "secret").write_bytes(SECRET)
    home = FlowerHome.open(folder / "flower", "link", f"127.0.0.1:{port}", certificate=kits.authority)
    process = home.start(
        "flower-superlink",
        *superlink_command(
            kits,
            ("127.0.0.1", public),
            port,
            database=folder / "state.db",
            log=folder / "superlink.log",
            secret=folder / "secret",
        ),
    )
    try:
        wait_until_listening(process, port)
        wait_until_listening(process, public)
        yield port, process
    finally:
        stop_group(process)


def post(kits, port, path, body=b"", kind="application/protobuf", headers=()):
    """Post to a path exactly as written and give the answer's status."""
    trust = ssl.create_default_context(cafile=kits.authority)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=trust)
    try:
        connection.request("POST", path, body, {"content-type": kind, "accept": kind, **dict(headers)})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.slow
def test_from_the_public_port_no_path_but_the_sites_own_is_there(deployed):
    kits, public, private, _, _ = deployed
    closed = paths_of_flower() - PUBLIC
    assert {path: post(kits, public, path) for path in closed} == dict.fromkeys(closed, 404)
    known = {SECRET_HEADER: control_token(SECRET)}
    there = {post(kits, private, path, kind="text/plain", headers=known) for path in COVETED}
    assert there == {415}  # from inside: the paths are there, and refuse what is no message


@pytest.mark.slow
def test_on_loopback_nothing_is_there_for_whoever_has_not_the_secret(deployed):
    kits, _, private, _, _ = deployed
    rest = sorted(paths_of_flower() - {"/health"})
    for headers in ({}, {SECRET_HEADER: control_token(b"a guess")}, {SECRET_HEADER: SECRET.hex()}):
        answers = {path: post(kits, private, path, headers=headers) for path in rest}
        assert {path: s for path, s in answers.items() if s not in {401, 403, 405, 422}} == {}
        control = {status for path, status in answers.items() if not path.startswith("/v1/runtime/")}
        assert control == {403}


@pytest.mark.slow
@pytest.mark.parametrize("secret", [b"a guess", None])
def test_on_loopback_no_task_is_given_to_a_superexec_without_the_secret(deployed, secret):
    kits, _, private, _, _ = deployed
    assert acquire_task(kits, private, SECRET) is None  # there is none to take, but it may ask
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        acquire_task(kits, private, secret)


def acquire_task(kits, port, secret):
    """Ask for a task as SuperExec does, and give its token."""
    methods = run_superexec._SUPEREXEC_AUTH_METHODS
    signed = SuperExecAuthHttpInterceptor(master_secret=secret or b"x", protected_methods=methods)
    client = RuntimeHttpClient.from_server_address(
        server_address=f"127.0.0.1:{port}",
        insecure=False,
        root_certificates=kits.authority.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            *([signed] if secret else []),
        ],
    )
    try:
        return client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-serverapp"])).token or None
    finally:
        client.close()


@pytest.mark.slow
def test_a_wrong_secret_opens_no_control_api(deployed):
    kits, _, private, _, _ = deployed
    api = ControlApi(f"127.0.0.1:{private}", kits.authority, b"a guess")
    for ask in (api.nodes, api.unfinished_runs, lambda: api.start_run(bundle.application_root(), {})):
        with pytest.raises(FederationError, match="must answer"):
            ask()
    api.close()


ASK_HEALTH = """
import http.client, ssl, sys
trust = ssl._create_unverified_context()
connection = http.client.HTTPSConnection("127.0.0.1", int(sys.argv[1]), context=trust)
connection.request("GET", "/health")
print(connection.getresponse().status)
"""


@pytest.mark.slow
def test_on_loopback_another_user_of_the_machine_is_not_even_greeted(deployed):
    _, public, private, _, _ = deployed

    def health(port, **user):
        return subprocess.run(
            ["/usr/bin/env", "python3", "-I", "-c", ASK_HEALTH, str(port)],
            capture_output=True, text=True, timeout=30, cwd="/", check=False, **user,
        )  # fmt: skip

    assert health(private).stdout == "200\n"
    if (
        os.geteuid() == 0
    ):  # whoever else runs the tests cannot be another; tests/server/test_ports.py has that
        assert health(public, user=NOBODY).stdout == "200\n"
        refused = health(private, user=NOBODY)
        assert (refused.stdout, refused.returncode) == ("", 1)
        assert "Error" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["application/protobuf", "application/json", "text/plain"])
def test_from_the_public_port_a_sites_paths_refuse_whoever_has_no_key(deployed, kind):
    kits, public, _, _, _ = deployed
    answers = {path: post(kits, public, path, kind=kind) for path in PUBLIC - {"/health"}}
    assert {status for status in answers.values() if not 400 <= status < 500} == set(), answers


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "/v1/fleet/../control/list-runs",
        "/v1/fleet/%2e%2e/control/list-runs",
        "/v1/fleet/..%2fcontrol/list-runs",
        "/v1/fleet//v1/control/list-runs",
    ],
)
def test_from_the_public_port_no_detour_leads_inside(deployed, path):
    kits, public, _, _, _ = deployed
    assert post(kits, public, path) == 404


@pytest.mark.slow
def test_flowers_own_commands_fail_from_the_public_port_and_on_loopback(deployed):
    kits, _, _, homes, _ = deployed
    key = str(kits.folder / "north" / "node_key.pub")
    assert homes["outside"].ask("ls", "outside") == {}
    assert homes["outside"].ask("supernode", "register", key, "outside") == {}
    assert homes["outside"].ask("run", str(homes["outside"].root), "outside") == {}
    assert "404" in (homes["outside"].folder / "flwr.log").read_text()
    assert homes["inside"].ask("ls", "inside") == {}  # not without the secret, which they cannot give
    assert "403" in (homes["inside"].folder / "flwr.log").read_text()


@pytest.mark.slow
def test_a_stranger_with_a_key_of_its_own_does_not_get_in(deployed, tmp_path):
    kits, public, _, homes, _ = deployed
    private, _ = make_node_key()
    (tmp_path / "key").write_bytes(private)
    process = homes["outside"].start(
        "flower-supernode",
        script("flower-supernode"),
        *("--superlink", f"127.0.0.1:{public}", "--root-certificates", str(kits.authority)),
        *("--auth-supernode-private-key", str(tmp_path / "key")),
        *("--host", "127.0.0.1", "--port", str(free_port())),
    )
    try:
        assert process.wait(60) != 0
    finally:
        stop_group(process)
    assert "[code: 2004]" in (homes["outside"].folder / "flower-supernode.out").read_text()


@pytest.mark.slow
def test_the_control_api_keeps_the_list_of_nodes(deployed):
    kits, _, private, _, _ = deployed
    api = ControlApi(f"127.0.0.1:{private}", kits.authority, SECRET)
    try:
        before = {node.key for node in api.nodes()}
        key = key_bytes(make_node_key()[1])
        api.register(key, "east")
        (node,) = [node for node in api.nodes() if node.key == key]
        assert not node.online
        with pytest.raises(FederationError, match="must answer RegisterNode"):
            api.register(key, "east")
        api.unregister(node.number)
        assert {node.key for node in api.nodes()} == before
        assert api.unfinished_runs() == []
        with pytest.raises(FederationError, match="must answer ListRuns"):
            api.run_status(1)
    finally:
        api.close()


@pytest.mark.slow
def test_a_superlink_ends_with_its_coordinator(tmp_path):
    settings = federation_settings(tmp_path)
    kits = provision(settings, tmp_path / "kits").kits
    coordinator = subprocess.Popen(["sleep", "60"])
    home = FlowerHome.open(tmp_path / "flower", "link", "127.0.0.1:1", certificate=kits.authority)
    process = home.start(
        "flower-superlink",
        *(sys.executable, "-m", "server.superlink", "--public", "127.0.0.1:1"),
        *("--parent-pid", str(coordinator.pid), "--secret", os.devnull, "--insecure"),
    )
    threading.Timer(0.1, coordinator.kill).start()
    coordinator.wait(10)
    try:
        process.wait(20)
    finally:
        stop_group(process)
    assert process.returncode != 0
