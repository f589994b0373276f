"""The profiles of a device, in `<folder>/<product>/<number>.profile`.

`<product>/current` holds the number of the profile in use. A profile is written under another name, synced and
renamed; then `current` is replaced in the same way. So a kill or power cut at any moment leaves the earlier profile in
use. Files are never changed after they were written. Readers need no lock; changes hold the lock of the folder.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_agent import teaching
from zsad_agent.system import file_stamp, sync_folder, write_whole
from zsad_core.bundle import GENERIC_PRODUCT, TrustedKey, check_profile_signature, product_name
from zsad_core.errors import ProductError, ProfileError

if TYPE_CHECKING:  # without a profile none is imported, so that the first verdict comes earlier
    from zsad_agent.teaching.profile import Profile

KEPT = 3  # newest profiles of a product
NEAR, MISTAKEN = 0.6, 0.8  # likeness of names, in [0, 1]: named in an error; probably meant
CURRENT = "current"
_LOCK = ".lock"
_REMOVED = ".removed"
_FILE = re.compile(r"([1-9][0-9]{0,8})\.profile")
_NUMBER = re.compile(rb"([1-9][0-9]{0,8})\n")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the store has for a product."""

    product: str
    number: int | None  # of the profile in use; None: none is chosen
    numbers: tuple[int, ...]  # of the kept profiles, rising
    profile: Profile | None  # the one in use
    fault: str | None  # why it cannot be used


