"""TLS: the certificate of the config, or one that the agent makes itself and keeps in its state folder."""

import ipaddress
import logging
import socket
import ssl
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from zsad_agent.system import write_whole
from zsad_core.errors import ConfigError

logger = logging.getLogger(__name__)

CERTIFICATE, KEY = "web-certificate.pem", "web-key.pem"  # in the state folder
VALID = timedelta(days=800)  # browsers accept at most 825
RENEW = timedelta(days=60)  # before its end, at the next start
NOT_BEFORE_YEAR = 2026  # the clock of a device may not be set yet at its first start


def make_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with this certificate.

    Raises:
        ConfigError: a file cannot be read or the two do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key, password=_no_passphrase)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"web.certificate {certificate} and web.key {key} cannot be used: {error}. Name PEM files that belong "
            "together; the key has no passphrase"
        ) from error
    return context


def own_certificate(state_dir: Path, names: Collection[str]) -> tuple[Path, Path]:
    """Certificate and key of `names` (host names and IP addresses), made if there is none that is valid for them.

    Raises:
        OSError: the disk does not store them.
    """
    certificate, key = state_dir / CERTIFICATE, state_dir / KEY
    found = _read(certificate) if key.exists() else None
    if found is None or not _is_current(found) or not set(names) <= names_in(found):
        found = _make(certificate, key, sorted(names))
    fingerprint = found.fingerprint(hashes.SHA256()).hex(":").upper()
    logger.info("TLS certificate %s, SHA-256 fingerprint %s", certificate, fingerprint)
    return certificate, key


def certificate_names(certificate: Path) -> set[str]:
    """The host names in a certificate, in lower case; none if it cannot be read."""
    found = _read(certificate)
    return set() if found is None else names_in(found)


def names_in(certificate: x509.Certificate) -> set[str]:
    """Host names, in lower case, and IP addresses."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    hosts = {name.lower() for name in names.get_values_for_type(x509.DNSName)}
    return hosts | {str(address) for address in names.get_values_for_type(x509.IPAddress)}


def _no_passphrase() -> str:
    raise ValueError("the key is encrypted")


def _read(certificate: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError):
        return None


def _is_current(certificate: x509.Certificate) -> bool:
    return certificate.not_valid_before_utc <= _now() <= certificate.not_valid_after_utc - RENEW


def _now() -> datetime:
    return max(datetime.now(UTC), datetime(NOT_BEFORE_YEAR, 1, 1, tzinfo=UTC))


def _make(certificate: Path, key: Path, names: Collection[str]) -> x509.Certificate:
    private = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"zsad-agent {socket.gethostname()}"[:64])])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - timedelta(days=1))
        .not_valid_after(_now() + VALID)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate.parent.mkdir(parents=True, exist_ok=True)
    write_whole(key, pem, mode=0o600)
    write_whole(certificate, made.public_bytes(serialization.Encoding.PEM))
    logger.info("made a TLS certificate for %s", ", ".join(names))
    return made


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
