"""The cache of compiled models, checked by hashes and pruned here.

The model of a bundle and each of its feature networks have a folder of their own for each version of OpenVINO.
"""

import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

KEPT_BUNDLES = 3  # the one in use and two before it: a rollback, or a second agent with another bundle
LOCK_PATIENCE_S = 60.0  # longest wait for another process that compiles; a model takes seconds
_LOOK_AGAIN_S = 0.05
_SEAL = "seal.json"
_LOCK = "lock"
_NETWORK = "--"  # before the name of a feature network
_OURS = re.compile(r"^model-[0-9a-f]{16}-[\w.-]+$")


@contextmanager
def alone_in(root: Path, *, patience_s: float = LOCK_PATIENCE_S) -> Iterator[bool]:
    """Locks the folder, and waits for other processes. Yields False if the lock was not available.

    OpenVINO writes a compiled model in place, and another process could read half of it.

    Args:
        root: folder of all compiled models; created if missing.
        patience_s: longest wait in seconds. Yields False after it, or if the folder cannot be written (logged).
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = os.open(root / _LOCK, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)  # readable by any user
    except OSError as error:
        logger.warning("model cache %s: %s; the model is compiled at every start", root, error.strerror)
        yield False
        return
    try:
        yield _taken(lock, root, patience_s)
    finally:
        os.close(lock)


def _taken(lock: int, root: Path, patience_s: float) -> bool:
    end_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end_s:
                logger.warning("model cache %s: locked by another process for %.0f s; it is not used", root, patience_s)
                return False
            time.sleep(_LOOK_AGAIN_S)
        except OSError as error:  # a file system without locks
            logger.warning("model cache %s cannot be locked: %s; it is not used", root, error.strerror)
            return False


def open_cache(root: Path, bundle_sha256: str, openvino_version: str, network: str = "") -> Path | None:
    """The absolute folder for these, created and checked; None (logged) if it cannot be written.

    A compiled model with a wrong hash (a cut file, a flipped bit) is deleted, so OpenVINO compiles it again from the
    verified bundle. Call this and `seal_cache` inside `alone_in` of the root.

    `network`: name of a feature network; empty for the bundle's model.
    """
    name = f"model-{bundle_sha256[:16]}-{re.sub(r'[^A-Za-z0-9_.-]', '_', openvino_version)}"
    folder = root.absolute() / (f"{name}{_NETWORK}{network}" if network else name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _prune(root.absolute(), keep=folder)
        if _hashes(folder) != _read_seal(folder) or not any(folder.glob("answer-*.npy")):
            clear_cache(folder)
        os.utime(folder)
        probe = folder / f"probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        logger.warning("model cache %s: %s; the model is compiled at every start", folder, error.strerror)
        return None
    return folder


def clear_cache(folder: Path) -> None:
    """Deletes the compiled model, so that the next compilation does not read it."""
    with suppress(OSError):  # `open_cache` finds what is left
        for file in folder.iterdir():
            file.unlink(missing_ok=True)


def forget_compiled(root: Path, bundle_sha256: str) -> None:
    """Deletes the compiled models of a bundle."""
    with alone_in(root) as alone:
        for folder in root.glob(f"model-{bundle_sha256[:16]}-*") if alone else ():
            shutil.rmtree(folder, ignore_errors=True)


def known_file(folder: Path, variant: str) -> Path:
    """Where the answer of a freshly compiled model to the test picture is stored, `.npy`.

    `variant`: which of the bundle's models, computed on which device and how.
    """
    return folder / f"answer-{variant}.npy"


def seal_cache(folder: Path) -> None:
    """Writes the hash of every file for the check at the next start, if one is newer than the hashes."""
    seal = folder / _SEAL
    try:
        if not seal.exists() or any(file.stat().st_mtime_ns > seal.stat().st_mtime_ns for file in folder.iterdir()):
            seal.write_text(json.dumps(_hashes(folder)))
    except OSError as error:
        logger.warning("model cache %s: %s; the next start compiles again", folder, error.strerror)


def _hashes(folder: Path) -> dict[str, str]:
    hashes: dict[str, str] = {}
    for path in sorted(path for path in folder.iterdir() if path.name != _SEAL):
        with path.open("rb") as file:
            hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes


def _read_seal(folder: Path) -> object:
    try:
        return json.loads((folder / _SEAL).read_bytes())
    except (OSError, ValueError):
        return {}


def _prune(root: Path, keep: Path) -> None:
    """Deletes the folders of all but the `KEPT_BUNDLES` bundles used last."""
    used_s: dict[str, float] = {}  # by the name without the network
    folders = [path for path in root.iterdir() if _OURS.match(path.name) and path.is_dir()]
    for path in folders:
        bundle = path.name.partition(_NETWORK)[0]
        used_s[bundle] = max(used_s.get(bundle, 0.0), path.stat().st_mtime)
    used_s[keep.name.partition(_NETWORK)[0]] = math.inf
    kept = sorted(used_s, key=used_s.__getitem__, reverse=True)[:KEPT_BUNDLES]
    for path in folders:
        if path.name.partition(_NETWORK)[0] not in kept:
            shutil.rmtree(path, ignore_errors=True)
            logger.info("old model cache removed: %s", path)
