"""The broker's password, from a file or a systemd credential (never logged), and the certificates of TLS."""

import codecs
import errno
import io
import logging
import os
import ssl
import stat
from pathlib import Path

from zsad_agent.config import MqttConfig, TlsConfig
from zsad_core.errors import ConfigError

logger = logging.getLogger(__name__)

OTHERS = 0o007  # permission bits of users that are neither the owner nor of the group
MAX_BYTES = 65_535  # longest password in MQTT
NOT_UTF_8 = "not UTF-8. Save it as UTF-8"


def password_key(config: MqttConfig) -> str:
    """The key below `mqtt` that names the password's file or credential."""
    return "password_credential" if config.password_credential is not None else "password_file"


def read_password(config: MqttConfig) -> str | None:
    """The first line of the file that `config` names; None if it names none (a username may go without a password).

    It is read again for every connection, so a changed password needs no restart.

    Raises:
        ConfigError: the file cannot be read or is empty, or there is a password without a username.
    """
    path = _path(config)
    if path is None:
        return None
    where = f"mqtt.{password_key(config)}: {path}"
    try:
        content = _read(path, len(codecs.BOM_UTF8) + MAX_BYTES + 2)
        # Windows editors write a byte order mark and end lines with CR LF
        password = io.StringIO(content.decode("utf-8-sig"), newline=None).readline().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else NOT_UTF_8
        # `from None`: a decoding error contains the password's bytes
        raise ConfigError(f"{where}: cannot be read: {reason}") from None
    if "\0" in password:
        raise ConfigError(f"{where}: cannot be read: {NOT_UTF_8}")
    if not 0 < len(password.encode()) <= MAX_BYTES:
        raise ConfigError(f"{where}: no password on the first line (1 to {MAX_BYTES} bytes)")
    return password


def warn_of_open_file(config: MqttConfig) -> None:
    """Logs a warning if every user of the machine can read the password."""
    path = _path(config)
    if path is not None and path.exists() and path.stat().st_mode & OTHERS:
        logger.warning(
            "mqtt.%s %s can be read by every user of this machine: run chmod o-rwx on it", password_key(config), path
        )


def _path(config: MqttConfig) -> Path | None:
    named = config.password_credential if config.password_file is None else config.password_file
    if named is None:
        return None
    if config.username is None:
        raise ConfigError(f"mqtt.{password_key(config)} is {named}, but there is no mqtt.username: MQTT needs both")
    if config.password_file is not None:
        return config.password_file
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"mqtt.password_credential is {named}, but systemd passed no credentials: add "
            f"LoadCredential={named}:/path/of/the/file to the service, or set mqtt.password_file"
        )
    return Path(folder) / str(named)


# X509_V_ERR_* of OpenSSL's x509_vfy.h, which the `ssl` module does not name -> its meaning
_CERTIFICATE_FAULTS = {
    9: "is not valid yet (or the clock here is wrong)",
    10: "has expired (or the clock here is wrong)",
    18: "is self-signed and not in mqtt.tls.ca_file",
    **dict.fromkeys((2, 19, 20, 21), "is signed by an unknown authority: set mqtt.tls.ca_file to it"),
    **dict.fromkeys((62, 64), "is for another host than {host}"),
}
# Part of OpenSSL's text -> its meaning. The first match counts.
_MEANINGS = (
    ("CERTIFICATE_REQUIRED", "it asks for a client certificate: set mqtt.tls.cert_file and key_file"),
    ("UNKNOWN_CA", "it does not know the authority that signed our certificate, mqtt.tls.cert_file"),
    ("CERTIFICATE_EXPIRED", "our certificate, mqtt.tls.cert_file, has expired"),
    ("CERTIFICATE_REVOKED", "our certificate, mqtt.tls.cert_file, is revoked"),
    ("CERTIFICATE_UNKNOWN", "it does not accept our certificate, mqtt.tls.cert_file"),
    ("BAD_CERTIFICATE", "it does not accept our certificate, mqtt.tls.cert_file"),
    ("ACCESS_DENIED", "it denies access with our certificate, mqtt.tls.cert_file"),
    ("UNSUPPORTED_PROTOCOL", "it does not support TLS 1.2 or newer"),
    ("ALERT_PROTOCOL_VERSION", "it does not support TLS 1.2 or newer"),
    ("HANDSHAKE_FAILURE", "it ended the TLS handshake: it may require a client certificate (mqtt.tls.cert_file)"),
)
NO_TLS = "it does not speak TLS on this port"


