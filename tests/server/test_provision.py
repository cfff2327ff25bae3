import socket
import ssl
import stat
import threading
import zipfile
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.kit import Kit
from mediclip.errors import SettingsError
from mediclip.provenance import source_digest
from server.authority import make_authority, make_server_certificate, now_utc
from server.federation import load_federation
from server.provision import Kits, provision

UNITS = {f"mediclip-{part}.service" for part in ("client", "daemon", "node")}
KIT = {"kit.toml", "site.toml", "ca.crt", "node_key", "node_key.pub", "README.md", *UNITS}


@pytest.fixture
def kits(write_federation, tmp_path):
    settings, _ = load_federation(write_federation())
    provision(settings, tmp_path / "kits")
    return Kits(tmp_path / "kits")


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_each_site_gets_a_folder_and_the_same_as_a_zip(kits):
    for site in ("north", "south", "west"):
        folder = kits.folder / site
        assert {path.name for path in folder.iterdir()} == KIT
        archive = zipfile.ZipFile(kits.folder / f"{site}.zip")
        assert set(archive.namelist()) == {f"{site}/{name}" for name in KIT}
        for name in KIT:
            assert archive.read(f"{site}/{name}") == (folder / name).read_bytes()
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}
        assert modes.pop(f"{site}/node_key") == 0o600
        assert set(modes.values()) == {0o644}


def test_what_is_private_is_its_owners_alone(kits):
    assert {mode(kits.folder), mode(kits.coordinator)} == {0o700}
    private = [kits.key, kits.coordinator / "ca.key"]
    for site in ("north", "south", "west"):
        assert mode(kits.folder / site) == 0o700
        private += [kits.folder / site / "node_key", kits.folder / f"{site}.zip"]
    assert {mode(path) for path in private} == {0o600}


def test_a_kit_can_be_read_by_the_site_that_gets_it(kits):
    kit = Kit(kits.folder / "north")
    assert kit.settings.federation == "three-hospitals"
    assert kit.settings.address == ("127.0.0.1", 18443)
    assert kit.settings.app_source_sha256 == source_digest()
    assert timedelta(days=364) < kit.settings.not_after - now_utc() <= timedelta(days=365)
    site = kit.site()
    assert (site.name, site.data, site.max_rounds) == ("north", kit.folder / "scans", 10)
    assert site.metrics == ("train_loss",)
    assert kit.policy().federation == "three-hospitals"


def test_the_units_start_what_the_commands_offer(kits):
    site = (kits.folder / "north" / "mediclip-client.service").read_text()
    assert "mediclip client start --kit /etc/mediclip/north\n" in site
    for part, user in (("daemon", "mediclip"), ("node", "mediclip-node")):
        text = (kits.folder / "north" / f"mediclip-{part}.service").read_text()
        assert f"mediclip client start --kit /etc/mediclip/north --part {part}\n" in text
        assert f"User={user}\n" in text
    server = (kits.coordinator / "mediclip-server.service").read_text()
    assert "mediclip server start /etc/mediclip/federation.toml --out /var/lib/mediclip --resume\n" in server


