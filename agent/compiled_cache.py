"""The folder of compiled models: one subfolder per bundle and OpenVINO version, sealed with hashes, pruned by us."""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)

KEPT_FOLDERS = 3  # the one in use and two before it: a rollback, or a second agent with another bundle
_SEAL = "seal.json"
_OURS = re.compile(r"^model-[0-9a-f]{16}-[\w.-]+$")


def open_cache(root: Path, bundle_sha256: str, openvino_version: str) -> Path | None:
    """The absolute folder for this bundle and version, made and checked, or None (said once) if it cannot be written.

    A compiled model that is not what was sealed (a cut file, a flipped bit) is deleted, so that OpenVINO compiles it
    again: what runs is always what the bundle's hashes vouch for.
    """
    folder = root.absolute() / f"model-{bundle_sha256[:16]}-{re.sub(r'[^A-Za-z0-9_.-]', '_', openvino_version)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _prune(root.absolute(), keep=folder)
        if _hashes(folder) != _read_seal(folder):
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
        os.utime(folder)
        probe = folder / f"probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        logger.warning("cache of compiled models %s: %s; the model is compiled at every start", folder, error.strerror)
        return None
    return folder


def is_empty(folder: Path) -> bool:
    """Whether this folder holds no compiled model yet."""
    return not any(file.name != _SEAL for file in folder.iterdir())


def seal_cache(folder: Path) -> None:
    """Notes the hash of every file that OpenVINO wrote, for the next start."""
    try:
        (folder / _SEAL).write_text(json.dumps(_hashes(folder)))
    except OSError as error:
        logger.warning("cache of compiled models %s: %s; the next start compiles again", folder, error.strerror)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.iterdir() if file.name != _SEAL)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _read_seal(folder: Path) -> object:
    try:
        return json.loads((folder / _SEAL).read_bytes())
    except (OSError, ValueError):
        return {}


def _prune(root: Path, keep: Path) -> None:
    others = [path for path in root.iterdir() if _OURS.match(path.name) and path.is_dir() and path != keep]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in others[KEPT_FOLDERS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)
        logger.info("cache of compiled models: %s removed, no longer used", path)
