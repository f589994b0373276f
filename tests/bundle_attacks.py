"""Keys, signatures and archives for tests, made without `zsad_convert`."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from zsad_core.bundle import MANIFEST, SIGNATURE, TrustedKey, key_id, sign_manifest


def make_key(number: int) -> Ed25519PrivateKey:
    """A private key for each number, always the same."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number] * 32))


def trusted(key: Ed25519PrivateKey) -> TrustedKey:
    public_bytes = key.public_key().public_bytes_raw()
    return TrustedKey(key_id=key_id(public_bytes), public_bytes=public_bytes, path=Path("line.pub"))


def write_public_key(path: Path, key: Ed25519PrivateKey) -> Path:
    path.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


def sign_folder(bundle: Path, key: Ed25519PrivateKey) -> Path:
    (bundle / SIGNATURE).write_bytes(sign_manifest((bundle / MANIFEST).read_bytes(), key))
    return bundle


def rehash(bundle: Path) -> Path:
    """Updates the manifest's hashes to the present files, as an attacker without the key can."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"] = {name: hashlib.sha256((bundle / name).read_bytes()).hexdigest() for name in manifest["files"]}
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    return bundle


def change_manifest(bundle: Path, **changes: object) -> Path:
    manifest = json.loads((bundle / MANIFEST).read_text()) | changes
    (bundle / MANIFEST).write_text(json.dumps(manifest))
    return bundle


def zip_folder(bundle: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(bundle.iterdir()):
            file.write(path, path.name)
    return archive


def copy_bundle(bundle: Path, to: Path) -> Path:
    return Path(shutil.copytree(bundle, to))


def with_products(bundle: Path, *names: str) -> Path:
    """Removes all other products from the bundle's prompts and manifest."""
    with np.load(bundle / "prompts.npz") as prompts:
        kept = {name: prompts[name] for name in names}
    np.savez(bundle / "prompts.npz", **kept)
    return rehash(change_manifest(bundle, products=list(names)))
