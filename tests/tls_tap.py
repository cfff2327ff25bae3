"""Stands between sites and a coordinator with the coordinator's own certificate, and keeps every byte."""

import socket
import ssl
import threading


class TlsTap:
    """Listens in a coordinator's place, passes everything on, and keeps it.

    Args:
        port: Where the sites expect the coordinator.
        target: Port of loopback where it listens.
        kits: The coordinator's certificate and key, and its authority.
    """

    def __init__(self, port, target, kits):
        self._port, self._target = port, target
        self._near = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._near.load_cert_chain(kits.certificate, kits.key)
        self._far = ssl.create_default_context(cafile=kits.authority)
        self._kept = []

    def __enter__(self):
        self._listening = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listening.close()

    def conversations(self):
        """Give what was said, one direction of one connection at a time."""
        return [bytes(said) for said in self._kept]

    def _accept(self):
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(plain,), daemon=True).start()

    def _join(self, plain):
        try:
            near = self._near.wrap_socket(plain, server_side=True)
            far = socket.create_connection(("127.0.0.1", self._target), 10)
            far.settimeout(None)
            far = self._far.wrap_socket(far, server_hostname="127.0.0.1")
        except OSError:  # the coordinator is away, or the site does not like what it sees
            plain.close()
            return
        for source, sink in ((near, far), (far, near)):
            said = bytearray()
            self._kept.append(said)
            threading.Thread(target=_pump, args=(source, sink, said), daemon=True).start()


def _pump(source, sink, said):
    try:
        while data := source.recv(1 << 16):
            said += data
            sink.sendall(data)
    except (OSError, ValueError):
        return
    finally:
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
