"""The device's copies of commanded bundles, in `<state folder>/bundles/<sha256>/`.

`selected.json` names the current and the previous bundle. After every step the next start finds a complete bundle:
a copy is written under another name, synced and renamed; so is `selected.json`. Bundles that it does not name are
removed last.
"""

import contextlib
import hashlib
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import Field

from zsad_agent.config import SHIPPED_BUNDLE, SHIPPED_BUNDLES, InferenceConfig
from zsad_agent.system import read_json, sync_folder, write_synced, write_whole
from zsad_core.bundle import (
    MANIFEST,
    MAX_FILE_BYTES,
    MAX_MANIFEST_BYTES,
    MAX_SIGNATURE_BYTES,
    SIGNATURE,
    Bundle,
    MissingFileError,
    Sha256,
    TrustedKey,
    bundle_reader,
    load_bundle,
    parse_manifest,
    read_manifest,
    read_trusted_keys,
)
from zsad_core.config import StrictModel
from zsad_core.errors import BundleError, ZsadError

logger = logging.getLogger(__name__)

DetectorT = TypeVar("DetectorT")
ModelT = TypeVar("ModelT", bound=StrictModel)

MAX_ATTEMPTS = 3  # starts with a stored bundle that end before it is ready (a crash or kill in the compiler)
_SELECTED, _ATTEMPTS = "selected.json", "attempts.json"
_SHIPPED = "shipped"
_MAX_JSON_BYTES = 65_536
_OURS = re.compile(r"^(\.new-)?[0-9a-f]{64}$")


def open_bundle(config: InferenceConfig) -> Bundle:
    """Opens the config's bundle. If the config has trusted keys, one of them must have signed it.

    The bundle that ships inside the program needs no signature: a user who can change it can change the program.

    Raises:
        ConfigError: a key cannot be used.
        BundleError: the bundle cannot be read, or no trusted key signed it.
    """
    return load_bundle(config.bundle, () if _is_shipped(config.bundle) else read_trusted_keys(config.trusted_keys))


class Selection(StrictModel):
    """The content of `selected.json`."""

    current: Sha256
    previous: Sha256 | None  # None: the config's bundle ran before; it is not stored here
    # The config's bundle at the time of the selection: its sha256, or `shipped` for the bundle inside the program, also
    # after an update of the program. If the config names another bundle now, the config's bundle is used.
    instead_of: str


class Attempts(StrictModel):
    """Stored bundle -> number of starts with it that did not become ready."""

    counts: dict[Sha256, int] = Field(default={})


@dataclass(frozen=True, kw_only=True)
class Started(Generic[DetectorT]):
    """The outcome of a start."""

    bundle: Bundle  # without its model, which the detector has compiled
    detector: DetectorT
    reasons: tuple[str, ...]  # one for each bundle that could not be used; empty: this is the selected bundle


