"""The commands by which a coordinator runs Flower's programs: what each may do, and where it keeps what."""

import os
import sys
from pathlib import Path

from server.flower_processes import script
from server.ports import Address
from server.provision import Kits


def superlink_command(
    kits: Kits, public: Address, port: int, *, database: Path, log: Path, secret: Path
) -> tuple[str, ...]:
    """Give the command of a SuperLink that ends with this process.

    Args:
        kits: Certificates.
        public: Host and port that the sites reach.
        port: Port on loopback for the whole API.
        database: File of its state.
        log: File of its log.
        secret: File of the coordinator's secret.
    """
    host, number = public
    return (
        *(sys.executable, "-m", "server.superlink"),
        *("--public", f"[{host}]:{number}" if ":" in host else f"{host}:{number}"),
        *("--parent-pid", str(os.getpid()), "--secret", str(secret)),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--ssl-ca-certfile", str(kits.authority.resolve())),
        *("--ssl-certfile", str(kits.certificate.resolve())),
        *("--ssl-keyfile", str(kits.key.resolve())),
        *("--enable-supernode-auth", "--database", str(database)),
        *("--isolation", "process", "--disable-runtime-dependency-installation"),
        *("--log-file", str(log)),
    )


def superexec_command(kits: Kits, address: str, secret: Path) -> tuple[str, ...]:
    """Give the command of a SuperExec that ends with this process.

    Args:
        kits: Certificates.
        address: ``host:port`` of the SuperLink on loopback.
        secret: File of the coordinator's secret.
    """
    return (
        *(script("flower-superexec"), "--runtime-api-address", address),
        *("--root-certificates", str(kits.authority.resolve())),
        *("--superexec-auth-secret-file", str(secret), "--parent-pid", str(os.getpid())),
    )
