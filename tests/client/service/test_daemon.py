"""The daemon as a real process behind a real socket."""

import os
import signal
import socket as sockets
import stat
import subprocess
import sys
import threading
import time

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc

from client.service.audit import read, verify
from client.service.remote import RemoteSite
from client.service.site import Site
from mediclip.errors import MediClipError, ServiceError
from mediclip.protocol import METRIC_NAMES
from tests.kits import FEDERATION, PATIENT, ROOT, WARD, daemon, make_kit
from tests.tiny import SHOTS, fit, largest_difference, tiny_recipe, tiny_request, tiny_schema, tiny_tensors

pytestmark = pytest.mark.slow
LONG = {"local_steps": 200}
FOREIGN = {f"other.{name}": value for name, value in tiny_tensors().items()}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return make_kit(tmp_path_factory.mktemp("kit"), min_images=SHOTS, max_rounds=90)


@pytest.fixture(scope="module")
def _running(kit):
    with daemon(kit) as process:
        yield process


@pytest.fixture
def site(kit, _running):
    site = RemoteSite(kit.socket, FEDERATION)
    yield site
    site.close()


@pytest.fixture(scope="module")
def inside(kit):
    """The same site in this process: what every answer over the socket must equal."""
    return Site.open(kit.site())


def same(first, second):
    return (
        list(first.tensors) == list(second.tensors)
        and largest_difference(first.tensors, second.tensors) == 0
        and (first.examples, first.metrics) == (second.examples, second.metrics)
    )


def test_the_socket_and_the_state_are_for_the_sites_user_alone(kit, site):
    mode = kit.socket.stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600
    assert stat.S_IMODE(kit.state.stat().st_mode) == 0o700
    assert site.name == "site-0"
    assert site.describe().source_digest == kit.settings.app_source_sha256