class BundleStore:
    """Owns the folder. For one thread at a time."""

    def __init__(self, folder: Path, config: InferenceConfig) -> None:
        """Does not access the folder, which need not exist."""
        self._folder = folder
        self._config = config
        self._selection: Selection | None = None  # as read at the start or written since

    def start(self, compile_bundle: Callable[[Bundle], DetectorT]) -> Started[DetectorT]:
        """The selected bundle, compiled; if it cannot be used, the previous one; if that cannot, the config's.

        Raises:
            ConfigError: a key cannot be used.
            ZsadError: the config's bundle cannot be used, and there is no other.
        """
        keys = read_trusted_keys(self._config.trusted_keys)
        reasons: list[str] = []
        for sha256 in self._to_try(reasons):
            self._note_attempts(sha256, +1)
            try:
                bundle = self._open(sha256, keys)
                detector = compile_bundle(bundle)
            except (ZsadError, MemoryError) as error:
                _skip(reasons, f"the selected bundle {sha256[:12]} cannot be used: {str(error) or 'no memory'}")
                self._note_attempts(sha256, None)
            else:
                self._note_attempts(sha256, None)
                return Started(bundle=bundle.without_model(), detector=detector, reasons=tuple(reasons))
        bundle = open_bundle(self._config)
        detector = compile_bundle(bundle)
        return Started(bundle=bundle.without_model(), detector=detector, reasons=tuple(reasons))

    def add(self, source: Path) -> Bundle:
        """Copies a bundle into the folder and returns the copy, checked as written. Does not select it.

        Raises:
            ConfigError: a key cannot be used.
            BundleError: `source` cannot be used, or the copy cannot be written.
        """
        keys = read_trusted_keys(self._config.trusted_keys)
        sha256 = load_bundle(source, keys).sha256  # before anything is written
        with contextlib.suppress(BundleError):
            return self._open(sha256, keys)  # a complete copy exists already
        final, partial = self._folder / sha256, self._folder / f".new-{sha256}"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _copy_files(source, partial)
            shutil.rmtree(final, ignore_errors=True)  # it exists but does not load
            partial.rename(final)
            sync_folder(self._folder)
        except OSError as error:
            raise BundleError(f"{self._folder}: the bundle cannot be stored: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return self._open(sha256, keys)

    def select(self, new: Bundle, before: Bundle) -> None:
        """Selects a bundle that `add` returned for the next starts. Removes all others except the one before.

        Raises:
            BundleError: the selection cannot be written; the previous one still counts.
        """
        previous = before.sha256 if self.holds(before) else None
        if new.sha256 == before.sha256:
            last = self._read(_SELECTED, Selection)
            previous = last.previous if last and last.current == new.sha256 else None
        selection = Selection(current=new.sha256, previous=previous, instead_of=self._config_bundle("unreadable"))
        try:
            self._write(_SELECTED, selection)
        except OSError as error:
            raise BundleError(f"{self._folder / _SELECTED}: cannot be written: {error.strerror}") from error
        self._selection = selection
        self._note_attempts(new.sha256, None)
        self.prune()

    def holds(self, bundle: Bundle) -> bool:
        """Whether it was loaded from here."""
        return bundle.path.parent == self._folder

    @property
    def previous(self) -> Path | None:
        """The bundle that was selected before the present one; None: it was the config's."""
        with contextlib.suppress(ValueError):
            selection = read_json(self._folder / _SELECTED, Selection, _MAX_JSON_BYTES)
            if selection is not None and selection.previous is not None:
                return self._folder / selection.previous
        return None

    def forget(self) -> None:
        """Removes the selection: the next start runs the config's bundle.

        Raises:
            BundleError: the selection cannot be removed.
        """
        try:
            (self._folder / _SELECTED).unlink(missing_ok=True)
        except OSError as error:
            raise BundleError(f"{self._folder / _SELECTED}: cannot be removed: {error.strerror}") from error
        self._selection = None

    def check(self, running: Bundle) -> str | None:
        """Writes the selection again if another program has removed or changed it. Call it regularly.

        Returns:
            Why the next start cannot run the bundle `running`; None: it can, or it is not stored here.
        """
        if self._selection is None or not self.holds(running):
            return None
        path = self._folder / _SELECTED
        if self._read(_SELECTED, Selection) != self._selection:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._write(_SELECTED, self._selection)
            except OSError as error:
                return f"{path}: another program has removed or changed it, and it cannot be written: {error.strerror}"
            logger.error("%s: another program has removed or changed it: it is written again", path)
        try:
            missing = [name for name in (MANIFEST, *running.manifest.files) if not (running.path / name).is_file()]
        except OSError as error:
            return f"{running.path}: cannot be read, so the next start cannot run this bundle: {error.strerror}"
        if not missing:
            return None
        return (
            f"{running.path}: another program has removed {missing[0]}, so the next start cannot run this bundle. "
            "Select it again (bundle/set)"
        )

    def prune(self) -> None:
        """Removes the copies that `selected.json` does not name."""
        try:
            selection = read_json(self._folder / _SELECTED, Selection, _MAX_JSON_BYTES)
        except ValueError:  # the selected copy is unknown now; it may be known next time
            return
        named = {selection.current, selection.previous} if selection else set()
        with contextlib.suppress(OSError):  # no folder yet
            for path in self._folder.iterdir():
                if _OURS.match(path.name) and path.name not in named:
                    shutil.rmtree(path, ignore_errors=True)

    def _to_try(self, reasons: list[str]) -> Iterator[str]:
        """The stored bundles in the order of trying. Adds to `reasons` why one is skipped."""
        path = self._folder / _SELECTED
        try:
            selection = read_json(path, Selection, _MAX_JSON_BYTES)
        except ValueError as error:
            _skip(reasons, f"{path}: cannot be read, so the selected bundle is unknown: {error}")
            return
        if selection is None:
            return
        if selection.instead_of != self._config_bundle(selection.instead_of):
            _skip(reasons, f"inference.bundle was changed since the bundle {selection.current[:12]} was selected")
            return
        self._selection = selection
        counts = (self._read(_ATTEMPTS, Attempts) or Attempts()).counts
        for sha256 in filter(None, (selection.current, selection.previous)):
            if counts.get(sha256, 0) < MAX_ATTEMPTS:
                yield sha256
            else:
                _skip(
                    reasons, f"{MAX_ATTEMPTS} starts with the selected bundle {sha256[:12]} ended before it was ready"
                )

    def _open(self, sha256: str, keys: Sequence[TrustedKey]) -> Bundle:
        bundle = load_bundle(self._folder / sha256, keys)
        if bundle.sha256 != sha256:
            raise BundleError(f"{bundle.path}: holds another bundle, {bundle.sha256[:12]}")
        return bundle

    def _config_bundle(self, when_unreadable: str) -> str:
        if _is_shipped(self._config.bundle):
            name = self._config.bundle.resolve().name
            return _SHIPPED if name == SHIPPED_BUNDLE.name else f"{_SHIPPED} {name}"
        try:
            return hashlib.sha256(read_manifest(self._config.bundle)).hexdigest()
        except BundleError:
            return when_unreadable

    def _note_attempts(self, sha256: str, more: int | None) -> None:
        """Adds `more` to the bundle's count; None deletes the count. If the disk fails, starts are not counted."""
        counts = dict((self._read(_ATTEMPTS, Attempts) or Attempts()).counts)
        if more is None and sha256 not in counts:
            return
        count = counts.pop(sha256, 0)
        if more is not None:
            counts[sha256] = count + more
        with contextlib.suppress(OSError):
            self._write(_ATTEMPTS, Attempts(counts=counts))

    def _read(self, name: str, model: type[ModelT]) -> ModelT | None:
        """None if the file is missing or damaged."""
        with contextlib.suppress(ValueError):
            return read_json(self._folder / name, model, _MAX_JSON_BYTES)
        return None

    def _write(self, name: str, values: StrictModel) -> None:
        write_whole(self._folder / name, values.model_dump_json().encode())


def _is_shipped(path: Path) -> bool:
    return path.resolve().parent == SHIPPED_BUNDLES.resolve()


def _skip(reasons: list[str], reason: str) -> None:
    logger.warning("%s", reason)
    reasons.append(reason)


def _copy_files(source: Path, folder: Path) -> None:
    """Copies and syncs the manifest, the signature and the files that the manifest names; nothing else."""
    read = bundle_reader(source, MANIFEST)
    manifest = read(MANIFEST, MAX_MANIFEST_BYTES)
    write_synced(folder / MANIFEST, manifest)
    with contextlib.suppress(MissingFileError):
        write_synced(folder / SIGNATURE, read(SIGNATURE, MAX_SIGNATURE_BYTES))
    for name in parse_manifest(manifest, f"{source}/{MANIFEST}").files:
        if Path(name).name != name:  # the source has changed since it was checked
            raise BundleError(f"{source}/{MANIFEST}: files: {name!r} is not a file of a bundle")
        write_synced(folder / name, read(name, MAX_FILE_BYTES))
    sync_folder(folder)
