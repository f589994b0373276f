"""Changes files of a bundle in one step: its path holds the old bundle or the new one, never a mixture."""

import ctypes
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from zsad_core.bundle import MANIFEST, SIGNATURE, bundle_folder, load_bundle
from zsad_core.errors import BundleError

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's <fcntl.h> and <linux/fs.h>


def rewrite_bundle(source: Path, changed: dict[str, bytes], out: Path) -> str:
    """Copies the bundle `source` to `out` with some files changed; gives its sha256. `out` may be `source`.

    The result is a folder or a .zip, like `source`. Other files do not change. If the manifest changes and no new
    signature is given, the old signature is dropped.

    Args:
        source: folder or .zip.
        changed: name -> new content: files and the manifest with their hashes, or only the signature.
        out: is replaced if it is a bundle of the same kind.

    Raises:
        ValueError: `out` exists and is not such a bundle.
        BundleError: the bundle cannot be written, or the written one does not load; `out` is then unchanged.
    """
    source, out = source.resolve(), out.resolve()  # replaces the target of a link, not the link
    if source in out.parents:
        raise ValueError(f"{out}: lies inside the bundle {source}; choose another --out")
    if out != source and out.exists() and not _same_kind(source, out):
        kind = "folder" if source.is_dir() else ".zip"
        raise ValueError(f"{out}: exists and is not a bundle {kind} like {source}; choose another --out")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as folder:
            partial = Path(folder) / out.name
            copy = _copy_folder if source.is_dir() else _copy_zip
            copy(source, partial, changed)
            sha256 = load_bundle(partial).sha256
            put(partial, out)
    except OSError as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise BundleError(f"{out}: cannot be written: {reason}. Choose another --out.") from error
    return sha256


def _same_kind(source: Path, out: Path) -> bool:
    return (out / MANIFEST).is_file() if source.is_dir() else zipfile.is_zipfile(out)


def _copy_folder(source: Path, partial: Path, changed: dict[str, bytes]) -> None:
    shutil.copytree(source, partial)
    for name in _outdated(changed):
        (partial / name).unlink(missing_ok=True)
    for name, content in changed.items():
        (partial / name).write_bytes(content)


def _copy_zip(source: Path, partial: Path, changed: dict[str, bytes]) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(partial, "w") as new:
        folder = bundle_folder(old.namelist(), MANIFEST)
        content_of = {f"{folder}{name}": content for name, content in changed.items()}
        outdated = {f"{folder}{name}" for name in _outdated(changed)}
        for member in old.infolist():
            if member.filename not in outdated | content_of.keys():
                new.writestr(member, old.read(member))
        for name, content in content_of.items():
            new.writestr(name, content, zipfile.ZIP_DEFLATED)
    shutil.copymode(source, partial)


def _outdated(changed: dict[str, bytes]) -> set[str]:
    return {SIGNATURE} if MANIFEST in changed and SIGNATURE not in changed else set()


def put(partial: Path, out: Path, exchange: Callable[[Path, Path], bool] | None = None) -> None:
    """Moves `partial` to `out`. An old folder at `out` ends in the folder of `partial`.

    `exchange` swaps two folders in one step. If it gives False, the old folder is moved away first, and for a moment
    `out` does not exist.
    """
    if not out.is_dir():
        partial.replace(out)
    elif not (exchange or _exchange)(partial, out):
        aside = partial.with_name("replaced")
        out.rename(aside)
        try:
            partial.rename(out)
        except BaseException:
            aside.rename(out)
            raise


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two paths in one step; False if the system cannot. (A rename cannot replace a folder with content.)"""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is None:
        return False
    return bool(
        renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE)) == 0
    )
