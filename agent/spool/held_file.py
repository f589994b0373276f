"""The lock on the spool's file, and whether the open file is still the one at its path.

SQLite keeps its files open. It does not notice when they are removed, renamed, overwritten or hidden by a mount.
"""

import errno
import fcntl
import os
import shutil
import struct
from pathlib import Path
from typing import NamedTuple

from zsad_core.errors import SpoolError

_LOCK_BYTE = 0x40000200  # behind the bytes that SQLite locks itself
_FLOCK = struct.Struct("hhqqi4x")  # type, whence, start, length, process


class SpoolHeldError(SpoolError):
    """Another agent uses this spool."""


class Change(NamedTuple):
    """What happened to the open file."""

    text: str
    foreign: bool  # the file at the path is not ours, or not as we wrote it


class _Stamp(NamedTuple):
    """What shows that a file is another one, or was written to."""

    device: int
    inode: int
    bytes: int
    written_ns: int

    @property
    def identity(self) -> tuple[int, int]:
        return self[:2]


_NONE = _Stamp(0, 0, 0, 0)


class HeldFile:
    """The spool's file, created if it is missing, and locked against other agents.

    The lock lies on a byte of the file itself, so it cannot be removed from it. It belongs to a descriptor of its own.
    POSIX drops SQLite's locks when any descriptor of the file is closed: close the connections before `close`.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            SpoolHeldError: another agent has locked the file.
            OSError: the file cannot be opened.
        """
        self.path = path
        self._log_path = Path(f"{path}-wal")
        self._log = _NONE
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
        try:
            _lock(self._fd)
        except OSError as error:
            os.close(self._fd)
            if not isinstance(error, BlockingIOError | PermissionError):
                raise
            raise SpoolHeldError(
                f"{path}: another agent uses this spool. Stop it, or give this agent its own state folder with "
                "STATE_DIRECTORY: commanded settings and bundles are there too."
            ) from error
        self.note_main()

    def close(self) -> None:
        """Ends the lock."""
        os.close(self._fd)

    def copy(self, target: Path) -> None:
        """Writes what the file contains without its log, even if the file has no name any more."""
        with open(self._fd, "rb", closefd=False) as source, target.open("wb") as file:
            source.seek(0)
            shutil.copyfileobj(source, file)
            file.flush()
            os.fsync(file.fileno())

    def rename(self, path: Path) -> None:
        """The file is not open in SQLite."""
        self.path.rename(path)
        self.path = path
        self._log_path = Path(f"{path}-wal")

    @property
    def is_at_path(self) -> bool:
        found = _stamp(self.path)
        return found is not None and found.identity == self._main.identity

    @property
    def has_its_log(self) -> bool:
        """Whether the log at its path is the one that this agent wrote last."""
        return _stamp(self._log_path) == self._log

    @property
    def log_bytes(self) -> int:
        """Size of the write-ahead log after the latest transaction."""
        return self._log.bytes

    @property
    def bytes(self) -> int:
        return self._main.bytes + self._log.bytes

    def note_opened(self) -> None:
        """Call it when SQLite has opened all its files."""
        self.note_main()
        self._log = _stamp(self._log_path) or _NONE

    def note_main(self) -> None:
        """Call it after a checkpoint: only checkpoints write to the main file."""
        self._main = _stamp_of(os.fstat(self._fd))

    def note_log(self) -> None:
        """Call it after a transaction: only transactions write to the log."""
        log = _stamp(self._log_path)
        if log is not None and log.identity == self._log.identity:
            self._log = log

    def main_change(self, *, during_checkpoint: bool = False) -> Change | None:
        """What another program did to the main file. `during_checkpoint`: we may be writing to it."""
        main = _stamp(self.path)
        if main is None:
            return Change("it is not at its path any more", foreign=False)
        if main.identity != self._main.identity:
            return Change("another file is at its path", foreign=True)
        if main != self._main and not during_checkpoint:
            return Change("another program has written to it", foreign=True)
        return None

    def change(self, *, during_checkpoint: bool) -> Change | None:
        """As `main_change`, for the log as well. Not for use during a transaction."""
        if (change := self.main_change(during_checkpoint=during_checkpoint)) is not None:
            return change
        log = _stamp(self._log_path)
        if log is None or log.identity != self._log.identity:
            return Change("its write-ahead log was removed or replaced", foreign=False)
        if log != self._log:
            return Change("another program has written to its write-ahead log", foreign=True)
        return None


def _lock(fd: int) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCK_BYTE, 1, 0))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a kernel without locks of open files, such as gVisor's


def _stamp(path: Path) -> _Stamp | None:
    """None: the file does not exist, or cannot be reached."""
    try:
        return _stamp_of(path.stat())
    except OSError:
        return None


def _stamp_of(file: os.stat_result) -> _Stamp:
    return _Stamp(file.st_dev, file.st_ino, file.st_size, file.st_mtime_ns)
