"""A watched folder: every picture in it is inspected once, then moved."""

import errno
import hashlib
import itertools
import logging
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from zsad_agent.sources.source import DamagedPicture, Picture, Receipt, ReceiptError, name_of
from zsad_agent.sources.write_events import WriteEvents
from zsad_agent.system import in_thread, opened
from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import HEAD_BYTES, decode_image, format_of, is_picture_file, is_temporary, read_encoded
from zsad_core.types import Verdict

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.2
GRACE_S = 5.0  # a picture that cannot be decoded yet may still be written
QUIET_S = 5.0  # a file whose end of writing is not known is whole when its content is the same for so long
STALLED_S = 30.0  # the same for a file that ends in zeros, and longest wait for a program that has the file open
ZEROS = 512  # bytes at the end of a file whose space was reserved, and that may not be written yet
PROVEN = ("JPEG", "PNG")  # they mark their end: one that can be decoded is whole
CHECK_MOVED_S = 5.0  # between two checks whether a moved picture has changed
REMEMBER_MOVED_S, REMEMBER_MOVED = 300.0, 200  # moved pictures that are checked: how long, and how many
MOST_REPORTED = 100  # kinds of files that are not pictures
_MAKE_ROOM = "Free disk space, or give this user write permission"
_WHAT_TO_DO = {
    errno.EROFS: "Let the service write there: systemctl edit zsad-agent, then [Service] and ReadWritePaths=THE FOLDER"
}
MAX_NAME_BYTES = 255  # longest file name on Linux
INSPECTED, UNREADABLE = "inspected", "unreadable"  # subfolders that pictures are moved to


class _Signature(NamedTuple):
    """Distinguishes a file from a later one with the same name."""

    inode: int
    mtime_ns: int
    size: int


_Found = tuple[Path, _Signature]


class _Judged(NamedTuple):
    """A picture that was read."""

    signature: _Signature
    digest: bytes  # of its content


@dataclass(slots=True)
class _Waiting:
    """A file in the folder that was not read yet."""

    since_s: float  # it is unchanged since then (monotonic)
    due_s: float = 0.0  # when to read it again
    digest: bytes = b""  # of its content at `since_s`
    latest_digest: bytes = b""  # of its content when it was last read


