"""What is rolled out: a .zip of a bundle, or an exported profile."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

from zsad_core.bundle import UNREADABLE_ZIP, is_signed, load_bundle, open_zip, read_member, zip_members
from zsad_core.config import StrictModel
from zsad_core.errors import ConfigError, ZsadError

MAX_FACTS_BYTES = 4_000_000
MAX_SIGNATURE_BYTES = 512


class FleetError(ZsadError):
    """A rollout cannot go on."""


class Item(StrictModel):
    """A file of the store."""

    kind: Literal["bundle", "profile"]
    name: str  # for people
    sha256: str  # of the file
    in_use: str  # what a device names that uses it: the hash of the manifest, or of the profile
    bytes: int
    url: str | None  # None: it is only left
    signature: str | None = None  # of a profile
    product: str | None = None  # of a profile

    def command(self, action: str) -> dict[str, Any]:
        """The value of the command on `update/set`."""
        value: dict[str, Any] = {"action": "rollback", "kind": self.kind}
        value |= {"sha256": self.in_use, "product": self.product}
        if action == "rollout":
            value |= {"action": "fetch", "sha256": self.sha256, "product": None}
            value |= {"bytes": self.bytes, "url": self.url, "signature": self.signature}
        return {key: content for key, content in value.items() if content is not None}


def read_item(path: Path, store: str | None, *, allow_unsigned: bool) -> Item:
    """Checks the file, which the store serves under the same name.

    Raises:
        ZsadError: it cannot be used, or is not signed.
    """
    if path.is_dir():
        raise ConfigError(f"{path}: a folder. The store serves one file: zip it, and name the .zip")
    url = None if store is None else f"{_checked(store).rstrip('/')}/{quote(path.name)}"
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    if path.suffix == ".profile":
        signature = _signature_of(path)
        product, in_use = _product_of(path), sha256
        name = f"profile of {product}"
    else:
        bundle = load_bundle(path)
        signature, product, in_use = None, None, bundle.sha256
        name = f"{bundle.manifest.name} {bundle.manifest.version}"
    if not allow_unsigned and not (is_signed(path) if product is None else signature):
        raise ConfigError(f"{path}: not signed. Sign it with zsad-convert sign, or give --allow-unsigned")
    return Item(
        kind="bundle" if product is None else "profile",
        name=f"{name} ({in_use[:12]})",
        sha256=sha256,
        in_use=in_use,
        bytes=size,
        url=url,
        signature=signature,
        product=product,
    )


def _checked(store: str) -> str:
    """The URL, which each reader of the broker sees. The text of an error does not show it."""
    parts = urlsplit(store)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in store or "?" in store or "#" in store:
        raise ConfigError("--store: expected https://host/folder, without user, password, ? and #")
    return store


def _signature_of(path: Path) -> str | None:
    try:
        with path.with_name(f"{path.name}.sig").open("rb") as file:
            return file.read(MAX_SIGNATURE_BYTES).decode("ascii")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}.sig: cannot be read: {error}") from error


def _product_of(path: Path) -> str:
    try:
        with path.open("rb") as file, open_zip(file) as archive:
            members = zip_members(archive, str(path))
            facts = json.loads(read_member(archive, members["profile.json"], str(path), MAX_FACTS_BYTES))
            return str(facts["product"])
    except (*UNREADABLE_ZIP, TypeError, RecursionError) as error:
        raise FleetError(f"{path}: not a profile of zsad-agent profiles export: {error}") from error
