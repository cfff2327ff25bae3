"""Certificates and keys of a federation: its own authority, the server's certificate, a key for each site."""

import ipaddress
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mediclip.errors import SettingsError
from mediclip.training.checkpoint import write_atomically

AUTHORITY_DAYS: Final = 3650
_CLOCKS_DIFFER: Final = timedelta(hours=1)
_LOOPBACK: Final = ("localhost", "127.0.0.1")


def make_authority(name: str, now: datetime) -> tuple[bytes, bytes]:
    """Make the authority that signs the server's certificate.

    Args:
        name: Name of the federation.
        now: The current time, with a time zone.

    Returns:
        Certificate and private key, both as PEM.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _subject(name, f"{name} authority")
    builder = (
        _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return _pem(builder.sign(key, hashes.SHA384())), _private_pem(key)


def make_server_certificate(
    authority: tuple[bytes, bytes], host: str, now: datetime, days: int
) -> tuple[bytes, bytes]:
    """Make a certificate for the coordinator's host and for loopback.

    Args:
        authority: Certificate and key from :func:`make_authority`.
        host: DNS name or IP address under which the sites reach the server.
        now: The current time, with a time zone.
        days: How long it is good for; never longer than the authority's.

    Returns:
        Certificate and private key, both as PEM.
    """
    issuer = x509.load_pem_x509_certificate(authority[0])
    issuer_key = serialization.load_pem_private_key(authority[1], password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        message = "The authority's key must be an EC key. It is not; provision into a new folder."
        raise SettingsError(message)
    key = ec.generate_private_key(ec.SECP384R1())
    left = (issuer.not_valid_after_utc - now).days
    names = [_general_name(text) for text in dict.fromkeys((host, *_LOOPBACK))]
    identifier = x509.SubjectKeyIdentifier.from_public_key(issuer_key.public_key())
    builder = (
        _builder(_subject(host, host), issuer.subject, key.public_key(), now, min(days, left))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    )
    return _pem(builder.sign(issuer_key, hashes.SHA384())), _private_pem(key)


def make_node_key() -> tuple[bytes, str]:
    """Make a site's key.

    Returns:
        Private key in OpenSSH's format, as ``flower-supernode`` reads it, and the public key's line.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public.decode()


def certificate_expiry(certificate: bytes) -> datetime:
    """Look up until when a certificate is good."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def covers(certificate: bytes, host: str) -> bool:
    """Say whether a certificate is for a host."""
    loaded = x509.load_pem_x509_certificate(certificate)
    names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return _general_name(host) in names


def now_utc() -> datetime:
    """Return the current time in whole seconds, in UTC."""
    return datetime.now(UTC).replace(microsecond=0)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, from its first byte on.

    Args:
        path: A file; one that is there is replaced.
        data: Its content.
    """
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)


def write_public(path: Path, data: bytes) -> None:
    """Write a file that anybody may read."""
    write_atomically(path, data)
    path.chmod(0o644)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _subject(organisation: str, common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64]),
        ]
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
