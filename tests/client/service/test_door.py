"""The daemon's second socket, under real users of this machine where the tests may become one."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from client.service.door import User, door, find_user, peer_uid
from client.service.remote import RemoteSite
from mediclip.errors import FederationError, ServiceError, SettingsError
from tests.kits import ROOT, daemon, make_kit
from tests.tiny import fit, tiny_request

CLIENTAPP, THIRD = "nobody", "daemon"

# A process of another user: it imports as who it was, because that user may not read this checkout.
AS_USER = """
import os, pwd, sys
from pathlib import Path
from client.service.remote import RemoteSite
from mediclip.errors import ServiceError
user = pwd.getpwnam(sys.argv[1])
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
for name in sys.argv[3:]:
    try:
        Path(name).read_bytes() if Path(name).is_file() else list(Path(name).iterdir())
        print("read", name)
    except PermissionError:
        print("denied")
try:
    print(RemoteSite(Path(sys.argv[2]), "three-hospitals", patience_s=0).describe().site)
except ServiceError:
    print("refused")
"""


@pytest.fixture
def folder():
    """A folder that every user of the machine can enter, unlike pytest's."""
    path = Path(tempfile.mkdtemp(prefix="door"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


@contextmanager
def echoing(path):
    """Answer on a Unix socket with what came, one connection after the other."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    while data := connection.recv(2**16):
                        connection.sendall(data)

        threading.Thread(target=serve, daemon=True).start()
        yield
        listener.shutdown(socket.SHUT_RDWR)


def own():
    return User(pwd.getpwuid(os.getuid()).pw_name, os.getuid(), os.getgid())


def answer_of(connection):
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""


def asked(path, data):
    """Send something to a socket and give what comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        threading.Thread(
            target=lambda: (connection.sendall(data), connection.shutdown(socket.SHUT_WR))
        ).start()
        back = bytearray()
        while part := connection.recv(2**16):
            back += part
        return bytes(back)


def test_bytes_pass_both_ways_and_the_socket_is_for_one_group(folder):
    data = os.urandom(3 * 2**20)
    with echoing(folder / "inner"), door(folder / "door" / "s", folder / "inner", own()):
        assert asked(folder / "door" / "s", data) == data
        assert asked(folder / "door" / "s", b"") == b""
        modes = [(folder / name).stat().st_mode & 0o777 for name in ("door", "door/s")]
        assert modes == [0o750, 0o660]
    assert not (folder / "door" / "s").exists()


def test_whoever_is_not_the_clientapps_user_is_turned_away_though_the_file_lets_them(folder):
    other = User("other", os.getuid() + 1, os.getgid())
    inner, path = folder / "inner", folder / "door" / "s"
    with (
        echoing(inner),
        door(path, inner, other, own_uid=os.getuid() + 2),
        socket.socket(socket.AF_UNIX) as me,
    ):
        me.connect(str(path))
        with suppress(BrokenPipeError):
            me.sendall(b"hello")
        assert answer_of(me) == b""


def test_the_system_tells_whose_process_is_at_the_other_end():
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_uid(one) == os.geteuid()
    with socket.socket() as none:
        assert peer_uid(none) in {-1, 2**32 - 1}


def test_a_socket_of_a_dead_daemon_is_replaced_and_a_folder_of_another_is_named(folder):
    (folder / "door").mkdir()
    (folder / "door" / "s").touch()
    with echoing(folder / "inner"), door(folder / "door" / "s", folder / "inner", own()):
        assert asked(folder / "door" / "s", b"x") == b"x"
    (folder / "file").touch()
    with pytest.raises(FederationError, match="make the daemon's user a member of that group"):
        door(folder / "file" / "s", folder / "inner", own()).__enter__()


def test_a_user_that_this_machine_does_not_know_is_named():
    assert find_user(own().name).uid == os.getuid()
    with pytest.raises(SettingsError, match="'no-such-user' is none"):
        find_user("no-such-user")


@pytest.mark.slow
def test_the_clientapps_user_reaches_the_daemon_and_no_scan_and_a_third_user_reaches_neither(folder):
    # Whoever is not root is its own ClientApp's user: the same daemon and door, without the change of user.
    is_root = os.geteuid() == 0
    name = CLIENTAPP if is_root else own().name
    kit = make_kit(folder, clientapp_user=name)
    scans = next(path for path in folder.rglob("*.png"))
    for path in (folder / "ward-7", kit.folder / "site.toml"):
        path.chmod(0o700 if path.is_dir() else 0o644)
    with daemon(kit):
        site = RemoteSite(kit.socket, "three-hospitals")
        assert fit(site, tiny_request()).examples == 4
        site.close()
        assert (kit.socket.parent.name, kit.own_socket.parent.name) == ("door", "state")
        if is_root:
            for user, said in ((CLIENTAPP, "site-0"), (THIRD, "refused")):
                assert as_user(user, kit.socket, scans, kit.state, kit.own_socket.parent) == [
                    *("denied", "denied", "denied"),
                    said,
                ]
            kit.socket.parent.chmod(0o777)  # were the files' modes wrong, the credentials would still count
            kit.socket.chmod(0o777)
            assert as_user(CLIENTAPP, kit.socket) == ["site-0"]
            assert as_user(THIRD, kit.socket) == ["refused"]
            assert as_user(CLIENTAPP, kit.own_socket) == ["refused"]
    with pytest.raises(ServiceError):
        RemoteSite(kit.socket, patience_s=0).describe()


def as_user(name, path, *unreadable):
    done = subprocess.run(
        [sys.executable, "-c", AS_USER, name, str(path), *map(str, unreadable)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]
