"""`zsad-convert keygen` and `zsad-convert sign`: make keys and sign bundles."""

import argparse
import contextlib
import getpass
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_convert.bundle import rewrite_bundle
from zsad_core.bundle import SIGNATURE, key_id, load_bundle, read_key_file, read_manifest, sign_manifest, sign_profile
from zsad_core.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ASK = "-"  # value of --passphrase-file that asks on the terminal


def add_commands(commands: Any) -> None:
    """Adds `keygen` and `sign` to the subcommands."""
    keygen = commands.add_parser("keygen", help="make a key pair to sign bundles with")
    keygen.add_argument("--out", type=Path, required=True, metavar="NAME", help="writes NAME.key and NAME.pub")
    sign = commands.add_parser("sign", help="sign a bundle or an exported profile")
    sign.add_argument("bundle", type=Path, help="bundle folder or .zip, or .profile; its signature is replaced")
    sign.add_argument("--key", type=Path, required=True, metavar="FILE", help="the .key of zsad-convert keygen")
    for command, use in ((keygen, "to encrypt the key"), (sign, "of the key")):
        command.add_argument(
            "--passphrase-file",
            metavar="FILE",
            help=f"file with the passphrase {use} on its first line; {ASK} asks on the terminal (default: none)",
        )


def keygen(args: argparse.Namespace) -> None:
    """Writes a new Ed25519 key pair. It does not overwrite files.

    Raises:
        ConfigError: a file of the pair already exists, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private_path, public_path = (args.out.with_name(f"{args.out.name}.{kind}") for kind in ("key", "pub"))
    for path in (private_path, public_path):
        if path.exists() or path.is_symlink():
            raise ConfigError(f"{path}: already exists. A key is not overwritten; choose another --out.")
    passphrase = _passphrase(args.passphrase_file)
    key = Ed25519PrivateKey.generate()
    locked = form.BestAvailableEncryption(passphrase) if passphrase else form.NoEncryption()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, locked)
    public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    _write_new(private_path, private, 0o600)
    try:
        _write_new(public_path, public, 0o644)
    except ConfigError:
        private_path.unlink()
        raise
    print(f"{public_path}: key {key_id(key.public_key().public_bytes_raw())}, for inference.trusted_keys of devices")
    print(f"{private_path}: keep it secret, and do not copy it to devices")


def sign(args: argparse.Namespace) -> None:
    """Signs a bundle, after a check of all its files; or a .profile, with a signature beside it.

    Raises:
        ConfigError: the key cannot be used.
        BundleError: the bundle does not load, or cannot be written.
    """
    key = read_private_key(args.key, args.passphrase_file)
    if args.bundle.suffix == ".profile":
        print(f"{sign_profile(args.bundle, key)}: keep it beside the profile")
        return
    manifest = read_manifest(args.bundle)
    load_bundle(args.bundle)  # the signature covers every file
    signature = sign_manifest(manifest, key)
    sha256 = rewrite_bundle(args.bundle, {SIGNATURE: signature}, args.bundle)
    print(f"{args.bundle}: sha256 {sha256}; signed with key {key_id(key.public_key().public_bytes_raw())}")


def read_private_key(path: Path, passphrase_file: str | None) -> "Ed25519PrivateKey":
    """The key in a PEM file.

    Raises:
        ConfigError: the file cannot be read, is not an Ed25519 key, or the passphrase is missing, wrong or not needed.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    text = read_key_file(path)
    if b"PRIVATE KEY" not in text:
        raise ConfigError(f"{path}: not a PEM file of a private key. Name the .key of zsad-convert keygen.")
    try:
        key = load_pem_private_key(text, _passphrase(passphrase_file))
    except TypeError as error:
        raise ConfigError(f"{path}: {error}. Give a passphrase with --passphrase-file.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path}: cannot be read as a key: wrong passphrase or damaged file") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key. zsad-convert keygen makes one.")
    return key


def _passphrase(source: str | None) -> bytes | None:
    if source is None:
        return None
    if source == ASK:
        if not sys.stdin.isatty():
            raise ConfigError(f"--passphrase-file {ASK}: there is no terminal; name a file")
        line = getpass.getpass("passphrase of the key: ").encode()
    else:
        line = next(iter(read_key_file(Path(source)).splitlines()), b"")
    if not line:
        raise ConfigError(f"--passphrase-file {source}: no passphrase on the first line")
    return line


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:  # noqa: PTH123
            file.write(content)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            with contextlib.suppress(OSError):
                path.unlink()
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
