"""The files of a bundle, out of a folder or a .zip that may come from anybody: by name, whole, into bounded memory.

Nothing is unpacked to disk. Of a folder or .zip only the files that are asked for are read; what else lies there is
left alone. A .zip whose directory holds something that no packer writes by accident is refused as a whole.
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

MAX_MEMBERS = 10_000  # of a .zip; a bundle has seven files, its prompts.npz one for each product
MAX_DIRECTORY_BYTES = 4_000_000  # of a .zip's directory
MAX_RATIO = 200  # inflated to packed; float weights pack to 0.9, the XML of a graph to 0.05
RATIO_COUNTS_FROM_BYTES = 1_000_000  # below it a few repeated lines pack as well as a bomb
_CHUNK_BYTES = 1 << 19  # must stay below MAX_DIRECTORY_BYTES
_DRIVE = re.compile(r"^[A-Za-z]:")
_ENCRYPTED = 0x1  # in a member's flag bits


class MissingFileError(BundleError):
    """The bundle has no file of this name."""


def bundle_reader(path: Path, landmark: str) -> BundleReader:
    """Reads a file of a bundle folder or .zip by name, up to a number of bytes; checks no hash.

    Args:
        path: of the folder or .zip.
        landmark: the file that every bundle has; in a .zip it lies at the top or in the one folder.

    Raises:
        BundleError: there is no such bundle; when called, that the file is missing, too large, unreadable, no regular
            file, or reached by a link out of the folder, or that the .zip is one that no packer makes.
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
    """The .zip in `file`, whose directory is read within bounds.

    Raises:
        BundleError: the directory is larger than any bundle's.
        Exception: one of `UNREADABLE_ZIP`, now or while members are read.
    """
    return zipfile.ZipFile(cast(IO[bytes], _BoundedReads(file)))


def zip_members(archive: zipfile.ZipFile, source: str, *, names_are_paths: bool = True) -> dict[str, zipfile.ZipInfo]:
    """The files in `archive` by name, of a directory that holds nothing odd.

    Args:
        archive: as `open_zip` gives it.
        source: for errors.
        names_are_paths: False where they are products, one of which may be called `A:1`.

    Raises:
        BundleError: too many, a name twice or that would lead out of the folder, a link or device, encrypted, packed
            by something other than deflate (whose inflating alone is bounded), or that inflates like a bomb.
    """
    infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise BundleError(f"{source}: {len(infos)} files, at most {MAX_MEMBERS} are read. Zip one bundle's files.")
    for info in infos:
        if fault := (_name_fault(info.orig_filename) if names_are_paths else None) or _member_fault(info):
            raise BundleError(f"{source}: {info.orig_filename[:80]!r} {fault}. Zip the bundle again, or do not use it.")
    name, count = next(iter(Counter(info.filename for info in infos).most_common(1)), ("", 0))
    if count > 1:
        raise BundleError(f"{source}: {name[:80]!r} is in it {count} times. Zip the bundle again.")
    return {info.filename: info for info in infos}


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: str, max_bytes: int) -> bytes:
    """The content, of which there is as much as the directory says.

    Raises:
        BundleError: more than `max_bytes`, or less than the directory says.
    """
    if info.file_size > max_bytes:
        raise BundleError(f"{source}: {info.file_size} bytes, at most {max_bytes} are read")
    content = io.BytesIO()  # gives its bytes without a second copy of them
    with archive.open(info) as member:  # ends at file_size, whatever the stream would inflate to
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
        return "is packed by a method other than deflate"
    if info.file_size > RATIO_COUNTS_FROM_BYTES and info.file_size > MAX_RATIO * info.compress_size:
        return f"inflates {info.compress_size} bytes to {info.file_size}, as no bundle's file does"
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
    # A FIFO that nobody writes to would hold `open` for ever without O_NONBLOCK.
    opened = io.FileIO(os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
        opened.close()
        raise BundleError(f"{file}: is no regular file. Copy the bundle again.")
    return opened


class _ZipReader:
    """The files lie at the top, or in one folder: zipping the files and zipping the folder around them are common."""

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
    """The folder of a .zip that the bundle's files lie in, with its slash; empty for the top."""
    folders = [
        name[: -len(landmark)]
        for name in members
        if name == landmark or (name.count("/") == 1 and name.endswith(f"/{landmark}"))
    ]
    return folders[0] if len(folders) == 1 else ""


class _BoundedReads:
    """A file of which no more than `MAX_DIRECTORY_BYTES` are read at once.

    `zipfile` reads the whole directory in one go, of whatever size the file says it has.
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