def test_each_key_is_a_p_384_key_of_its_own_whose_public_half_is_in_the_register(kits):
    lines = set()
    for entry in kits.entries():
        folder = kits.folder / entry.name
        key = serialization.load_ssh_private_key((folder / "node_key").read_bytes(), password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        assert isinstance(key.curve, ec.SECP384R1)
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        assert public.decode() == entry.public_key
        assert (folder / "node_key.pub").read_text() == f"{entry.public_key} {entry.name}\n"
        lines.add(entry.public_key)
    assert len(lines) == 3


def greet_over_tls(kits, host):
    """Make a TLS connection to a server that has the coordinator's certificate, and read its greeting."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(kits.certificate, kits.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            raw, _ = listener.accept()
            try:
                with server.wrap_socket(raw, server_side=True) as connection:
                    connection.sendall(b"hello")
            except (ssl.SSLError, ConnectionError):
                raw.close()  # the other side did not trust us

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            site = ssl.create_default_context(cafile=kits.folder / "north" / "ca.crt")
            site.verify_flags |= ssl.VERIFY_X509_STRICT
            with (
                socket.create_connection(listener.getsockname(), timeout=5) as raw,
                site.wrap_socket(raw, server_hostname=host) as connection,
            ):
                return connection.recv(5)
        finally:
            thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_site_trusts_the_server_by_the_kits_certificate_alone(kits, host):
    assert greet_over_tls(kits, host) == b"hello"


def test_a_site_does_not_trust_the_server_under_another_name(kits):
    with pytest.raises(ssl.SSLCertVerificationError, match=r"evil\.example\.org"):
        greet_over_tls(kits, "evil.example.org")


def test_a_site_does_not_trust_the_certificate_of_another_authority(kits):
    other = make_authority("three-hospitals", now_utc())
    certificate, key = make_server_certificate(other, "127.0.0.1", now_utc(), 30)
    kits.certificate.write_bytes(certificate)
    kits.key.write_bytes(key)
    with pytest.raises(ssl.SSLCertVerificationError):
        greet_over_tls(kits, "127.0.0.1")


def test_the_authority_may_sign_servers_and_no_further_authorities(kits):
    authority = x509.load_pem_x509_certificate(kits.authority.read_bytes())
    constraint = authority.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraint.critical
    assert (constraint.value.ca, constraint.value.path_length) == (True, 0)
    server = x509.load_pem_x509_certificate(kits.certificate.read_bytes())
    server.verify_directly_issued_by(authority)
    assert not server.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_call_changes_nothing(kits, write_federation):
    before = contents(kits.folder)
    done = provision(load_federation(write_federation())[0], kits.folder)
    assert (done.made, done.revoked, done.refreshed) == ((), (), ("north", "south", "west"))
    assert contents(kits.folder) == before


def test_a_refreshed_kit_keeps_its_key_and_what_the_site_wrote(kits, write_federation):
    own = kits.folder / "north" / "site.toml"
    own.write_text(own.read_text().replace('data = "scans"', 'data = "normals"'))
    before = contents(kits.folder)
    settings, _ = load_federation(write_federation(address="fl.example.org:443"))
    provision(settings, kits.folder)
    after = contents(kits.folder)
    changed = {str(path) for path in before if before[path] != after[path]}
    inside = {f"{s}/{n}" for s in ("north", "south", "west") for n in ("kit.toml", "README.md")}
    archives = {f"{s}.zip" for s in ("north", "south", "west")}
    assert changed == inside | archives | {"_coordinator/server.crt", "_coordinator/server.key"}
    assert Kit(kits.folder / "north").settings.address == ("fl.example.org", 443)


def test_a_site_that_is_added_or_new_in_the_settings_gets_a_kit(kits, write_federation):
    settings, _ = load_federation(write_federation(sites=["north", "south", "west", "east"]))
    done = provision(settings, kits.folder, add=["far-away"])
    assert done.made == ("east", "far-away")
    assert [entry.name for entry in kits.active(now_utc())] == ["north", "south", "west", "east", "far-away"]
    assert Kit(kits.folder / "far-away").site().name == "far-away"


def test_a_revoked_site_is_out_until_it_is_added_again_with_a_new_key(kits, write_federation):
    settings, _ = load_federation(write_federation())
    old = {entry.name: entry.public_key for entry in kits.entries()}
    assert provision(settings, kits.folder, revoke=["south"]).refreshed == ("north", "west")
    assert [entry.name for entry in kits.active(now_utc())] == ["north", "west"]
    assert provision(settings, kits.folder).made == ()
    with pytest.raises(SettingsError, match="'south' does not; the sites are north, west"):
        provision(settings, kits.folder, revoke=["south"])
    provision(settings, kits.folder, add=["south"])
    active = {entry.name: entry.public_key for entry in kits.active(now_utc())}
    assert active["south"] != old.pop("south")
    assert old.items() <= active.items()
    assert len(kits.entries()) == 4


@pytest.mark.parametrize(("name", "words"), [("North", "does; revoke it first"), ("../x", "--add-site")])
def test_a_site_that_takes_part_or_has_no_name_is_not_added(kits, write_federation, name, words):
    before = contents(kits.folder)
    with pytest.raises(SettingsError, match=words):
        provision(load_federation(write_federation())[0], kits.folder, add=[name])
    assert contents(kits.folder) == before


def test_an_expired_key_does_not_count(kits):
    later = now_utc() + timedelta(days=366)
    assert kits.active(later) == ()
    assert len(kits.active(now_utc())) == 3


def test_a_certificate_that_ends_soon_is_renewed_and_needs_the_authoritys_key(kits, write_federation):
    short, _ = load_federation(write_federation(valid_days=20))
    provision(short, kits.folder)  # the present one is good for a year
    first = kits.certificate.read_bytes()
    certificate, key = make_server_certificate(
        (kits.authority.read_bytes(), (kits.coordinator / "ca.key").read_bytes()), "127.0.0.1", now_utc(), 20
    )
    kits.certificate.write_bytes(certificate)
    kits.key.write_bytes(key)
    provision(load_federation(write_federation())[0], kits.folder)
    assert kits.certificate.read_bytes() not in {first, certificate}
    assert kits.server_expiry() - now_utc() > timedelta(days=300)
    (kits.coordinator / "ca.key").unlink()
    kits.certificate.write_bytes(certificate)
    with pytest.raises(SettingsError, match=r"_coordinator/ca\.key"):
        provision(load_federation(write_federation())[0], kits.folder)


@pytest.mark.parametrize("text", [None, "{", '{"sites": 3}'])
def test_a_register_that_is_missing_or_damaged_is_named(kits, text):
    kits.register.unlink()
    if text is not None:
        kits.register.write_text(text)
    with pytest.raises(SettingsError, match=r"sites\.json|'sites'"):
        kits.entries()


def test_a_renewed_site_keeps_its_key_and_needs_the_new_kit_toml_alone(kits, write_federation):
    settings, _ = load_federation(write_federation(valid_days=700))
    keys = {entry.name: entry.public_key for entry in kits.entries()}
    (kits.folder / "south" / "node_key").unlink()  # handed over, and deleted here
    before = contents(kits.folder)
    done = provision(settings, kits.folder, renew=["south", "west", "south"])
    assert (done.renewed, done.made, done.refreshed) == (("south", "west"), (), ("north", "west"))
    assert {entry.name: entry.public_key for entry in kits.entries()} == keys
    changed = {str(path) for path, content in contents(kits.folder).items() if before[path] != content}
    assert changed == {
        "south/kit.toml",
        *("west/kit.toml", "west/README.md", "west.zip"),
        "_coordinator/sites.json",
    }
    terms = {entry.name: entry.not_after - now_utc() for entry in kits.entries()}
    assert terms["north"] < timedelta(days=366) < timedelta(days=699) < terms["south"]
    assert Kit(kits.folder / "south").settings.not_after == now_utc() + terms["south"]


def test_an_expired_site_is_renewed_and_a_revoked_or_unknown_one_is_not(kits, write_federation):
    settings, _ = load_federation(write_federation())
    past = now_utc() - timedelta(days=1)
    kits.write([entry.model_copy(update={"not_after": past}) for entry in kits.entries()])
    provision(settings, kits.folder, renew=["north"])
    assert [entry.name for entry in kits.active(now_utc())] == ["north"]
    provision(settings, kits.folder, revoke=["north"])
    for name in ("north", "nowhere"):
        with pytest.raises(SettingsError, match=f"'{name}' has none; add it with --add-site"):
            provision(settings, kits.folder, renew=[name])
