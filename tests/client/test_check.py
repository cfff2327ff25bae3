import http.server
import json
import math
import os
import shutil
import ssl
import threading
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from client.check import Preflight
from client.flower import probe_key
from client.service.audit import AuditLog
from client.supervise import STATUS_FILE
from mediclip.cli.main import main
from mediclip.config import load_recipe
from mediclip.model.backbone_loading import load_backbone
from mediclip.privacy.accounting import Mechanism, epsilon
from tests.kits import PATIENT, WARD, make_kit
from tests.superlink import coordinator, free_port, write_certificates, write_key
from tests.tiny import SHOTS

pytestmark = pytest.mark.slow

ALL = ["kit", "code", "disk", "dns", "tls", "clock", "key", "data", "gpu", "backbone", "privacy", "dry run"]
PIN = load_backbone("embedded", image_size=load_recipe("default").image_size).sha256


@pytest.fixture(scope="module")
def link(tmp_path_factory):
    with coordinator(tmp_path_factory.mktemp("link")) as running:
        yield running


@pytest.fixture(scope="module")
def known_key(link, tmp_path_factory):
    """A registered key, which every test's kit may use: a check changes nothing at the coordinator."""
    kit = make_kit(tmp_path_factory.mktemp("registered"))
    link.register(kit)
    return kit.folder


@pytest.fixture
def kit(link, known_key, tmp_path):
    kit = make_kit(tmp_path, superlink=link.superlink, backbone_sha256=PIN)
    for name in ("node_key", "node_key.pub"):
        shutil.copy2(known_key / name, kit.folder / name)
    shutil.copy2(link.folder / "ca.crt", kit.certificate)
    return kit


def check_until(kit, name):
    """Try things in turn up to one of them."""
    found = {}
    for finding in Preflight(kit.folder).findings():
        found[finding.name] = finding
        if finding.name == name:
            break
    return found


