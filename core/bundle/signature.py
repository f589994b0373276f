"""Ed25519 signatures of bundles (RFC 8032), with the library `cryptography`.

`manifest.sig` is one line: `ed25519 <key id> <signature>`, both in hexadecimal. The signed message is `_DOMAIN`
followed by the exact bytes of manifest.json, which holds the hash of every other file. `_DOMAIN` prevents the use of a
signature that the same key made for something else. The key id is the start of the SHA-256 of the 32 bytes of the
public key; it only says which key to try.

The signature of an exported profile lies beside it, in `<file>.sig`. Its message has another start.

`cryptography` is imported only when a key is used.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_core.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNATURE = "manifest.sig"
MAX_SIGNATURE_BYTES = 512
MAX_KEY_BYTES = 16_384
_DOMAIN, _PROFILE_DOMAIN = b"zsad-bundle-1\0", b"zsad-profile-1\0"
_LINE = re.compile(rb"ed25519 ([0-9a-f]{16}) ([0-9a-f]{128})\r?\n?")


@dataclass(frozen=True, kw_only=True)
class TrustedKey:
    """A public key; bundles that it signed are accepted."""

    key_id: str
    public_bytes: bytes  # 32, as in RFC 8032
    path: Path


def key_id(public_bytes: bytes) -> str:
    """Sixteen hexadecimal digits that identify a key."""
    return hashlib.sha256(public_bytes).hexdigest()[:16]


def read_trusted_keys(paths: Iterable[Path]) -> tuple[TrustedKey, ...]:
    """The public keys in PEM files.

    Raises:
        ConfigError: a file cannot be read or holds no Ed25519 public key; one line per file.
    """
    keys, faults = [], []
    for path in paths:
        try:
            keys.append(_read_trusted_key(path))
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        raise ConfigError("\n".join(faults))
    return tuple(keys)


def _read_trusted_key(path: Path) -> TrustedKey:
    text = read_key_file(path)
    if b"PRIVATE KEY" in text:
        raise ConfigError(f"{path}: is a private key, which must not be on a device. Name its .pub file instead.")
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(text)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: not a PEM file of a public key. zsad-convert keygen makes one.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError(f"{path}: not an Ed25519 key. zsad-convert keygen makes one.")
    public_bytes = key.public_bytes_raw()
    return TrustedKey(key_id=key_id(public_bytes), public_bytes=public_bytes, path=path)


def read_key_file(path: Path) -> bytes:
    """The content of a key file.

    Raises:
        ConfigError: it cannot be read, is not a regular file, or is too large for a key.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: not a regular file")
        with path.open("rb") as file:
            text = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if len(text) > MAX_KEY_BYTES:
        raise ConfigError(f"{path}: more than {MAX_KEY_BYTES} bytes, too large for a key")
    return text


def sign_manifest(manifest: bytes, key: "Ed25519PrivateKey") -> bytes:
    """The content of `manifest.sig`."""
    return _sign(_DOMAIN + manifest, key)


def sign_profile(profile: Path, key: "Ed25519PrivateKey") -> Path:
    """Signs the file of an exported profile. Returns the file with the signature.

    Raises:
        ConfigError: a file cannot be read or written.
    """
    path = profile.with_name(f"{profile.name}.sig")
    try:
        path.write_bytes(_sign(_PROFILE_DOMAIN + profile.read_bytes(), key))
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}") from error
    return path


def _sign(message: bytes, key: "Ed25519PrivateKey") -> bytes:
    identifier = key_id(key.public_key().public_bytes_raw())
    return f"ed25519 {identifier} {key.sign(message).hex()}\n".encode()


def check_signature(manifest: bytes, signature: bytes, keys: Sequence[TrustedKey], source: str) -> str:
    """The id of the key that signed `manifest`.

    Args:
        manifest: bytes of manifest.json; they are not parsed.
        signature: content of `manifest.sig`.
        keys: at least one.
        source: the bundle, for errors.

    Raises:
        BundleError: `signature` is malformed, made with an untrusted key, or not for this manifest.
    """
    return _check(_DOMAIN + manifest, signature, keys, source, f"{source}/{SIGNATURE}")


def check_profile_signature(content: bytes, profile: Path, keys: Sequence[TrustedKey]) -> None:
    """Checks that one of the keys signed the content of a profile's file.

    Raises:
        BundleError: there is no signature beside the file, or as of `check_signature`.
    """
    path = profile.with_name(f"{profile.name}.sig")
    try:
        with path.open("rb") as file:
            signature = file.read(MAX_SIGNATURE_BYTES)
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror}. inference.trusted_keys is set, so an imported profile must be signed: "
            "zsad-convert sign"
        ) from error
    _check(_PROFILE_DOMAIN + content, signature, keys, str(profile), str(path))


def _check(message: bytes, signature: bytes, keys: Sequence[TrustedKey], source: str, file: str) -> str:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    line = _LINE.fullmatch(signature)
    if line is None:
        raise BundleError(f"{file}: not a valid signature. Sign again with zsad-convert sign.")
    found = line[1].decode()
    named = [key for key in keys if key.key_id == found]
    if not named:
        known = ", ".join(f"{key.key_id} ({key.path.name})" for key in keys)
        raise BundleError(
            f"{source}: signed with key {found}, the trusted keys are {known}. Sign it with one of these, "
            "or add the key's .pub file to inference.trusted_keys if you know whose it is."
        )
    for key in named:
        try:
            Ed25519PublicKey.from_public_bytes(key.public_bytes).verify(bytes.fromhex(line[2].decode()), message)
        except InvalidSignature:
            continue
        return key.key_id
    raise BundleError(
        f"{source}: the signature does not fit: it was changed after it was signed, or its files come from two places. "
        "Do not use it; get it again from its source."
    )
