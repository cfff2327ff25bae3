"""A coordinator of real Flower processes with TLS and node keys, as little of one as a site's tests need."""

import datetime as dt
import ipaddress
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.flower import QUIET, python_path
from tests.kits import ROOT

SCRIPTS = Path(sys.executable).parent
DAY = dt.timedelta(days=1)


@dataclass
class Coordinator:
    """Where a coordinator listens and what it can be told."""

    folder: Path
    port: int
    processes: dict

    @property
    def superlink(self):
        return f"127.0.0.1:{self.port}"

    def register(self, kit):
        """Give a kit its certificate and a key that the coordinator knows."""
        write_key(kit)
        public = str(kit.folder / "node_key.pub")
        self.flwr("supernode", "register", public, "dep", "--name", kit.settings.site)

    def flwr(self, *arguments, cwd=ROOT):
        done = subprocess.run(
            [SCRIPTS / "flwr", *arguments],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def nodes(self):
        return json.loads(self.flwr("supernode", "list", "dep", "--format", "json"))["nodes"]

    def statuses(self):
        return [node["status"] for node in self.nodes()]

    @property
    def environment(self):
        return {
            **os.environ,
            **QUIET,
            "FLWR_HOME": str(self.folder / "home"),
            "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": python_path(),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, name, *arguments):
        with (self.folder / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [SCRIPTS / name, *arguments],
                cwd=ROOT,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def start_superlink(self):
        folder = self.folder
        self.start(
            "flower-superlink",
            *("--ssl-ca-certfile", str(folder / "ca.crt"), "--ssl-certfile", str(folder / "server.pem")),
            *("--ssl-keyfile", str(folder / "server.key"), "--enable-supernode-auth"),
            *("--database", str(folder / "state.db"), "--host", "127.0.0.1", "--port", str(self.port)),
            *("--isolation", "process"),
        )
        wait_until(lambda: is_open(self.port), 60)

    def expire_heartbeats(self):
        """Let the coordinator miss every node's heartbeat now, and not in a minute."""
        with sqlite3.connect(self.folder / "state.db", timeout=10) as database:
            database.execute("UPDATE node SET online_until = ?", (time.time() - 1,))

    def kill(self, name):
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@contextmanager
def coordinator(folder):
    """Run a SuperLink and a SuperExec; all are ended with the block."""
    folder.mkdir(exist_ok=True)
    write_certificates(folder)
    running = Coordinator(folder, free_port(), {})
    home = folder / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "dep"\n\n[superlink.dep]\naddress = "{running.superlink}"\n'
        f'root-certificates = "{folder / "ca.crt"}"\n'
    )
    try:
        running.start_superlink()
        running.start(
            "flower-superexec",
            *("--runtime-api-address", running.superlink, "--root-certificates", str(folder / "ca.crt")),
        )
        yield running
    finally:
        for name in list(running.processes):
            running.kill(name)


def write_certificates(folder):
    """Write an authority and a certificate of its for loopback."""
    now = dt.datetime.now(dt.UTC)
    authority, key = ec.generate_private_key(ec.SECP384R1()), ec.generate_private_key(ec.SECP384R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])

    def certificate(name, public, *extensions):
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, critical=is_critical)
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    usage = x509.KeyUsage(
        digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False,
    )  # fmt: skip
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    own = x509.SubjectKeyIdentifier.from_public_key(authority.public_key())
    (folder / "ca.crt").write_bytes(
        certificate(
            "test authority",
            authority.public_key(),
            (x509.BasicConstraints(ca=True, path_length=None), True),
            (usage, True),
            (own, False),
        )
    )
    (folder / "server.pem").write_bytes(
        certificate(
            "localhost", key.public_key(), (x509.SubjectAlternativeName(names), False), (identifier, False)
        )
    )
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "server.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )


def write_key(kit):
    """Write a new node key into a kit."""
    key = ec.generate_private_key(ec.SECP384R1())
    kit.key.touch(mode=0o600)
    kit.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    (kit.folder / "node_key.pub").write_bytes(public)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_open(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(is_so, timeout_s):
    """Wait for something to become so."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.2)