def set_in(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_kit_in_order_has_no_fault_and_shows_exactly_what_would_leave(kit, link, capsys):
    before = link.nodes()
    main_exits(["client", "check", "--kit", str(kit.folder)], 0)
    shown = capsys.readouterr().out
    for name in ("adapter.5.weight", "prompt.abnormal.end", "number of images", "val_loss", "train_loss"):
        assert name in shown
    preflight = Preflight(kit.folder)
    assert [(f.name, f.is_good) for f in preflight.findings()] == [(name, True) for name in ALL]
    assert preflight.dry_run.reply.examples == SHOTS
    assert list(preflight.dry_run.reply.metrics) == ["val_loss", "val_pixel_auroc", "train_loss"]
    assert link.nodes() == before
    assert not kit.state.exists()


NOISE = """
[privacy]
mode = "image"
clip = 0.1
noise_multiplier = 8.0
budget = 9.0
rounds = 10
local_steps = 40
"""


def test_a_check_shows_what_noise_costs_and_that_no_number_leaves(kit, capsys):
    set_in(kit.folder / "site.toml", kit.folder.joinpath("site.toml").read_text().split("[privacy]")[1], "")
    set_in(kit.folder / "site.toml", "\n[privacy]", NOISE)
    preflight = Preflight(kit.folder)
    found = {f.name: f for f in preflight.findings()}
    assert all(f.is_good for f in found.values())
    text = found["privacy"].text
    for words in (
        "10 rounds of 40 steps: ε = 13.2 at δ = 1e-05 for one image (z = 8)",
        "ε = 0 of 9 is spent",
    ):
        assert words in text
    values = preflight.promise.as_values()
    assert values["planned"]["epsilon"] == pytest.approx(epsilon([Mechanism(8.0, 1.0, 400)], 1e-5))
    assert values["noise_to_signal"] == pytest.approx(math.sqrt(values["noised_values"]) * 8 / SHOTS)
    assert preflight.dry_run.reply.metrics == {}
    assert "a constant in place of the number of images and 0 other numbers" in found["dry run"].text
    main_exits(["client", "check", "--kit", str(kit.folder), "--json"], 0)
    assert json.loads(capsys.readouterr().out)["privacy"]["budget"] == 9.0
    assert not kit.state.exists()


def main_exits(arguments, code):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code


FAULTS = {
    "no certificate": ("kit", lambda k: k.certificate.unlink(), "hold ca.crt, but it does not"),
    "open key": ("kit", lambda k: k.key.chmod(0o644), "its mode is 644; run 'chmod 600 node_key'"),
    "expired": (
        "kit",
        lambda k: set_in(k.folder / "kit.toml", "2100-01-01", "2020-01-01"),
        "This one expired on 2020-01-01; ask the coordinator",
    ),
    "other code": (
        "code",
        lambda k: set_in(k.folder / "kit.toml", k.settings.app_source_sha256, "0" * 64),
        "digest 0000000000000000…. The installed one has",
    ),
    "no name": (
        "dns",
        lambda k: set_in(k.folder / "kit.toml", "127.0.0.1", "fl.invalid"),
        "name must be known here. 'fl.invalid' is not",
    ),
    "nobody there": (
        "tls",
        lambda k: set_in(k.folder / "kit.toml", k.settings.superlink, f"127.0.0.1:{free_port()}"),
        "does not (ConnectionRefusedError)",
    ),
    "other authority": ("tls", lambda k: write_certificates(k.folder), "a proxy answers there"),
    "no certificate in it": ("tls", lambda k: k.certificate.write_text("no"), "certificate in ca.crt"),
    "unknown key": ("key", write_key, "does not know it; ask whether it was registered, or revoked"),
    "no key in it": ("key", lambda k: k.key.write_text("no"), "hold an OpenSSH key in node_key"),
    "no folder": (
        "data",
        lambda k: shutil.rmtree(k.folder / WARD),
        "",
    ),
    "broken image": (
        "data",
        lambda k: next((k.folder / WARD / PATIENT / "normal").glob("*-1.png")).write_bytes(b"x"),
        "",
    ),
    "too few shots": ("data", lambda k: set_in(k.folder / "site.toml", "shots = 4", "shots = 9"), "9 shots"),
    "too few images": (
        "data",
        lambda k: set_in(k.folder / "site.toml", "min_images = 4", "min_images = 5"),
        "at least 5 images. There are 4",
    ),
    "no pin": (
        "backbone",
        lambda k: set_in(k.folder / "site.toml", f'backbone_sha256 = "{PIN}"', ""),
        f'add to site.toml:  backbone_sha256 = "{PIN}"',
    ),
    "other backbone": (
        "backbone",
        lambda k: set_in(k.folder / "site.toml", PIN, "0" * 64),
        "SHA-256 0000000000000000…",
    ),
    "no gpu": (
        "gpu",
        lambda k: set_in(k.folder / "site.toml", 'device = "cpu"', 'device = "cuda:99"'),
        "Torch finds no GPU",
    ),
    "large update": (
        "dry run",
        lambda k: (k.folder / "site.toml").write_text(
            'max_update_norm = 1e-9\non_large_update = "refuse"\n'
            + (k.folder / "site.toml").read_text().replace('on_large_update = "clip"\n', "")
        ),
        "norm of at most 1e-09",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_found_by_name_and_in_plain_words(kit, fault, capsys):
    name, break_it, words = FAULTS[fault]
    break_it(kit)
    found = check_until(kit, name)
    assert not found[name].is_good
    assert words in found[name].text
    secret = [PATIENT, WARD, "Traceback", str(kit.folder)]
    assert not any(word in f.text for word in secret for f in found.values())
    assert capsys.readouterr().out == ""


def test_a_fault_is_a_nonzero_exit_and_json_names_it(kit, capsys):
    kit.key.chmod(0o644)
    main_exits(["client", "check", "--kit", str(kit.folder), "--json"], 7)
    output = capsys.readouterr()
    assert '"name": "kit",\n      "is_good": false' in output.out
    assert "Found 1: kit" in output.err


def test_a_folder_that_is_no_kit_is_one_fault_and_nothing_else_is_tried(tmp_path):
    (found,) = Preflight(tmp_path).findings()
    assert (found.name, found.is_good) == ("kit", False)


@contextmanager
def clock_of(folder, skew):
    """Serve TLS with a clock that is wrong."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(200)
            self.send_header("Date", format_datetime(datetime.now(UTC) + skew))
            self.end_headers()

    write_certificates(folder)
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("skew_s", "is_good", "words"),
    [(0, True, "within"), (-60, False, "s ahead of it; set it"), (600, False, "s behind it; set it")],
)
def test_a_wrong_clock_is_told_by_its_side(kit, skew_s, is_good, words):
    with clock_of(kit.folder, timedelta(seconds=skew_s)) as port:
        set_in(kit.folder / "kit.toml", kit.settings.superlink, f"127.0.0.1:{port}")
        found = check_until(kit, "key")
        assert found["clock"].is_good is is_good
        assert words in found["clock"].text
        assert not found["key"].is_good  # this server speaks no Flower


def test_the_probe_of_a_key_knows_four_answers(kit, link):
    superlink, certificate = link.superlink, kit.certificate
    assert probe_key(superlink, certificate, kit.key) == "accepted"
    assert probe_key(f"127.0.0.1:{free_port()}", certificate, kit.key) == "unreachable"
    write_key(kit)
    assert probe_key(superlink, certificate, kit.key) == "unknown"


def test_the_status_of_a_site_that_does_not_run(kit, capsys):
    kit.make_state()
    AuditLog(kit.audit).append("refused", code="policy-rounds", round=3)
    main_exits(["client", "status", "--kit", str(kit.folder), "--json"], 7)
    output = capsys.readouterr()
    assert '"is_serving": false' in output.out
    assert '"refused": 1' in output.out
    assert "start it with 'mediclip client start'" in output.err


def test_the_status_of_a_site_whose_daemon_is_still_loading_says_so(kit, capsys):
    programs = {
        "daemon": {"pid": os.getpid(), "starts": 1, "note": ""},
        "supernode": {"pid": None, "starts": 0, "note": ""},
        "nursery": {"pid": None, "starts": 2, "note": "exit status 1"},
    }
    (kit.make_state() / STATUS_FILE).write_text(json.dumps(programs))
    main_exits(["client", "status", "--kit", str(kit.folder)], 7)
    output = capsys.readouterr()
    for words in (
        f"once, process {os.getpid()}",
        "not yet, waits for the daemon",
        "2 times, waits to be started again; exit status 1",
    ):
        assert words in output.out
    assert f"runs (process {os.getpid()}); ask again in a moment" in output.err


def test_a_number_that_the_policy_keeps_for_want_of_images_is_told_of(kit):
    set_in(kit.folder / "site.toml", f"min_metric_images = {SHOTS}", "min_metric_images = 8")
    preflight = Preflight(kit.folder)
    found = {f.name: f for f in preflight.findings()}
    assert preflight.dry_run.reply.metrics == {}
    words = "train_loss, val_loss, val_pixel_auroc not: 'min_metric_images' asks for 8 images"
    assert found["dry run"].text.endswith(words)


def test_the_status_tells_of_a_changed_audit_log(kit, capsys):
    kit.make_state()
    AuditLog(kit.audit).append("refused", code="policy-rounds", round=3)
    set_in(kit.audit, "rounds", "images")
    main_exits(["client", "status", "--kit", str(kit.folder)], 6)
    output = capsys.readouterr()
    assert "CHANGED" in output.out
    assert "line 1 is not the one that was written" in output.err
