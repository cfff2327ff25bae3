"""Certificates, keys and one kit for each site, and the register of who may take part.

kits/
    _coordinator/   ca.crt ca.key server.crt server.key sites.json mediclip-server.service, for it alone
    SITE/           the kit: kit.toml site.toml ca.crt node_key node_key.pub units README.md
    SITE.zip        the same, to hand over by a safe way and then to delete
"""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from mediclip.config import Settings
from mediclip.errors import SettingsError
from mediclip.provenance import source_digest
from server import kit_files
from server.authority import (
    certificate_expiry,
    covers,
    make_authority,
    make_node_key,
    make_server_certificate,
    now_utc,
    write_private,
    write_public,
)
from server.federation import FederationSettings, SiteName, split_address

COORDINATOR: Final = "_coordinator"
KITS: Final = "kits"
_RENEW_BEFORE: Final = timedelta(days=30)


class SiteEntry(Settings):
    """One key of a site in the register.

    Attributes:
        name: Name of the site.
        public_key: The public key's line in OpenSSH's format.
        not_after: When the key expires.
        revoked: When it was revoked, None if it was not.
    """

    name: SiteName
    public_key: str
    not_after: datetime
    revoked: datetime | None = None

    def is_active(self, now: datetime) -> bool:
        """Say whether the key counts at a time."""
        return self.revoked is None and now < self.not_after


class _Register(Settings):
    sites: tuple[SiteEntry, ...] = ()