class FolderDropSource:
    """Gives pictures in order of arrival (modification time, then name), each when it is complete.

    A file is complete when it is unchanged in two listings, `LOOK_EVERY_S` apart, can be decoded, and its writer has
    closed it. Where the kernel does not report that (a network share, a file that was there before), its content must
    be unchanged for `QUIET_S`, unless its format marks its end. A picture that cannot be decoded for `GRACE_S`, or
    whose writer pauses for `STALLED_S`, is an ImageError. Temporary names (`.part`, hidden) are ignored, so a writer
    can write such a name and rename it. Other files that are not pictures are reported once for each suffix.

    A picture stays in place until its receipt is called, when its result is safe; then it is moved to `inspected/` or
    `unreadable/`. If the process is killed before that, the next start inspects the picture again: every picture is
    inspected at least once. Within one process a picture that cannot be moved is not inspected again.
    A picture whose content changes is inspected again; if it was moved, it is moved back first. A new modification time
    alone (FTP's MFMT, touch) changes nothing.

    The folder may be a network share, where a system call can hang without a limit. So each call to the file system is
    made in its own thread, one at a time, and the wait for it ends after `stale_after_s`.
    """

    lossless, endless = True, True

    def __init__(
        self,
        folder: Path,
        *,
        stale_after_s: float,
        sort_by_verdict: bool = False,
        bit_depth: int | None = None,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Does not access the folder yet. Its subfolders are not watched.

        `stale_after_s`: a folder that does not answer for so long is lost. `sort_by_verdict`: inspected pictures are
        moved to `inspected/<verdict>/`. `grace_s`: a picture may be undecodable for so long before it is reported.
        """
        self.description = f"folder {folder}"
        self._folder = folder
        self._stale_after_s = stale_after_s
        self._sort_by_verdict = sort_by_verdict
        self._bit_depth = bit_depth
        self._grace_s = grace_s
        self._clock = clock
        self._looked_s = -float("inf")
        self._seen: dict[Path, _Signature] = {}  # the latest listing
        self._ready: deque[_Found] = deque()
        self._events = WriteEvents()
        self._waiting: dict[_Found, _Waiting] = {}
        self._taken: set[_Found] = set()  # read already or not pictures, and still in the folder
        self._judged: dict[Path, _Judged] = {}  # pictures of `_taken`
        self._reported: set[str] = set()  # suffixes of files that are not pictures, names of links to nothing
        self._moved: deque[tuple[Path, _Judged, float]] = deque(maxlen=REMEMBER_MOVED)  # with the time of the move
        self._checked_s = -float("inf")
        self._read: Picture | DamagedPicture | None = None  # read, and not returned yet
        self._call: Future[None] | None = None  # the latest call; no other call starts before it ends

    def __enter__(self) -> Self:
        self._await_answer(self._open)
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open between two calls."""

    def read(self) -> Picture | None:
        """The next picture; None while none is ready: this source has no end.

        Raises:
            DamagedPicture: a picture cannot be decoded.
            SourceError: the folder cannot be listed, or does not answer.
        """
        self._wait()
        if self._read is None and not self._ready and self._clock() - self._looked_s >= LOOK_EVERY_S:
            self._await_answer(self._look)
        give_up_s = self._clock() + LOOK_EVERY_S  # of many files that must all wait, the next call reads the rest
        while self._read is None and self._ready and self._clock() < give_up_s:
            self._await_answer(self._read_next)
        read, self._read = self._read, None
        if isinstance(read, DamagedPicture):
            raise read
        return read

    def _await_answer(self, call: Callable[[], None]) -> None:
        """Waits for the previous call, whose result is ignored, then makes `call` and waits for it.

        Raises:
            SourceError: no answer in time. The call continues in its thread.
        """
        self._wait()
        latest = self._call = in_thread("folder", call)
        self._wait()
        latest.result()

    def _wait(self) -> None:
        if self._call is not None and not wait({self._call}, self._stale_after_s).done:
            raise SourceError(f"{self.description}: no answer for {self._stale_after_s:g} s")

    def _read_next(self) -> None:
        found = path, signature = self._ready.popleft()
        try:
            image = self._read_if_whole(found)
        except ImageError as error:
            if _signature(path) == signature and self._clock() - self._waiting[found].since_s >= self._grace_s:
                receipt = self._take(found, lambda _: (UNREADABLE,))
                self._read = DamagedPicture(str(error), source_name=name_of(path), receipt=receipt)
            return
        if image is not None and _signature(path) == signature:  # else the file changed during reading
            receipt = self._take(found, self._folder_of)
            self._read = Picture(image=image, source_name=name_of(path), receipt=receipt)

    def _read_if_whole(self, found: _Found) -> np.ndarray | None:
        """The image, uint8 BGR [H, W, 3]; None if the file must wait, is not a picture, or was read before.

        Raises:
            ImageError: it cannot be decoded, or its writer has stopped in the middle.
        """
        path, waiting, now_s = found[0], self._waiting[found], self._clock()
        self._events.update(self._folder)
        is_whole = self._events.is_whole(path.name)
        if is_whole is False and now_s < waiting.since_s + STALLED_S:
            return None
        if not is_picture_file(path):
            if now_s >= waiting.since_s + self._grace_s:
                self._skip(found)
            return None
        encoded = read_encoded(path)
        waiting.latest_digest = digest = _digest(encoded)
        before = self._judged.get(path)
        if before is not None and (before.signature.inode, before.digest) == (found[1].inode, digest):
            self._taken.add(found)
            return None
        marks_its_end = format_of(encoded[:HEAD_BYTES].tobytes()) in PROVEN
        if is_whole is False and not marks_its_end:
            raise ImageError(f"{path}: the program that writes it has it open and wrote nothing for {STALLED_S:g} s")
        quiet_s = 0.0 if marks_its_end else _quiet_s(encoded, is_whole=is_whole is True)
        if quiet_s > 0 and digest != waiting.digest:
            waiting.since_s, waiting.digest = now_s, digest
        waiting.due_s = waiting.since_s + quiet_s
        return decode_image(encoded, str(path), self._bit_depth, strict=True) if now_s >= waiting.due_s else None

    def _skip(self, found: _Found) -> None:
        """Leaves a file in the folder that is not a picture."""
        self._taken.add(found)
        suffix = found[0].suffix.lower()
        if suffix not in self._reported and len(self._reported) < MOST_REPORTED:
            self._reported.add(suffix)
            logger.warning("%s is not a picture and stays there. Others of its kind are not reported", found[0])

    def _take(self, found: _Found, into: Callable[[Verdict], Sequence[str]]) -> Receipt:
        """Marks the picture as read and returns its receipt. `into` gives the subfolders, from the top."""
        path, signature = found
        judged = _Judged(signature, self._waiting[found].latest_digest)
        self._taken.add(found)
        self._judged[path] = judged
        return lambda verdict: self._await_answer(partial(self._put_away, path, judged, into(verdict)))

    def _folder_of(self, verdict: Verdict) -> tuple[str, ...]:
        return (INSPECTED, verdict.value) if self._sort_by_verdict else (INSPECTED,)

    def _look(self) -> None:
        before, now_s = self._seen, self._clock()
        self._events.update(self._folder)
        if now_s >= self._checked_s + CHECK_MOVED_S:
            self._checked_s = now_s
            self._return_changed()
        with self._entries() as entries:
            paths = [Path(entry.path) for entry in entries if not is_temporary(entry.name)]
        self._seen = {path: found for path in paths if (found := _signature(path)) is not None}
        self._note_odd(path for path in paths if path not in self._seen)
        self._looked_s = now_s
        present = self._seen.items()
        self._taken.intersection_update(present)
        self._judged = {path: judged for path, judged in self._judged.items() if path in self._seen}
        waiting = present - self._taken
        self._waiting = {found: self._waiting.get(found) or _Waiting(now_s) for found in waiting}
        due = (found for found in before.items() & waiting if now_s >= self._waiting[found].due_s)
        self._ready.extend(sorted(due, key=lambda found: (found[1].mtime_ns, found[0].name)))

    def _note_odd(self, paths: Iterable[Path]) -> None:
        """Reports once each link to nothing, pipe and device. Folders, and files that are gone, are no fault.

        Raises:
            SourceError: the folder can be listed, but not entered.
        """
        for path in paths:
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SourceError(f"{path}: cannot be accessed: {error.strerror or error}") from error
            if (
                stat.S_ISREG(mode)
                or path.is_dir()
                or path.name in self._reported
                or len(self._reported) > MOST_REPORTED
            ):
                continue
            self._reported.add(path.name)
            kind = "a link whose file is missing or cannot be accessed" if stat.S_ISLNK(mode) else "no regular file"
            logger.warning("%s is %s: it stays there and is not inspected", path, kind)

    def _put_away(self, path: Path, judged: _Judged, into: Sequence[str]) -> None:
        """Moves the file to the nested subfolders `into`. Does nothing if it is gone, changed or replaced."""
        if (same := _if_same(path, judged)) is not None:
            self._moved.append((_move(path, same.signature, into), same, self._clock()))

    def _return_changed(self) -> None:
        """Moves pictures back that were changed after they were moved."""
        for _ in range(len(self._moved)):
            path, judged, moved_s = self._moved.popleft()
            present, same = _signature(path), _if_same(path, judged)
            if same is not None and self._clock() < moved_s + REMEMBER_MOVED_S:
                self._moved.append((path, same, moved_s))
            if present is None or same is not None or present.inode != judged.signature.inode:
                continue
            with suppress(OSError), opened(self._folder) as fd:
                name = _unused_name(path, present, fd)
                os.rename(path, name, dst_dir_fd=fd)
                self._events.update(self._folder)
                self._events.forget(name)  # it was moved, but its writer may not have finished
                logger.warning("%s was changed after it was inspected: it is inspected again", path)

    def _open(self) -> None:
        """Checks that the folder can be read. `_look` lists it, which can take long."""
        self._events.update(self._folder)  # before the first listing: its files may be written meanwhile
        with self._entries():
            pass

    @contextmanager
    def _entries(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        try:
            with os.scandir(self._folder) as entries:
                yield entries
        except OSError as error:
            raise SourceError(f"{self.description}: cannot be listed: {error.strerror or error}") from error


def _quiet_s(encoded: np.ndarray, *, is_whole: bool) -> float:
    """Seconds for which the content of a file must be unchanged. `is_whole`: its writer has closed it."""
    if encoded[-ZEROS:].any():
        return 0.0 if is_whole else QUIET_S
    return QUIET_S if is_whole else STALLED_S


def _move(path: Path, signature: _Signature, into: Sequence[str]) -> Path:
    """Moves the file to the nested subfolders `into` and returns its path there.

    Raises:
        ReceiptError: it cannot be moved.
    """
    try:
        with opened(path.parent, *into, make=True) as fd:
            name = _unused_name(path, signature, fd)
            os.rename(path, name, dst_dir_fd=fd)
            return path.parent.joinpath(*into, name)
    except OSError as error:
        raise ReceiptError(
            f"{path}: its result is safe, but it cannot be moved to {'/'.join(into)}/: {error.strerror or error}. "
            f"{_WHAT_TO_DO.get(error.errno or 0, _MAKE_ROOM)}"
        ) from error


def _unused_name(path: Path, signature: _Signature, folder_fd: int) -> str:
    """The file's name; if the folder has it, with the modification time and a number."""
    name = path.name
    for number in itertools.count():
        try:
            os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
        except FileNotFoundError:
            break
        ending = f"-{signature.mtime_ns}{f'-{number}' if number else ''}{path.suffix}"
        name = os.fsencode(path.stem)[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore") + ending
    return name


def _digest(encoded: np.ndarray) -> bytes:
    return hashlib.blake2b(encoded.data, digest_size=16).digest()


def _if_same(path: Path, judged: _Judged) -> _Judged | None:
    """`judged` with the present modification time; None if the file is gone, replaced, or has other content."""
    present = _signature(path)
    if present is None or present == judged.signature:
        return judged if present is not None else None
    if (present.inode, present.size) != (judged.signature.inode, judged.signature.size):
        return None
    with suppress(ImageError):
        return judged._replace(signature=present) if _digest(read_encoded(path)) == judged.digest else None
    return None


def _signature(path: Path) -> _Signature | None:
    """None if the file is gone, cannot be accessed, or is not a regular file."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _Signature(found.st_ino, found.st_mtime_ns, found.st_size)
