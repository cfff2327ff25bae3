"""A site's kit on disk, and its daemon as a real process."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from client.kit import Kit
from client.service.remote import RemoteSite
from client.settings import SiteSettings
from mediclip.errors import ServiceError
from mediclip.provenance import source_digest
from tests.tiny import SHOTS, tiny_backbone, tiny_scans

ROOT = Path(__file__).resolve().parents[1]
FEDERATION = "three-hospitals"
PATIENT = "DOE^JANE^1961"
WARD = "ward-7"
PATIENCE_S = 600.0
"""When real processes count as hung: it bounds a failure, and a busy machine takes minutes for seconds."""


def make_kit(folder, *, site="site-0", superlink="127.0.0.1:9", source=None, **settings):
    """Write a kit whose scans carry a patient's name in their paths and their text chunks."""
    data = folder / WARD / PATIENT
    for number, scan in enumerate(tiny_scans(0)):
        path = data / "normal" / f"{PATIENT}-{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((scan * 255).astype(np.uint8))
        image.info["Patient"] = PATIENT
        image.save(path)
    values = {
        "name": site,
        "data": data,
        "shots": SHOTS,
        "backbone": "embedded",
        "backbone_sha256": tiny_backbone().sha256,
    }
    values |= {"min_metric_images": SHOTS, **settings}
    (folder / "site.toml").write_text(SiteSettings.parse(values, source="test").to_toml(), encoding="utf-8")
    lines = {
        "federation": FEDERATION,
        "superlink": superlink,
        "site": site,
        "app_source_sha256": source or source_digest.__wrapped__(),  # the files as they are now
        "not_after": "2100-01-01T00:00:00Z",
    }
    (folder / "kit.toml").write_text("".join(f'{key} = "{value}"\n' for key, value in lines.items()))
    return Kit(folder)


@contextmanager
def daemon(kit):
    """Run a kit's daemon, and wait until it answers; ended with the block."""
    with (kit.folder / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "client.service.daemon", "--kit", str(kit.folder)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(process, kit)
            yield process
        finally:
            process.stdin.close()
            process.send_signal(signal.SIGKILL)
            process.wait(10)


def wait_for(process, kit, timeout_s=PATIENCE_S):
    """Wait until a daemon answers on its socket."""
    site = RemoteSite(kit.socket, patience_s=0)
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        assert process.poll() is None, (kit.folder / "daemon.log").read_text()
        try:
            site.describe()
        except ServiceError:
            time.sleep(0.1)
        else:
            site.close()
            return
    raise TimeoutError