@dataclass(frozen=True)
class Kits:
    """A folder of kits.

    Attributes:
        folder: The folder that :func:`provision` made.
    """

    folder: Path

    @property
    def coordinator(self) -> Path:
        """Folder of what only the coordinator has."""
        return self.folder / COORDINATOR

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.coordinator / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.coordinator / "server.crt"

    @property
    def key(self) -> Path:
        """The server's private key."""
        return self.coordinator / "server.key"

    @property
    def register(self) -> Path:
        """The register of keys."""
        return self.coordinator / "sites.json"

    def entries(self) -> tuple[SiteEntry, ...]:
        """Read the register.

        Raises:
            SettingsError: If there is none, or it is damaged.
        """
        try:
            values = json.loads(self.register.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            message = (
                f"The kits' folder must hold {COORDINATOR}/{self.register.name}. It cannot be read; run "
                "'mediclip server provision' first, or name the folder with --kits."
            )
            raise SettingsError(message) from error
        return _Register.parse(values, source=self.register.name).sites

    def active(self, now: datetime) -> tuple[SiteEntry, ...]:
        """List the keys that count at a time."""
        return tuple(entry for entry in self.entries() if entry.is_active(now))

    def write(self, entries: Sequence[SiteEntry]) -> None:
        """Replace the register."""
        register = _Register(sites=tuple(entries))
        write_public(self.register, (register.model_dump_json(indent=2) + "\n").encode())

    def server_expiry(self) -> datetime:
        """Look up until when the server's certificate is good.

        Raises:
            SettingsError: If there is none.
        """
        try:
            return certificate_expiry(self.certificate.read_bytes())
        except (OSError, ValueError) as error:
            message = (
                f"The kits' folder must hold {COORDINATOR}/{self.certificate.name}. It cannot be read; run "
                "'mediclip server provision' first, or name the folder with --kits."
            )
            raise SettingsError(message) from error


@dataclass(frozen=True)
class Provisioned:
    """What a call of :func:`provision` did.

    Attributes:
        kits: The folder.
        made: Sites that got a new key and kit.
        renewed: Sites whose key got a new term.
        revoked: Sites whose key was revoked.
        refreshed: Sites whose kit was written anew around its old key.
    """

    kits: Kits
    made: tuple[str, ...]
    revoked: tuple[str, ...]
    refreshed: tuple[str, ...]
    renewed: tuple[str, ...] = ()


def provision(
    settings: FederationSettings,
    folder: Path,
    *,
    add: Sequence[str] = (),
    revoke: Sequence[str] = (),
    renew: Sequence[str] = (),
) -> Provisioned:
    """Make what a federation needs before it starts, or bring it up to date.

    The first call makes the authority, the server's certificate and a kit for every site. A later one makes
    kits for sites that are new in the settings, renews a certificate that ends soon or is for another host,
    and refreshes the kits that still lie here; no key is ever replaced unless its site is revoked or expired
    and added again.

    Args:
        settings: The federation.
        folder: Where the kits go.
        add: Further sites, or revoked ones that get a new key.
        revoke: Sites that may not take part any more. A running coordinator acts on it within seconds.
        renew: Sites whose key is to count for another term from today, also if it has expired. The site needs
            the new ``kit.toml`` alone.

    Returns:
        What was done.

    Raises:
        SettingsError: If a site to add takes part already, one to revoke or renew does not, or a file is
            damaged.
    """
    now = now_utc()
    kits = Kits(folder)
    kits.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    kits.coordinator.mkdir(mode=0o700, exist_ok=True)
    first = not kits.register.exists()
    entries = list(kits.entries()) if not first else []
    _check_names(entries, add, revoke, now)
    entries = _renewed(entries, renew, now + timedelta(days=settings.valid_days))
    _ensure_authority(kits, settings, now)

    entries = [
        entry.model_copy(update={"revoked": now}) if entry.name in revoke and entry.is_active(now) else entry
        for entry in entries
    ]
    known = {entry.name for entry in entries}
    wanted = [*(name for name in settings.sites if name not in known), *add]
    digest = source_digest()
    refreshed = [
        entry.name
        for entry in entries
        if entry.is_active(now) and (folder / entry.name / "node_key").is_file()
    ]
    for entry in entries:
        if entry.name in refreshed:
            _write_kit(kits, settings, entry, digest)
        elif entry.name in renew and entry.revoked is None:
            _write_terms(kits, settings, entry, digest)
    made = tuple(dict.fromkeys(wanted))
    for name in made:
        private, public = make_node_key()
        entry = SiteEntry(name=name, public_key=public, not_after=now + timedelta(days=settings.valid_days))
        _write_kit(kits, settings, entry, digest, private)
        entries.append(entry)
    write_public(kits.coordinator / "mediclip-server.service", kit_files.server_unit(settings).encode())
    kits.write(entries)
    return Provisioned(kits, made, tuple(revoke), tuple(refreshed), tuple(dict.fromkeys(renew)))


def _renewed(entries: Sequence[SiteEntry], names: Sequence[str], end: datetime) -> list[SiteEntry]:
    """Give the latest key of some sites another end, if it was not revoked."""
    latest = {entry.name: index for index, entry in enumerate(entries)}
    changed = list(entries)
    for name in names:
        index = latest.get(name)
        if index is None or changed[index].revoked is not None:
            message = (
                f"A site to renew must have a key that was not revoked. {name!r} has none; add it with "
                "--add-site, which makes one."
            )
            raise SettingsError(message)
        changed[index] = changed[index].model_copy(update={"not_after": end})
    return changed


def _check_names(
    entries: Sequence[SiteEntry], add: Sequence[str], revoke: Sequence[str], now: datetime
) -> None:
    active = {entry.name.casefold(): entry.name for entry in entries if entry.is_active(now)}
    for name in add:
        SiteEntry.parse({"name": name, "public_key": "", "not_after": now}, source="--add-site")
        if name.casefold() in active:
            message = (
                f"A site to add must not take part yet. {name!r} does; revoke it first if it needs a new key."
            )
            raise SettingsError(message)
    for name in revoke:
        if name not in active.values():
            message = (
                f"A site to revoke must take part. {name!r} does not; the sites are "
                f"{', '.join(sorted(active.values())) or 'none'}."
            )
            raise SettingsError(message)


def _ensure_authority(kits: Kits, settings: FederationSettings, now: datetime) -> None:
    authority_key = kits.coordinator / "ca.key"
    if not kits.authority.exists():
        certificate, key = make_authority(settings.name, now)
        write_private(authority_key, key)
        write_public(kits.authority, certificate)
    host, _ = split_address(settings.address)
    if kits.certificate.exists() and kits.key.exists():
        certificate = kits.certificate.read_bytes()
        if covers(certificate, host) and certificate_expiry(certificate) - now > _RENEW_BEFORE:
            return
    if not authority_key.exists():
        message = (
            f"The server's certificate must be renewed with {COORDINATOR}/ca.key. That file is not there; "
            "bring it back, or provision into a new folder."
        )
        raise SettingsError(message)
    certificate, key = make_server_certificate(
        (kits.authority.read_bytes(), authority_key.read_bytes()), host, now, settings.valid_days
    )
    write_private(kits.key, key)
    write_public(kits.certificate, certificate)


def _write_kit(
    kits: Kits, settings: FederationSettings, entry: SiteEntry, digest: str, private: bytes | None = None
) -> None:
    """Write a kit; without a new key the old key and the site's own settings stay as they are."""
    folder = kits.folder / entry.name
    folder.mkdir(mode=0o700, exist_ok=True)
    if private is not None:
        write_private(folder / "node_key", private)
        write_public(folder / "site.toml", kit_files.site_toml(settings, entry.name).encode())
    texts = {
        "kit.toml": kit_files.kit_toml(settings, entry.name, digest, entry.not_after),
        "node_key.pub": f"{entry.public_key} {entry.name}\n",
        **kit_files.units(settings, entry.name),
        "README.md": kit_files.readme(settings, entry.name, digest, entry.not_after),
    }
    for name, text in texts.items():
        write_public(folder / name, text.encode())
    write_public(folder / "ca.crt", kits.authority.read_bytes())
    _pack(folder, [*texts, "ca.crt", "node_key", "site.toml"])


def _write_terms(kits: Kits, settings: FederationSettings, entry: SiteEntry, digest: str) -> None:
    """Write what a site needs of a kit whose key lies with it alone."""
    folder = kits.folder / entry.name
    folder.mkdir(mode=0o700, exist_ok=True)
    text = kit_files.kit_toml(settings, entry.name, digest, entry.not_after)
    write_public(folder / "kit.toml", text.encode())


def _pack(folder: Path, names: Sequence[str]) -> None:
    archive = folder.with_name(f"{folder.name}.zip")
    write_private(archive, b"")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(names):
            info = zipfile.ZipInfo(f"{folder.name}/{name}", (1980, 1, 1, 0, 0, 0))
            info.external_attr = (0o600 if name == "node_key" else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            packed.writestr(info, (folder / name).read_bytes())
