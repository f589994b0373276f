"""Files that are set aside because they are damaged or not as this agent wrote them, and SQLite's write-ahead log.

The log is read here because SQLite skips its damaged parts without an error. Its layout:
https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import contextlib
import itertools
import logging
import os
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path

from zsad_agent.spool import rows
from zsad_agent.spool.held_file import HeldFile
from zsad_agent.spool.rows import Entry
from zsad_agent.system import sync_folder

logger = logging.getLogger(__name__)

CORRUPT, FOUND = "corrupt", "found"  # in the names of files set aside: damaged, or not as this agent wrote it
_NEW = "new"  # a copy that is not at the path yet
RESCUE_BATCH = 1000  # results in memory at a time while such a file is read
MOST_RESCUES = 4  # attempts to read one file set aside: the watchdog may end the process during each of them
KEPT_ASIDE = 5  # of each: a bad disk that damages every new file must not fill up with them
_RESCUE = "-rescue"  # suffix of a marker file beside a file set aside that is not completely read yet
_SUFFIXES = ("-wal", "-shm", "")  # of the files that belong to a SQLite file

_HEADER = struct.Struct(">IIIIIIII")  # magic, version, page size, checkpoint number, two salts, two checksums
_FRAME = struct.Struct(">IIII")  # page, pages of the file after a commit (0: no commit), two salts
_FRAME_HEADER_BYTES = 24
_MAGIC = (0x377F0682, 0x377F0683)
_PAGE_SIZES = [1 << power for power in range(9, 17)]


def committed_frames(wal: Path) -> int | None:
    """Number of frames up to the last commit, with correct checksums or not; None when the log's header is damaged.

    Frames from before the last checkpoint, which SQLite overwrites one by one, have other salts and do not count.

    Raises:
        OSError: the log cannot be read.
    """
    try:
        file = wal.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        header = file.read(_HEADER.size)
        if not header.strip(b"\0"):
            return 0  # empty, or a power cut came before it was written
        if len(header) < _HEADER.size:
            return None
        magic, _, page_size, _, *salts, sum_1, sum_2 = _HEADER.unpack(header)
        if magic not in _MAGIC or page_size not in _PAGE_SIZES or _checksum(header[:24], magic) != (sum_1, sum_2):
            return None
        committed = number = 0
        while len(start := file.read(_FRAME.size)) == _FRAME.size:
            _, pages_after, *frame_salts = _FRAME.unpack(start)
            number += 1
            if pages_after and frame_salts == salts:
                committed = number
            file.seek(_HEADER.size + number * (_FRAME_HEADER_BYTES + page_size))
        return committed


def _checksum(content: bytes, magic: int) -> tuple[int, int]:
    """Checksum over pairs of 32-bit words; `magic` gives their byte order."""
    words = struct.unpack(f"{'>' if magic & 1 else '<'}{len(content) // 4}I", content)
    sum_1 = sum_2 = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        sum_1 = (sum_1 + even + sum_2) & 0xFFFFFFFF
        sum_2 = (sum_2 + odd + sum_1) & 0xFFFFFFFF
    return sum_1, sum_2


def keep_damaged_log(path: Path) -> None:
    """Copies the log of the file at `path`: SQLite continues with its intact beginning and overwrites the rest."""
    aside = Path(f"{_name_aside(path, CORRUPT)}-wal")
    try:
        shutil.copyfile(f"{path}-wal", aside)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    said = "spool %s: its write-ahead log is damaged: the latest results may be lost. It is kept as %s"
    logger.error(said, path, aside.name)


def move_aside(path: Path, kind: str) -> Path:
    """Renames the file at `path` and what belongs to it, and marks it for a rescue. Returns the new name."""
    aside = _name_aside(path, kind)
    Path(f"{aside}{_RESCUE}").touch()
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{suffix}").rename(f"{aside}{suffix}")
    return aside


def rescue(path: Path, bring_back: Callable[[list[Entry], bool], int], done: dict[Path, int]) -> bool:
    """Reads the files set aside that are not completely read.

    Args:
        path: the spool's file.
        bring_back: stores results. Gets whether they may not be ours. Returns how many it has stored.
        done: how many results of each file were read by earlier calls that a full disk hindered.

    Returns:
        Whether a full disk hinders it now.

    Raises:
        sqlite3.Error: from `bring_back`.
    """
    waits = False
    for mark in sorted(path.parent.glob(f"{path.name}.*-*{_RESCUE}")):
        aside, found = Path(str(mark).removesuffix(_RESCUE)), mark.name.startswith(f"{path.name}.{FOUND}-")
        if (tries := mark.stat().st_size) >= MOST_RESCUES:
            logger.error("spool %s: %s is not read again after %d attempts", path, aside.name, tries)
            mark.unlink()
            continue
        rescued, hindered, again = 0, "", aside in done
        entries = itertools.islice(rows.read_what_is_left(aside), done.setdefault(aside, 0), None)  # ends at an error
        try:
            with mark.open("a") as file:
                file.write("x")  # one byte per attempt, written first: reading the file may end the process
            while batch := list(itertools.islice(entries, RESCUE_BATCH)):
                rescued += bring_back(batch, found)
                done[aside] += len(batch)
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(OSError):
                os.truncate(mark, tries)
            if isinstance(error, sqlite3.Error) and rows.error_code(error) not in rows.PASSING_CODES:
                raise
            waits, hindered = True, f"; the others are read when the disk can be written ({error})"
        if rescued or not (hindered and again):
            kind = "other" if found else "damaged"
            said = "spool %s: %d results were read from the %s file %s%s; its evidence pictures are not sent"
            logger.warning(said, path, rescued, kind, aside.name, hindered)
        if not hindered:
            mark.unlink()
            del done[aside]
    return waits


def copy_to_path(old: HeldFile, *, foreign: bool, db: sqlite3.Connection | None = None) -> HeldFile:
    """Writes the content of a file that is not at its path any more into a new one there. Sets another one aside.

    Args:
        old: that file.
        foreign: it is at its path, but another program has written to it.
        db: has opened it; None: SQLite has closed it.

    Raises:
        SpoolHeldError: another agent uses the file at the path.
        OSError, sqlite3.Error: the file cannot be written. Nothing has changed.
    """
    path = old.path
    path.parent.mkdir(parents=True, exist_ok=True)
    copy = _name_aside(path, _NEW)
    mark = Path(f"{copy}{_RESCUE}")
    held = HeldFile(copy)
    try:
        mark.touch()  # if this process is killed, the next one reads the copy
        if db is None:
            old.copy(copy)
        else:
            with contextlib.closing(sqlite3.connect(copy)) as target:
                db.backup(target)
        if old.has_its_log:  # SQLite would apply it to another file
            _remove_log(path)
        if old.is_at_path and foreign:
            move_aside(path, FOUND)
        elif old.is_at_path or not path.exists():
            _remove_log(path)
        else:
            with contextlib.closing(HeldFile(path)):
                move_aside(path, FOUND)
        held.rename(path)
    except BaseException:
        held.close()
        for leftover in (copy, mark):
            with contextlib.suppress(OSError):
                leftover.unlink()
        raise
    with contextlib.suppress(OSError):
        mark.unlink()
        sync_folder(path.parent)
    return held


def _remove_log(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _name_aside(path: Path, kind: str) -> Path:
    """A new name for a file set aside. Deletes the oldest files of its kind if there are too many."""
    name = f"{path.name}.{kind}-"
    endings = (file.name.removeprefix(name).split("-") for file in path.parent.glob(f"{name}*-*"))
    for stamp in sorted({(day, number) for day, number, *_ in endings})[: -KEPT_ASIDE + 1]:
        for suffix in (*_SUFFIXES, _RESCUE):
            path.with_name(f"{name}{'-'.join(stamp)}{suffix}").unlink(missing_ok=True)
    return path.with_name(f"{name}{time.strftime('%Y%m%dT%H%M%S')}-{time.monotonic_ns() % 1_000_000:06}")
