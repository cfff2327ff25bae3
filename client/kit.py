"""A site's kit: the folder that the coordinator provisions, and what the site keeps beside it.

kit.toml site.toml ca.crt node_key node_key.pub    written by the coordinator, site.toml completed here
state/                                             written here, for the site's own user alone
    site.sock audit.jsonl ledger.jsonl rounds/ models/ flower/ logs
door/ node/                                        only where site.toml names a 'clientapp_user': the socket
                                                   that this user may open, and what its programs keep
"""

import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from client.policy import Policy
from client.settings import SiteSettings, load_site_settings
from mediclip.config import Settings
from mediclip.errors import FederationError, SettingsError

KIT_FILE: Final = "kit.toml"
SITE_FILE: Final = "site.toml"
SOON: Final = timedelta(days=30)
_LONGEST_SOCKET: Final = 100  # bytes; a Unix socket's path ends at 108


class KitSettings(Settings):
    """What the coordinator says in ``kit.toml``.

    Attributes:
        federation: Name of the federation, which every run of it must give.
        superlink: ``host:port`` of the coordinator's public address.
        site: Name of the site.
        app_source_sha256: Digest that the installed application must have.
        not_after: When the site's key expires.
    """

    federation: Annotated[str, Field(min_length=1, max_length=64)]
    superlink: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[\w.-]+):[0-9]{1,5}$")]
    site: Annotated[str, Field(min_length=1, max_length=64)]
    app_source_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    not_after: datetime

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.superlink.rpartition(":")
        return host.strip("[]"), int(port)


class Kit:
    """A kit on disk.

    Args:
        folder: The kit's folder.

    Raises:
        SettingsError: If ``kit.toml`` cannot be read, or a key is unknown, missing or out of range.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        try:
            values = tomllib.loads((folder / KIT_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            message = (
                f"A kit must be a folder with a readable {KIT_FILE}. This one has none; unpack the "
                "coordinator's kit again and name its folder with --kit."
            )
            raise SettingsError(message) from error
        self.settings = KitSettings.parse(values, source=KIT_FILE)

    def check_term(self, now: datetime) -> str:
        """Check that the kit is still in force.

        Args:
            now: The current time, with a time zone.

        Returns:
            A warning in plain words if it will not be for long; empty if it will.

        Raises:
            FederationError: If it is not.
        """
        end = self.settings.not_after
        end = end if end.tzinfo else end.replace(tzinfo=UTC)
        left = end - now
        if left <= timedelta():
            message = (
                f"A kit must be in force. This one expired on {end:%Y-%m-%d}; ask the coordinator for a new "
                "kit.toml, which 'mediclip server provision --renew-site' makes."
            )
            raise FederationError(message)
        if left >= SOON:
            return ""
        return f"the kit expires on {end:%Y-%m-%d}, in {left.days} days: ask the coordinator to renew it"

    def site(self) -> SiteSettings:
        """Read the site's own settings.

        Raises:
            SettingsError: If they cannot be used, or name another site than the kit.
        """
        settings = load_site_settings(self.folder / SITE_FILE)
        if settings.name != self.settings.site:
            message = (
                f"The name in {SITE_FILE} must be the kit's, {self.settings.site!r}. Got {settings.name!r}; "
                "correct it, or use that site's kit."
            )
            raise SettingsError(message)
        return settings

    def policy(self) -> Policy:
        """Put together what coordinator and site have agreed on.

        Raises:
            SettingsError: If the site's settings cannot be used.
        """
        site = self.site()
        return Policy(
            federation=self.settings.federation,
            source_digest=self.settings.app_source_sha256,
            max_rounds=site.max_rounds,
            min_images=site.min_images,
            metrics=frozenset(site.metrics),
            shares_descriptor=site.share_descriptor,
            max_update_norm=site.max_update_norm,
            codecs=frozenset(site.codecs),
            clips=site.on_large_update == "clip",
            min_metric_images=site.min_metric_images,
            min_local_steps=site.min_local_steps,
            max_model_norm=site.max_model_norm,
            is_private=site.privacy.is_on,
        )

    def make_state(self) -> Path:
        """Make the folder for what the site keeps, which only its own user may enter."""
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.state.chmod(0o700)
        return self.state

    def make_node_state(self) -> Path:
        """Make the folder for what SuperNode and ClientApp keep, which only their user may enter.

        Raises:
            FederationError: If another user owns it.
            SettingsError: If the site's settings cannot be used.
        """
        if self.site().clientapp_user is None:
            return self.make_state()
        try:
            self.node.mkdir(mode=0o700, exist_ok=True)
            self.node.chmod(0o700)
        except OSError as error:
            message = (
                f"The folder {self.node.name} of the kit must belong to the 'clientapp_user' of {SITE_FILE}. "
                f"It does not ({error.strerror}); make it with 'install -d -m 700 -o USER {self.node.name}'."
            )
            raise FederationError(message) from error
        return self.node

    @property
    def node(self) -> Path:
        """Folder of what SuperNode and ClientApp keep where they have a user of their own."""
        return self.folder / "node"

    @property
    def state(self) -> Path:
        """Folder of what the site keeps."""
        return self.folder / "state"

    @property
    def certificate(self) -> Path:
        """Certificate of the coordinator's authority."""
        return self.folder / "ca.crt"

    @property
    def key(self) -> Path:
        """The node's private key."""
        return self.folder / "node_key"

    @property
    def audit(self) -> Path:
        """The audit log."""
        return self.state / "audit.jsonl"

    @property
    def ledger(self) -> Path:
        """The privacy ledger."""
        return self.state / "ledger.jsonl"

    @property
    def rounds(self) -> Path:
        """Folder of the answered rounds."""
        return self.state / "rounds"

    @property
    def models(self) -> Path:
        """Folder of the models that the site has of finished runs."""
        return self.state / "models"

    @property
    def socket(self) -> Path:
        """The socket on which the ClientApp reaches the daemon.

        Raises:
            SettingsError: If its path is longer than a socket's may be, or ``site.toml`` is not usable.
        """
        if self.site().clientapp_user is None:
            return self.own_socket
        return self._short(self.folder / "door" / "site.sock")

    @property
    def own_socket(self) -> Path:
        """The daemon's socket for its own user alone.

        Raises:
            SettingsError: If its path is longer than a socket's may be.
        """
        return self._short(self.state / "site.sock")

    def _short(self, path: Path) -> Path:
        if len(str(path).encode()) > _LONGEST_SOCKET:
            message = (
                f"The path of a kit must leave room for a socket, {_LONGEST_SOCKET} bytes in all. This one "
                f"is {len(str(path).encode())} long; move the kit to a shorter path."
            )
            raise SettingsError(message)
        return path
