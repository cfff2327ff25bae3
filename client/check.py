"""Preflight of a site: everything that a round needs, tried once, in plain words."""

import http.client
import shutil
import socket
import ssl
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from client import flower
from client.kit import Kit
from client.promise import Promise, promise
from client.service.fit import FitReply, FitRequest
from mediclip.config import Recipe, load_recipe
from mediclip.errors import FederationError, MediClipError
from mediclip.provenance import source_digest

if TYPE_CHECKING:
    from client.service.site import Site

TIMEOUT_S: Final = 10.0
AHEAD_S: Final = 4.0  # Flower refuses a signature from 5 s in its future
BEHIND_S: Final = 240.0  # and one that is older than 305 s
SMALLEST_FREE_BYTES: Final = 2**30


@dataclass(frozen=True)
class Finding:
    """What came of trying one thing.

    Attributes:
        name: What was tried.
        is_good: Whether it is as a round needs it.
        text: What was found, and for a fault what to do, in plain words.
    """

    name: str
    is_good: bool
    text: str


@dataclass(frozen=True)
class DryRun:
    """What one round of one step would let leave, and how large a real one is.

    Attributes:
        reply: Exactly what would leave.
        recipe: Name of the recipe that was tried.
    """

    reply: FitReply
    recipe: str


class Preflight:
    """Tries everything in turn; what cannot be tried because something before it failed is left out.

    Args:
        folder: The kit's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.dry_run: DryRun | None = None
        self.promise: Promise | None = None

    def findings(self) -> Iterator[Finding]:
        """Try one thing after the other.

        Yields:
            What came of it, as soon as it is known.
        """
        kits: list[Kit] = []
        yield self._try("kit", lambda: self._kit(kits))
        if not kits:
            return
        (kit,) = kits
        yield self._try("code", lambda: _code(kit))
        yield self._try("disk", lambda: _disk(kit))
        yield from self._network(kit)
        yield from self._site(kit)

    def _try(self, name: str, attempt: Callable[[], str]) -> Finding:
        try:
            return Finding(name, True, attempt())
        except MediClipError as error:
            return Finding(name, False, str(error))

    def _kit(self, kits: list[Kit]) -> str:
        kit = Kit(self._folder)
        kit.site()
        kits.append(kit)
        return _kit_files(kit)

    def _network(self, kit: Kit) -> Iterator[Finding]:
        host, port = kit.settings.address
        found = self._try("dns", lambda: _dns(host))
        yield found
        if not found.is_good:
            return
        dates: list[datetime] = []
        found = self._try("tls", lambda: _tls(host, port, kit.certificate, dates))
        yield found
        if not found.is_good:
            return
        yield self._try("clock", lambda: _clock(dates))
        yield self._try("key", lambda: _key(kit))

    def _site(self, kit: Kit) -> Iterator[Finding]:
        yield self._try("data", lambda: _data(kit))
        found = self._try("gpu", lambda: _gpu(kit))
        yield found
        if not found.is_good:
            return
        sites: list[Site] = []
        found = self._try("backbone", lambda: _backbone(kit, sites))
        yield found
        if not sites:
            return
        found = self._try("privacy", lambda: self._privacy(kit, sites[0]))
        yield found
        if found.is_good:
            yield self._try("dry run", lambda: self._try_round(kit, sites[0]))

    def _privacy(self, kit: Kit, site: "Site") -> str:
        privacy = kit.site().privacy
        recipe = _recipe(kit)
        if not privacy.is_on:
            return "no noise is added: what the update says about single images has no bound"
        self.promise = promise(privacy, site, recipe, kit.ledger)
        return self.promise.sentence()

    def _try_round(self, kit: Kit, site: "Site") -> str:
        from mediclip.model.trainables import Schema, initial_trainables  # noqa: PLC0415

        recipe = _recipe(kit)
        text = recipe.model_dump_json()
        schema: Schema = site.schema(text)
        request = FitRequest(1, initial_trainables(schema, 0), 0, text, 1, 0.0, schema.digest())
        policy, made = kit.policy(), site.fit(request)
        release = policy.release(request, made)
        reply = release.reply
        self.dry_run = DryRun(reply, recipe.name)
        size = sum(value.nbytes for value in reply.tensors.values())
        numbers = (
            "a constant in place of the number of images" if policy.is_private else "the number of images"
        )
        clipped = f", shortened from a norm of {release.made_norm:.3g}" if release.is_clipped else ""
        held = sorted((policy.metrics & made.metrics.keys()) - reply.metrics.keys())
        fewest = f"; {', '.join(held)} not: 'min_metric_images' asks for {policy.min_metric_images} images"
        return (
            f"a round of the recipe {recipe.name!r} would send {len(reply.tensors)} tensors "
            f"({size / 2**20:.2f} MiB{clipped}), {numbers} and {len(reply.metrics)} other numbers"
            + (fewest if held and not policy.is_private else "")
        )


def _kit_files(kit: Kit) -> str:
    for path in (kit.certificate, kit.key):
        if not path.is_file():
            raise _fault(
                must=f"hold {path.name}", found="it does not", do="unpack the coordinator's kit again"
            )
    mode = stat.S_IMODE(kit.key.stat().st_mode)
    if mode & 0o077:
        raise _fault(
            must=f"keep {kit.key.name} for its user alone",
            found=f"its mode is {mode:o}",
            do=f"run 'chmod 600 {kit.key.name}' in it",
        )
    warning = kit.check_term(datetime.now(UTC))
    whose = f"{kit.settings.site} in {kit.settings.federation}"
    return f"{whose}; {warning}" if warning else f"{whose}, until {kit.settings.not_after:%Y-%m-%d}"


def _code(kit: Kit) -> str:
    kit.policy().check_asker(kit.settings.federation, source_digest())
    return f"the installed application is the one that the kit was made for ({source_digest()[:16]}…)"


def _disk(kit: Kit) -> str:
    free = shutil.disk_usage(kit.folder).free
    if free < SMALLEST_FREE_BYTES:
        found = f"{free / 2**30:.1f} GiB are free"
        raise _fault(must="lie on a disk with 1 GiB free", found=found, do="make room or move it")
    return f"{free / 2**30:.0f} GiB free"


def _dns(host: str) -> str:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        message = (
            f"The coordinator's name must be known here. {host!r} is not; ask your network's administrator, "
            "or the coordinator whether the name has changed."
        )
        raise FederationError(message) from None
    return f"{host} is {found[0][4][0]}"


def _tls(host: str, port: int, certificate: Path, dates: list[datetime]) -> str:
    try:
        context = ssl.create_default_context(cafile=str(certificate))
    except (ssl.SSLError, OSError):
        raise _fault(
            must=f"hold a certificate in {certificate.name}",
            found="it does not",
            do="unpack the coordinator's kit again",
        ) from None
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        date = answer.getheader("Date")
    except ssl.SSLError as error:
        message = (
            f"The coordinator must show a certificate of the kit's authority. {host}:{port} does not "
            f"({error.reason or 'no answer'}); another machine or a proxy answers there: ask the "
            "coordinator, and your network's administrator whether TLS is opened on the way."
        )
        raise FederationError(message) from None
    except (OSError, http.client.HTTPException) as error:
        message = (
            f"The coordinator must answer. {host}:{port} does not ({type(error).__name__}); ask your "
            "network's administrator whether outbound connections to it are allowed, and the coordinator "
            "whether it runs."
        )
        raise FederationError(message) from None
    finally:
        connection.close()
    if date is not None:
        dates.append(parsedate_to_datetime(date))
    return f"{host}:{port} shows a certificate of the kit's authority"


def _clock(dates: list[datetime]) -> str:
    if not dates:
        return "the coordinator does not tell the time; not compared"
    skew_s = (datetime.now(UTC) - dates[0]).total_seconds()
    if not -BEHIND_S <= skew_s <= AHEAD_S:
        side = "ahead of" if skew_s > 0 else "behind"
        message = (
            f"The clock must be at most {AHEAD_S:.0f} s ahead of the coordinator's and {BEHIND_S:.0f} s "
            f"behind, or signatures are refused. It is {abs(skew_s):.0f} s {side} it; set it, best by NTP."
        )
        raise FederationError(message)
    return f"within {max(abs(skew_s), 1):.0f} s of the coordinator's"


def _key(kit: Kit) -> str:
    try:
        found = flower.probe_key(kit.settings.superlink, kit.certificate, kit.key)
    except ValueError:
        raise _fault(
            must=f"hold an OpenSSH key in {kit.key.name}",
            found="it does not",
            do="unpack the coordinator's kit again",
        ) from None
    if found != "accepted":
        reason = {
            "unknown": "does not know it; ask whether it was registered, or revoked",
            "refused": "refuses its signature; compare the clocks and unpack the kit again",
            "unreachable": "cannot be asked; try again",
        }[found]
        message = f"The coordinator must accept this site's key. It {reason}."
        raise FederationError(message)
    return "the coordinator knows this site's key"


def _data(kit: Kit) -> str:
    from client.service.material import load_support  # noqa: PLC0415 - torch
    from mediclip.data.preprocess import Preprocess  # noqa: PLC0415

    settings = kit.site()
    recipe = _recipe(kit)
    images = load_support(settings, Preprocess(recipe.image_size, recipe.policies))
    kit.policy().check_images(len(images))
    return f"{len(images)} support images can be read"


def _gpu(kit: Kit) -> str:
    import torch  # noqa: PLC0415

    device = kit.site().device
    if device.startswith("cuda") and not torch.cuda.is_available():
        message = (
            f"The device {device!r} must be there. Torch finds no GPU; install its driver, or set "
            "'device' to \"cpu\" in site.toml."
        )
        raise FederationError(message)
    return (
        torch.cuda.get_device_name(device)
        if device.startswith("cuda")
        else "not asked for; trains on the CPU"
    )


def _backbone(kit: Kit, sites: "list[Site]") -> str:
    import torch  # noqa: PLC0415

    from client.service.site import Site  # noqa: PLC0415

    settings = kit.site()
    torch.set_num_threads(settings.threads)
    site = Site.open(settings)
    sha256 = site.backbone_sha256(_recipe(kit).model_dump_json())
    sites.append(site)
    if settings.backbone_sha256 is None:
        message = (
            "The backbone must be pinned, so that no other can be put in its place. It is not; compare with "
            f'the coordinator and add to site.toml:  backbone_sha256 = "{sha256}"'
        )
        raise FederationError(message)
    return f"it is the one of site.toml ({sha256[:16]}…)"


def _recipe(kit: Kit) -> Recipe:
    return load_recipe(kit.site().recipe or "default")


def _fault(*, must: str, found: str, do: str) -> FederationError:
    message = f"The kit must {must}, but {found}; {do}."
    return FederationError(message)
