"""Where a ClientApp finds its site: behind a socket, in its own process, or in a simulated node's file."""

import functools
from collections.abc import Mapping
from pathlib import Path

from client.service.roles import Fitter, SiteService
from client.service.simulated import SimulatedSite
from client.settings import load_site_settings
from mediclip.errors import SettingsError

Scalar = str | int | float | bool
SITE = "site"
SOCKET = "socket"
FEDERATION = "federation"
SITES_DIR = "sites-dir"
PARTITION = "partition-id"

_served: dict[str, SiteService] = {}


def serve(name: str, site: Fitter, folder: Path | None = None) -> None:
    """Let ClientApps in this process reach a site.

    Args:
        name: What the node's configuration calls it under ``site``.
        site: The site.
        folder: Where it keeps what differences need from round to round; in memory when omitted.

    Raises:
        SettingsError: If a site of that name is served already.
    """
    if name in _served:
        message = f"A site's name must be its own. {name!r} is served already; give each site another name."
        raise SettingsError(message)
    _served[name] = SimulatedSite(site, folder)


def withdraw(name: str) -> None:
    """Stop serving a site; a name that is not served is no error."""
    _served.pop(name, None)


def find(node_config: Mapping[str, object], run_config: Mapping[str, object]) -> SiteService:
    """Find the site of a node.

    Args:
        node_config: Flower's settings of the node: ``socket`` for a site behind its daemon, ``site`` for one
            that this process serves, or ``partition-id`` K for the one of ``site-K.toml``.
        run_config: Flower's settings of the run: ``federation`` for a site's policy, ``sites-dir`` for the
            files.

    Returns:
        The site; one from a file is opened once in a process and kept.

    Raises:
        SettingsError: If there is no such site or its file cannot be used.
    """
    socket = node_config.get(SOCKET)
    if socket is not None:
        return _reached(Path(str(socket)), str(run_config.get(FEDERATION, "")))
    name = node_config.get(SITE)
    if name is not None:
        if name in _served:
            return _served[str(name)]
        message = f"A node's site must be served where it runs. {name!r} is not; start the site first."
        raise SettingsError(message)
    folder, number = run_config.get(SITES_DIR), node_config.get(PARTITION)
    if not folder or number is None:
        message = (
            f"A node must know its site by '{SITE}' in its configuration, or by '{PARTITION}' there and "
            f"'{SITES_DIR}' in the run's. It knows neither; set one."
        )
        raise SettingsError(message)
    return _opened(Path(str(folder)) / f"site-{number}.toml")


@functools.cache
def _reached(socket: Path, federation: str) -> SiteService:
    from client.service.remote import RemoteSite  # noqa: PLC0415 - simulations need no gRPC

    return RemoteSite(socket, federation)


@functools.cache
def _opened(path: Path) -> SiteService:
    import torch  # noqa: PLC0415 - a ClientApp whose site lives elsewhere must start without it

    from client.service.site import Site  # noqa: PLC0415

    settings = load_site_settings(path)
    torch.set_num_threads(settings.threads)
    return SimulatedSite(Site.open(settings), path.with_suffix(""))
