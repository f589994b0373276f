"""Reads files of an untrusted bundle by name, from a folder or a .zip, into bounded memory.

Nothing is unpacked to disk. Only the requested files are read; other files in the folder or .zip are ignored. A .zip
with a suspicious entry in its directory is refused as a whole.
"""

import io
import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, cast

from zsad_core.errors import BundleError

BundleReader = Callable[[str, int], bytes]  # (name, most bytes) -> content; raises BundleError

MAX_MEMBERS = 10_000  # of a .zip; a bundle has seven files, its prompts.npz has one per product
MAX_DIRECTORY_BYTES = 4_000_000  # of a .zip's directory
MAX_RATIO = 200  # inflated / packed size; float weights pack to 0.9 of their size, the XML of a graph to 0.05
RATIO_COUNTS_FROM_BYTES = 1_000_000  # a smaller file with repeated lines can have a zip bomb's ratio
_CHUNK_BYTES = 1 << 19  # must stay below MAX_DIRECTORY_BYTES
_DRIVE = re.compile(r"^[A-Za-z]:")
_ENCRYPTED = 0x1  # in a member's flag bits


class MissingFileError(BundleError):
    """The bundle has no file of this name."""


def bundle_reader(path: Path, landmark: str) -> BundleReader:
    """A function that reads a file of a bundle by name, up to a number of bytes. It checks no hash.

    Args:
        path: the folder or .zip.
        landmark: a file that every bundle has. In a .zip it is at the top or in the only folder.

    Raises:
        BundleError: there is no such bundle. The returned function raises it if the file is missing, too large,
            unreadable, not a regular file or a link to outside the folder, or if the .zip is suspicious.
    """
    try:
        if path.is_dir():
            return _FolderReader(path)
        if path.is_file():
            return _ZipReader(path, landmark)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    raise BundleError(f"{path}: no such bundle. Name a bundle folder or a .zip of one with --bundle.")


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """The .zip in `file`. Its directory is read with a size limit.

    Raises:
        BundleError: the directory is larger than `MAX_DIRECTORY_BYTES`.
        Exception: one of `UNREADABLE_ZIP`, here or when a member is read.
    """
    return zipfile.ZipFile(cast(IO[bytes], _BoundedReads(file)))


def zip_members(archive: zipfile.ZipFile, source: str, *, names_are_paths: bool = True) -> dict[str, zipfile.ZipInfo]:
    """Checks the directory of `archive` and gives its files by name.

    Args:
        archive: from `open_zip`.
        source: name for errors.
        names_are_paths: False if the names are products; a product may be called `A:1`.

    Raises:
        BundleError: too many files, a duplicate name, a name that leads out of the folder, a link or device, an
            encrypted file, a compression other than deflate (only deflate is read with a limit), or a zip bomb.
    """
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise BundleError(f"{source}: {len(infos)} files, at most {MAX_MEMBERS} are read. Zip one bundle's files.")
    for info in infos:
        if fault := (_name_fault(info.orig_filename) if names_are_paths else None) or _member_fault(info):
            raise BundleError(f"{source}: {info.orig_filename[:80]!r} {fault}. Zip the bundle again, or do not use it.")
    name, count = next(iter(Counter(info.filename for info in infos).most_common(1)), ("", 0))
    if count > 1:
        raise BundleError(f"{source}: {name[:80]!r} occurs {count} times. Zip the bundle again.")
    return {info.filename: info for info in infos}


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: str, max_bytes: int) -> bytes:
    """The content of a member.

    Raises:
        BundleError: it has more than `max_bytes`, or fewer bytes than the directory says.
    """
    if info.file_size > max_bytes:
        raise BundleError(f"{source}: {info.file_size} bytes, at most {max_bytes} are read")
    content = io.BytesIO()  # getvalue makes no second copy
    with archive.open(info) as member:  # reads no more than file_size
        while chunk := member.read(_CHUNK_BYTES):
            content.write(chunk)
    if content.tell() != info.file_size:
        found = content.tell()
        raise BundleError(f"{source}: {found} bytes, the .zip's directory says {info.file_size}: it is damaged")
    return content.getvalue()


UNREADABLE_ZIP = (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError, KeyError, OverflowError)


def _name_fault(name: str) -> str | None:
    if name.startswith("/") or "\\" in name or "\0" in name or _DRIVE.match(name) or ".." in name.split("/"):
        return "is a name that leads out of the folder it would be unpacked to"
    return None


def _member_fault(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device, not a file"
    if info.flag_bits & _ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "uses a compression other than deflate"
    if info.file_size > RATIO_COUNTS_FROM_BYTES and info.file_size > MAX_RATIO * info.compress_size:
        return f"inflates {info.compress_size} bytes to {info.file_size}, too much for a bundle's file"
    return None


class _FolderReader:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, name: str, max_bytes: int) -> bytes:
        file = self._path / name
        try:
            with _open_regular(file, self._path) as opened:
                size = os.fstat(opened.fileno()).st_size
                if size > max_bytes:
                    raise BundleError(f"{file}: {size} bytes, at most {max_bytes} are read")
                return opened.read(size)
        except FileNotFoundError as error:
            raise MissingFileError(f"{file}: cannot be read: {error.strerror}. Is {self._path} a bundle?") from error
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
            reason = getattr(error, "strerror", None) or error
            raise BundleError(f"{file}: cannot be read: {reason}. Is {self._path} a bundle?") from error


def _open_regular(file: Path, root: Path) -> io.FileIO:
    real = file.resolve(strict=True)
    if not real.is_relative_to(root.resolve()):
        raise BundleError(f"{file}: is a link out of the bundle, to {real}. Copy the file into the bundle.")
    # Without O_NONBLOCK, opening a FIFO without a writer would hang.
    opened = io.FileIO(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise BundleError(f"{file}: is not a regular file. Copy the bundle again.")
    return opened


class _ZipReader:
    """The files are at the top or in a single folder: people zip either the files or the folder."""

    def __init__(self, path: Path, landmark: str) -> None:
        self._path = path
        self._landmark = landmark

    def __call__(self, name: str, max_bytes: int) -> bytes:
        try:
            with self._path.open("rb") as file, open_zip(file) as archive:
                members = zip_members(archive, str(self._path))
                info = members.get(f"{bundle_folder(members, self._landmark)}{name}")
                if info is None:
                    raise MissingFileError(
                        f"{self._path}: no {name} at its top or in its one folder. Zip one bundle's files or folder."
                    )
                return read_member(archive, info, f"{self._path}/{name}", max_bytes)
        except UNREADABLE_ZIP as error:
            raise BundleError(f"{self._path}: not a bundle folder nor a readable .zip of one: {error}") from error


def bundle_folder(members: Iterable[str], landmark: str) -> str:
    """The folder of the bundle's files in a .zip, with a slash at its end; empty if they are at the top."""
    folders = [
        name[: -len(landmark)]
        for name in members
        if name == landmark or (name.count("/") == 1 and name.endswith(f"/{landmark}"))
    ]
    return folders[0] if len(folders) == 1 else ""


class _BoundedReads:
    """A file that refuses to read more than `MAX_DIRECTORY_BYTES` at once.

    `zipfile` reads the whole directory with one call, and takes its size from the file.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        size = left if size < 0 else min(size, left)
        if size > MAX_DIRECTORY_BYTES:
            raise BundleError(f"the .zip's directory has {size} bytes, at most {MAX_DIRECTORY_BYTES} are read")
        return self._file.read(size)