class ProfileStore:
    """Reads and changes the folder. Any thread and process may use it."""

    def __init__(self, folder: Path, *, must_exist: bool = False) -> None:
        """`must_exist`: a missing folder is a fault (its disk may be missing), not the same as nothing taught."""
        self.folder = folder
        self._must_exist = must_exist

    def products(self) -> list[str]:
        """The products for which something was taught, sorted.

        Raises:
            ProfileError: the folder cannot be read.
        """
        try:
            return sorted(name for name in os.listdir(self.folder) if self.has(name))  # noqa: PTH208 - names alone
        except FileNotFoundError:
            self._check_exists()
            return []
        except OSError as error:
            raise self._fault("cannot be read", error) from error

    def has(self, product: str) -> bool:
        """Whether something was taught for the product, even if its profile is damaged."""
        try:
            return self._number(product) is not None
        except ProfileError:
            return True

    def stamp(self, product: str) -> tuple[int, int, int] | None:
        """Differs after another profile of the product came into use. For any thread, at once."""
        return file_stamp(self.folder / product / CURRENT)

    def current(self, product: str) -> Profile | None:
        """The profile in use; None if nothing was taught for the product.

        Raises:
            ProfileError: it is damaged or belongs to another product.
        """
        while (number := self._number(product)) is not None:
            try:
                return self._read(product, number)
            except ProfileError:
                if self._number(product) == number:
                    raise
                continue  # another process has replaced it meanwhile
        return None

    def _read(self, product: str, number: int) -> Profile:
        path = self._path(product, number)
        profile = teaching.read_profile(path)
        if profile.product != product:
            raise ProfileError(f"{path}: is the profile of {profile.product!r}. Import it, do not copy it here")
        return profile

    def entry(self, product: str) -> Entry:
        """What there is for the product; a damaged profile is a fault."""
        number, profile, fault = None, None, None
        try:
            number = self._number(product)
            profile = self.current(product)
        except ProfileError as error:
            fault = str(error)
        numbers = tuple(self._numbers(product))
        return Entry(product=product, number=number, numbers=numbers, profile=profile, fault=fault)

    def entries(self) -> list[Entry]:
        """What there is for every product."""
        return [self.entry(product) for product in self.products()]

    def check_writable(self) -> None:
        """Makes the folder, if there is none and it need not exist.

        Raises:
            ProfileError: it cannot be changed.
        """
        with self._changing():
            pass

    def add(self, profile: Profile, *, instead_of: str | None = None) -> Profile:
        """Stores a profile, unless it is in use, and takes it into use. Returns it as stored.

        `instead_of`: the hash of the profile that must be in use before.

        Raises:
            ProfileError: it cannot be stored, for example because the disk is full; the earlier one stays in use.
        """
        return self._put(profile.product, teaching.encode_profile(profile), instead_of)

    def kept(self, product: str) -> Iterator[Profile]:
        """The kept profiles that can be read, the newest first."""
        for number in reversed(self._numbers(product)):
            with contextlib.suppress(ProfileError):
                yield self._read(product, number)

    def import_from(self, path: Path, keys: Sequence[TrustedKey] = ()) -> Profile:
        """Stores the profile in a file, unless it is in use, and takes it into use, after every check.

        `keys`: if there are any, one of them must have signed it.

        Raises:
            BundleError: none did.
            ProfileError: the file is damaged, or cannot be stored; nothing has then changed.
        """
        try:
            with path.open("rb") as file:
                content = file.read(teaching.MAX_BYTES + 1)
        except OSError as error:
            raise ProfileError(f"{path}: cannot be read: {error.strerror or error}") from error
        if keys:
            check_profile_signature(content, path, keys)
        return self._put(teaching.decode_profile(content, str(path)).product, content)

    def export_to(self, product: str, path: Path) -> Profile:
        """Writes the profile in use to a file, and returns it.

        Raises:
            ProfileError: nothing was taught, it is damaged, or the file cannot be written.
        """
        profile = self.current(product)
        if profile is None:
            raise self.nothing(product)
        try:
            content = self.path_of(product).read_bytes()
            if teaching.decode_profile(content, str(path)).sha256 != profile.sha256:
                raise ProfileError(f"{product}: another profile came into use meanwhile. Export it again")
            write_whole(path, content)
        except OSError as error:
            raise ProfileError(f"{path}: cannot be written: {error.strerror or error}") from error
        return profile

    def roll_back(self, product: str) -> Profile:
        """Takes the profile before the one in use into use. A damaged one is passed over.

        Raises:
            ProfileError: there is no earlier one, or it cannot be chosen.
        """
        with self._changing():
            if not self._numbers(product):
                raise self.nothing(product)
            return self._choose_first(product, self._earlier(product))

    def has_earlier(self, product: str) -> bool:
        """Whether `roll_back` finds a profile, which may be damaged."""
        return bool(self._earlier(product))

    def _earlier(self, product: str) -> list[int]:
        """The numbers below the one in use; all if `current` is damaged."""
        numbers, now = self._numbers(product), None
        with contextlib.suppress(ProfileError):
            now = self._number(product)
        return [number for number in numbers if now is None or number < now]

    def remove(self, product: str) -> None:
        """Removes everything that was taught about the product.

        Raises:
            ProfileError: there is nothing, or it cannot be removed.
        """
        with self._changing():
            folder = self._product_folder(product)
            if not folder.is_dir():
                raise self.nothing(product)
            gone = self.folder / _REMOVED
            folder.rename(gone)  # a kill while files are deleted leaves no half of a product
            sync_folder(self.folder)
            shutil.rmtree(gone, ignore_errors=True)

    def _put(self, product: str, content: bytes, instead_of: str | None = None) -> Profile:
        with self._changing():
            folder = self._product_folder(product)
            folder.mkdir(exist_ok=True)
            before, is_damaged = None, False
            try:
                before = self._number(product)
            except ProfileError:  # `current` is damaged
                is_damaged = True
            in_use = None if before is None else self._hash(product, before)
            if instead_of is not None and in_use != instead_of:
                raise ProfileError(f"{product}: another profile came into use meanwhile")
            is_new = in_use != hashlib.sha256(content).hexdigest()
            number = max(self._numbers(product), default=0) + 1 if is_new or before is None else before
            path = self._path(product, number)
            try:
                if is_new:
                    write_whole(path, content)
                stored = replace(teaching.read_profile(path), path=path)  # as the disk has it
                if is_new and not is_damaged:
                    self._prune(product, number, before)
                write_whole(folder / CURRENT, b"%d\n" % number)
            except BaseException:
                with contextlib.suppress(OSError, ProfileError):
                    if is_new and self._chosen(product) != number:
                        path.unlink()
                raise
            sync_folder(self.folder)
            return stored

    def _choose_first(self, product: str, numbers: list[int]) -> Profile:
        """Takes the newest usable one of these into use."""
        fault = "there is no earlier one"
        for number in sorted(numbers, reverse=True):
            try:
                profile = self._read(product, number)
            except ProfileError as error:
                fault = str(error)
                continue
            write_whole(self.folder / product / CURRENT, b"%d\n" % number)
            return profile
        raise ProfileError(f"{product}: cannot return to an earlier profile: {fault}")

    def _prune(self, product: str, number: int, before: int | None) -> None:
        """Deletes old profiles, and what killed writers have left.

        `before` is in use, `number` will be. Every other profile newer than `before` is deleted: people have rolled it
        back, or its writer was killed before it came into use. So a rollback never chooses it. The newest others stay.
        """
        reachable = [one for one in self._numbers(product) if before is None or one <= before or one == number]
        gone = [
            path
            for one in set(self._numbers(product)) - {*reachable[-KEPT:], before}
            for path in (self._path(product, one), self._path(product, one).with_suffix(".jpg"))
        ]
        for path in (*gone, *(self.folder / product).glob(".*.part")):
            with contextlib.suppress(OSError):
                path.unlink()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """The only change of the folder at this time, by any process. OSError becomes ProfileError."""
        self._check_exists()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / _LOCK).open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # the system releases it when the process ends
                shutil.rmtree(self.folder / _REMOVED, ignore_errors=True)  # of a killed `remove`
                yield
        except OSError as error:
            raise self._fault("cannot be changed, so what was in use stays in use", error) from error

    def _number(self, product: str) -> int | None:
        """The number in `current`; without this file that of the newest profile; None: nothing was taught."""
        if not can_be_taught(product):
            return None
        chosen = self._chosen(product)
        return max(self._numbers(product), default=None) if chosen is None else chosen

    def _chosen(self, product: str) -> int | None:
        """The number in `current`; None if there is no such file."""
        path = self.folder / product / CURRENT
        try:
            with path.open("rb") as file:
                found = _NUMBER.fullmatch(file.read(16))
        except (FileNotFoundError, NotADirectoryError):
            self._check_exists()
            return None
        except OSError as error:
            raise self._fault("cannot be read", error) from error
        if found is None:
            raise ProfileError(f"{path}: is damaged. Choose the newest profile with zsad-agent profiles rollback")
        return int(found[1])

    def _numbers(self, product: str) -> list[int]:
        """The numbers of the stored profiles, rising."""
        try:
            names = os.listdir(self.folder / product)  # noqa: PTH208 - names alone
        except OSError:
            return []
        return sorted(int(found[1]) for name in names if (found := _FILE.fullmatch(name)))

    def _hash(self, product: str, number: int) -> str | None:
        """Of a stored profile; None: the disk cannot read it."""
        with contextlib.suppress(OSError):
            return hashlib.sha256(self._path(product, number).read_bytes()).hexdigest()
        return None

    def path_of(self, product: str) -> Path:
        """The file of the profile in use.

        Raises:
            ProfileError: nothing was taught, or the choice is damaged.
        """
        number = self._number(product)
        if number is None:
            raise self.nothing(product)
        return self._path(product, number)

    def _path(self, product: str, number: int) -> Path:
        return self.folder / product / f"{number}.profile"

    def _product_folder(self, product: str) -> Path:
        try:
            if product_name(product) == product:
                return self.folder / product
        except ValueError as error:
            raise ProfileError(f"product {error}") from error
        raise ProfileError(f"product {product!r}: write it in Unicode's composed form, {product_name(product)!r}")

    def _check_exists(self) -> None:
        if self._must_exist and not self.folder.is_dir():
            raise ProfileError(
                f"{self.folder}: no such folder, so what was taught is unknown. Mount its disk, or make the folder if "
                "nothing was taught yet; then reload the agent"
            )

    def nothing(self, product: str) -> ProfileError:
        """The error of a product that was not taught."""
        taught = ", ".join(self.products()) or "nothing"
        return ProfileError(f"{self.folder}: product {product!r} is not taught; taught are: {taught}")

    def _fault(self, what: str, error: OSError) -> ProfileError:
        return ProfileError(f"{error.filename or self.folder}: {what}: {error.strerror or error}")


