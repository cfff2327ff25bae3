"""A site as ``mediclip client start`` keeps it, whose daemon waits where a test wants it to.

While ``hold-N`` is in the kit's folder ``gate/``, the daemon says ``at-N`` there before it trains for round N
(0 is the roll call), and goes on when ``hold-N`` is gone or it finds a ticket ``pass-N``, which it takes.
"""

import logging
import signal
import sys
import threading
import time
from pathlib import Path

from client.kit import Kit
from client.supervise import Supervisor, Worker


class Gate:
    """A site that waits at its gate."""

    def __init__(self, site, folder):
        self._site, self._folder = site, folder

    def __getattr__(self, name):
        return getattr(self._site, name)

    def schema_digest(self, recipe):
        self._pass(0)
        return self._site.schema_digest(recipe)

    def fit_from(self, request, private):
        self._pass(request.number)
        return self._site.fit_from(request, private)

    def _pass(self, number):
        at, ticket = self._folder / f"at-{number}", self._folder / f"pass-{number}"
        while (self._folder / f"hold-{number}").exists():
            if ticket.exists():
                at.unlink()
                ticket.unlink()
                return
            at.touch()
            time.sleep(0.02)


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    role, kit = sys.argv[1], Kit(Path(sys.argv[2]))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if role == "daemon":
        from client.service import daemon  # noqa: PLC0415 - torch
        from client.service.site import Site  # noqa: PLC0415

        threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
        daemon.run(kit, stop, site=Gate(Site.open(kit.site()), kit.folder / "gate"))
        return
    supervisor = Supervisor(kit)
    parts = [
        part
        for value in vars(supervisor).values()
        for part in (value if isinstance(value, list) else [value])
    ]
    (worker,) = [part for part in parts if isinstance(part, Worker) and part.name == "daemon"]
    worker.command = lambda: [*(sys.executable, "-P", "-m", "tests.gated_site", "daemon", str(kit.folder))]
    supervisor.run(stop)


if __name__ == "__main__":
    main()