@pytest.mark.usefixtures("_running")
def test_the_daemon_says_that_it_is_healthy(kit):
    with grpc.insecure_channel(f"unix:{kit.socket}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "mediclip.site.v1.SiteService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_what_comes_over_the_socket_equals_the_site_in_process_bit_for_bit(site, inside):
    assert site.schema_digest(tiny_recipe().model_dump_json()) == tiny_schema().digest()
    for number in (1, 2):
        request = tiny_request(number, proximal_mu=0.1)
        assert same(fit(site, request), inside.fit(request))


@pytest.mark.usefixtures("_running")
@pytest.mark.parametrize(
    ("federation", "change", "word"),
    [
        ("another", {}, "policy-federation"),
        ("", {}, "policy-federation"),
        (FEDERATION, {"number": 91}, "policy-rounds"),
        (FEDERATION, {"tensors": FOREIGN}, "schema"),
        (FEDERATION, {"recipe": "no recipe"}, "settings"),
    ],
)
def test_a_refusal_is_one_word_and_stands_in_the_audit_log(kit, federation, change, word):
    site = RemoteSite(kit.socket, federation)
    with pytest.raises(ServiceError) as caught:
        fit(site, tiny_request(**change))
    assert caught.value.code == word
    assert read(kit.audit)[-1]["code"] == word


@pytest.mark.usefixtures("_running")
def test_a_second_daemon_of_the_same_kit_ends_with_one_sentence(kit):
    second = subprocess.run(
        [sys.executable, "-m", "client.service.daemon", "--kit", str(kit.folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode != 0
    assert "must be used by one daemon" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.usefixtures("_running")
def test_a_clientapp_answers_a_round_and_a_roll_call_over_the_socket_without_torch(kit, inside):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
from client.app import app
digest = {tiny_schema().digest()!r}
config = {{"recipe": {tiny_recipe().model_dump_json()!r}, "schema-digest": digest, "codec": "float32/1"}}
context = Context(1, 2, {{"socket": {str(kit.socket)!r}}}, RecordDict(), {{"federation": {FEDERATION!r}}})
card = app(Message(RecordDict({{"config": ConfigRecord(config)}}), 2, "query.roll_call"), context)
assert dict(card.content["config"])["error"] == "", card.content
from mediclip.config import Recipe
from mediclip.model.trainables import initial_trainables, Schema
from mediclip.exchange.parcel import pack_values
from server.collection import to_records
schema = Schema.from_json({tiny_schema().to_json()!r})
arrays, facts = to_records(pack_values(schema, initial_trainables(schema, 0)))
training = {{"recipe": config["recipe"], "server-round": 1, "seed": 7, "local-steps": 2}}
facts.update({{**training, "answer-codec": "float32/1", "differences-follow": False}})
content = {{"arrays": arrays, "config": facts}}
reply = app(Message(RecordDict(content), 2, "train"), context)
print(sorted(reply.content["metrics"].items()))
assert "torch" not in sys.modules and "open_clip" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = {"num-examples": SHOTS, **inside.fit(tiny_request()).metrics}
    assert done.stdout.strip() == str(sorted(expected.items()))


def test_the_cost_of_a_round_through_the_daemon_is_small(site):
    fit(site, tiny_request(7))
    started = time.monotonic()
    fit(site, tiny_request(7))  # stored: nothing but the socket, the disk and the audit log
    assert time.monotonic() - started < 1


def test_a_killed_daemon_answers_the_same_again_and_its_log_still_holds(tmp_path, inside):
    kit = make_kit(tmp_path)
    site = RemoteSite(kit.socket, FEDERATION)
    with daemon(kit) as process:
        first = fit(site, tiny_request(1))
        process.kill()
        process.wait(10)
    with daemon(kit) as process:  # between rounds
        second = tiny_request(2, tensors=first.tensors)
        assert same(fit(site, tiny_request(1)), first)
        assert same(fit(site, second), inside.fit(second))
        replies = []
        third = tiny_request(3, **LONG)
        asking = threading.Thread(target=lambda: replies.append(fit(site, third)))
        asking.start()
        time.sleep(0.4)
        assert asking.is_alive()
        process.kill()  # during a round
        process.wait(10)
        assert asking.is_alive()  # the ClientApp waits for the daemon to come back
    with daemon(kit):
        asking.join(60)
        assert same(replies[0], inside.fit(third))
    answered = [line for line in read(kit.audit) if line["event"] == "answered"]
    assert [(line["round"], line["is_repeated"]) for line in answered] == [
        (1, False), (1, True), (2, False), (3, False),
    ]  # fmt: skip
    verify(kit.audit)


def test_a_daemon_ends_on_sigterm_and_with_its_starter_and_removes_its_socket(tmp_path):
    kit = make_kit(tmp_path)
    for end in (lambda p: p.send_signal(signal.SIGTERM), lambda p: p.stdin.close()):
        with daemon(kit) as process:
            end(process)
            assert process.wait(15) == 0
            assert not kit.socket.exists()


def test_a_changed_audit_log_keeps_the_daemon_from_starting(tmp_path):
    kit = make_kit(tmp_path)
    kit.make_state()
    kit.audit.write_text('{"line":1}\n')
    done = subprocess.run(
        [sys.executable, "-m", "client.service.daemon", "--kit", str(kit.folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 6
    assert "line 1 does not follow" in done.stderr


def test_a_daemon_that_is_away_is_one_word(tmp_path):
    site = RemoteSite(tmp_path / "none.sock", patience_s=0.3)
    with pytest.raises(MediClipError) as caught:
        fit(site, tiny_request())
    assert caught.value.code == "service"


def test_no_patient_and_no_path_is_in_anything_that_crosses_the_socket_or_is_logged(tmp_path):
    kit = make_kit(tmp_path / "k")
    (broken,) = sorted((kit.folder / WARD / PATIENT / "normal").glob("*-0.png"))
    seen, middle = bytearray(), tmp_path / "tap.sock"
    with daemon(kit), tapped(middle, kit.socket, seen):
        site = RemoteSite(middle, FEDERATION)
        site.describe()
        reply = fit(site, tiny_request())
        assert set(reply.metrics) == set(METRIC_NAMES)
        with pytest.raises(ServiceError):
            fit(site, tiny_request(tensors=FOREIGN))
        site.close()
    broken.write_bytes(b"no image")
    with daemon(kit), tapped(middle, kit.socket, seen):
        site = RemoteSite(middle, FEDERATION)
        with pytest.raises(ServiceError) as caught:
            fit(site, tiny_request(2))
        assert caught.value.code == "image"
        site.close()
    assert len(seen) > 1000
    written = b"".join(p.read_bytes() for p in kit.state.rglob("*") if p.is_file())
    written += (kit.folder / "daemon.log").read_bytes()
    for secret in (PATIENT.encode(), b"JANE", WARD.encode(), os.fsencode(kit.folder)):
        assert secret not in bytes(seen)
        assert secret not in written


class tapped:  # noqa: N801 - a context manager that reads like a verb
    """Stand between client and daemon and keep what the daemon sends."""

    def __init__(self, path, target, seen):
        self._path, self._target, self._seen = path, target, seen

    def __enter__(self):
        self._listening = sockets.socket(sockets.AF_UNIX)
        self._path.unlink(missing_ok=True)
        self._listening.bind(str(self._path))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listening.close()

    def _accept(self):
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = sockets.socket(sockets.AF_UNIX)
            far.connect(str(self._target))
            threading.Thread(target=self._pump, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, self._seen), daemon=True).start()

    def _pump(self, source, sink, seen):
        try:
            while data := source.recv(1 << 16):
                if seen is not None:
                    seen += data
                sink.sendall(data)
        except OSError:
            return
        finally:
            sink.close()