def make_context(config: TlsConfig) -> ssl.SSLContext:
    """Makes a TLS context from the files in `config`. It always checks the broker's certificate and host name.

    Raises:
        ConfigError: a file cannot be read or is not PEM, or certificate and key do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # certificate required, host name checked
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if config.ca_file is None:
        context.load_default_certs()
    else:
        _load_certificates(context, "ca_file", config.ca_file)
    if config.cert_file is not None and config.key_file is not None:
        _load_pair(context, config.cert_file, config.key_file)
    return context


def faulty_key(error: ConfigError) -> str:
    """The key below `mqtt.tls` that an error of `make_context` is about."""
    return str(error).partition(":")[0].rpartition(".")[2]


def meaning(error: str | OSError, host: str) -> str | None:
    """Why TLS with the broker failed, in plain words; None if the error is not from TLS."""
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = _CERTIFICATE_FAULTS.get(error.verify_code, "is not accepted: {error}")
        return "its certificate " + fault.format(host=host, error=error.verify_message)
    text = str(error).upper().replace(" ", "_")
    found = next((what for part, what in _MEANINGS if part in text), None)
    if found is not None or isinstance(error, str):
        return found
    if isinstance(error, TimeoutError):
        return f"{NO_TLS}, or hangs: no answer to the handshake" if "HANDSHAKE" in text else None
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ConnectionResetError | BrokenPipeError):
        return f"{NO_TLS}, or ended the handshake without a reason"
    if isinstance(error, ssl.SSLError):
        return NO_TLS if "WRONG_VERSION" in text or "RECORD_LAYER" in text else f"TLS failed: {_reason(error)}"
    return None


def _load_certificates(context: ssl.SSLContext, key: str, path: Path) -> None:
    _check_pem(key, path, "CERTIFICATE-----")
    try:
        context.load_verify_locations(path)
    except (OSError, ValueError) as error:
        raise _fault(key, path, f"has no valid certificate: {_reason(error)}") from error


def _load_pair(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # `load_cert_chain` does not say which of the files is faulty
    _load_certificates(unused, "cert_file", cert_file)
    _check_pem("key_file", key_file, "PRIVATE KEY-----")

    def no_passphrase() -> str:  # OpenSSL would ask for it on the terminal
        raise _fault("key_file", key_file, "has a passphrase: store the key without one")

    try:
        context.load_cert_chain(cert_file, key_file, password=no_passphrase)
    except (OSError, ValueError) as error:
        reason = _reason(error)
        mismatch = "KEY_VALUES_MISMATCH" in reason or "KEY_TYPE_MISMATCH" in reason
        what = f"is not the key of {cert_file}" if mismatch else f"is not valid PEM: {reason}"
        raise _fault("key_file", key_file, what) from error


def _read(path: Path, most_bytes: int = -1) -> bytes:
    """Raises OSError also for a pipe, which would hang, and a device."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        return file.read(most_bytes)


def _check_pem(key: str, path: Path, mark: str) -> None:
    try:
        text = _read(path).decode(errors="replace")
    except OSError as error:
        raise _fault(key, path, f"cannot be read: {error.strerror}") from error
    if mark not in text:
        raise _fault(key, path, f"has no PEM block that ends in {mark.rstrip('-')}")


def _fault(key: str, path: Path, what: str) -> ConfigError:
    return ConfigError(f"mqtt.tls.{key}: {path} {what}")


def _reason(error: Exception) -> str:
    return (getattr(error, "reason", None) or str(error)).strip()