def can_be_taught(product: str) -> bool:
    """Whether a product can have this name."""
    try:
        return product_name(product) == product
    except ValueError:
        return False


def is_new(product: str, known: Sequence[str], store: ProfileStore | None) -> bool:
    """Whether a product that is neither in the bundle nor taught may be one that is yet to be taught.

    A name that is near a known one is more likely a mistake. `known`, `store`: as of `naming_taught`.
    """
    return store is not None and can_be_taught(product) and not _near(product, known, store.products(), MISTAKEN)


def _near(product: str, known: Sequence[str], taught: Sequence[str], alike: float) -> list[str]:
    """The known names that are near, in [0, 1] at least `alike`."""
    names = {name.casefold(): name for name in (*known, *taught)}
    return [names[name] for name in difflib.get_close_matches(product.casefold(), names, cutoff=alike)]


@contextlib.contextmanager
def naming_taught(product: str, known: Sequence[str], store: ProfileStore | None) -> Iterator[None]:
    """Says of a product that is neither in the bundle nor taught how it becomes known, and names that are near.

    Args:
        product: its name.
        known: the products of the bundle.
        store: of the profiles; None: nothing taught is used, so the error stays as it is.

    Raises:
        ProductError: of the body.
    """
    try:
        yield
    except ProductError as error:
        if store is None:
            raise
        taught = store.products()
        near = _near(product, known, taught, NEAR)
        raise ProductError(
            f"product {product!r} is not in the bundle and was not taught. "
            + (f"Near names: {', '.join(near)}. " if near else "")
            + f"Teach it first: zsad-agent teach GOOD_PICTURES --product {shlex.quote(product)}. Until then leave the "
            f"product out to inspect as {GENERIC_PRODUCT!r}, or use one that is known. Taught: "
            f"{', '.join(taught) or 'nothing'}. In the bundle: {', '.join(sorted(known)) or 'none'}"
        ) from error
