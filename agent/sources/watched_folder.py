"""A watched folder: every picture in it is inspected once, then moved."""

import errno
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from zsad_agent.sources.source import DamagedPicture, Picture, Receipt, ReceiptError
from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import IMAGE_SUFFIXES, read_image

LOOK_EVERY_S = 0.2
GRACE_S = 5.0  # a picture that cannot be decoded yet may still be written
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


class FolderDropSource:
    """Gives pictures in order of arrival (modification time, then name), each when it is complete.

    A file is complete when it is unchanged in two listings, `LOOK_EVERY_S` apart, and can be decoded. Names that start
    with a dot or have no picture suffix (`.part`, `.tmp`) are ignored, so a writer can write such a name and rename it.
    A picture that cannot be decoded for `GRACE_S` is an ImageError.

    A picture stays in place until its receipt is called, when its result is safe; then it is moved to `inspected/` or
    `unreadable/`. If the process is killed before that, the next start inspects the picture again: every picture is
    inspected at least once. Within one process a picture that cannot be moved is not inspected again.

    The folder may be a network share, where a system call can hang without a limit. So each call to the file system is
    made in its own thread, one at a time, and the wait for it ends after `stale_after_s`.
    """

    lossless, endless = True, True

    def __init__(
        self,
        folder: Path,
        *,
        stale_after_s: float,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Does not access the folder yet.

        Args:
            folder: the watched folder; its subfolders are not watched.
            stale_after_s: a folder that does not answer for so many seconds is lost.
            grace_s: seconds that a picture may be undecodable before it is reported.
            clock: monotonic seconds.
        """
        self.description = f"folder {folder}"
        self._folder = folder
        self._stale_after_s = stale_after_s
        self._grace_s = grace_s
        self._clock = clock
        self._looked_s = -float("inf")
        self._seen: dict[Path, _Signature] = {}  # the latest listing
        self._ready: deque[tuple[Path, _Signature]] = deque()
        self._undecoded: dict[Path, tuple[_Signature, float]] = {}  # monotonic time of the first failure
        self._taken: dict[Path, _Signature] = {}  # read already, and still in the folder
        self._read: Picture | DamagedPicture | None = None  # read, and not returned yet
        self._call: Future[None] | None = None  # the call in progress; no other call starts before it ends

    def __enter__(self) -> Self:
        self._await_answer(self._open)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def read(self) -> Picture | None:
        """The next picture; None while none is ready: this source has no end.

        Raises:
            DamagedPicture: a picture cannot be decoded.
            SourceError: the folder cannot be listed, or does not answer.
        """
        self._await_answer(None)
        if self._read is None and not self._ready and self._clock() - self._looked_s >= LOOK_EVERY_S:
            self._await_answer(self._look)
        while self._read is None and self._ready:
            self._await_answer(self._read_next)
        read, self._read = self._read, None
        if isinstance(read, DamagedPicture):
            raise read
        return read

    def _await_answer(self, call: Callable[[], None] | None) -> None:
        """Waits for the previous call, whose result is ignored, then makes `call` and waits for it.

        Raises:
            SourceError: no answer in time. The call continues in its thread.
        """
        if self._call is not None:
            self._wait()
        if call is not None:
            self._call = _in_thread(call)
            self._wait().result()

    def _wait(self) -> Future[None]:
        call = self._call
        assert call is not None
        if not wait({call}, self._stale_after_s).done:
            raise SourceError(f"{self.description}: no answer for {self._stale_after_s:g} s")
        self._call = None
        return call

    def _read_next(self) -> None:
        path, signature = self._ready.popleft()
        try:
            image = read_image(path)
        except ImageError as error:
            if _signature(path) == signature and self._grace_is_over(path, signature):
                self._read = DamagedPicture(str(error), self._take(path, signature, UNREADABLE))
            return
        if _signature(path) == signature:  # else the file changed during reading
            self._read = Picture(image=image, receipt=self._take(path, signature, INSPECTED))

    def _take(self, path: Path, signature: _Signature, into: str) -> Receipt:
        """Marks the picture as read and returns its receipt."""
        self._taken[path] = signature
        self._undecoded.pop(path, None)
        return partial(self._await_answer, partial(_put_away, path, signature, into))

    def _grace_is_over(self, path: Path, signature: _Signature) -> bool:
        known = self._undecoded.get(path)
        if known is None or known[0] != signature:
            known = self._undecoded[path] = (signature, self._clock())
        return self._clock() - known[1] >= self._grace_s

    def _look(self) -> None:
        now_s = self._clock()
        before, self._seen = self._seen, self._list()
        self._looked_s = now_s
        self._taken = {path: taken for path, taken in self._taken.items() if path in self._seen}
        self._undecoded = {path: since for path, since in self._undecoded.items() if path in self._seen}
        unchanged = [
            (path, signature)
            for path, signature in self._seen.items()
            if before.get(path) == signature and self._taken.get(path) != signature
        ]
        unchanged.sort(key=lambda found: (found[1].mtime_ns, found[0].name))
        self._ready.extend(unchanged)

    def _open(self) -> None:
        """Checks that the folder exists. `_look` lists it, which can take long."""
        try:
            os.scandir(self._folder).close()
        except OSError as error:
            raise self._unlisted(error) from error

    def _list(self) -> dict[Path, _Signature]:
        found = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    path = Path(entry.path)
                    if entry.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
                        continue
                    signature = _signature(path)
                    if signature is not None:
                        found[path] = signature
        except OSError as error:
            raise self._unlisted(error) from error
        return found

    def _unlisted(self, error: OSError) -> SourceError:
        return SourceError(f"{self.description}: cannot be listed: {error.strerror or error}")


def _in_thread(call: Callable[[], None]) -> Future[None]:
    """Makes the call in a daemon thread, which does not delay the end of the process."""
    future: Future[None] = Future()

    def body() -> None:
        try:
            call()
        except Exception as error:  # `Future.result` raises it again
            future.set_exception(error)
        else:
            future.set_result(None)

    threading.Thread(target=body, name="folder", daemon=True).start()
    return future


def _put_away(path: Path, signature: _Signature, into: str) -> None:
    try:
        _move(path, signature, path.parent / into)
    except OSError as error:
        raise ReceiptError(
            f"{path}: its result is safe, but it cannot be moved to {into}/: {error.strerror or error}. "
            f"{_WHAT_TO_DO.get(error.errno or 0, _MAKE_ROOM)}"
        ) from error


def _signature(path: Path) -> _Signature | None:
    """None if the file is gone, cannot be accessed, or is not a regular file."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _Signature(found.st_ino, found.st_mtime_ns, found.st_size)


def _is_taken(name: str, folder_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=folder_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _cut(name: str, most_bytes: int) -> str:
    while len(os.fsencode(name)) > most_bytes:
        name = name[:-1]
    return name


def _move(path: Path, signature: _Signature, folder: Path) -> None:
    """Moves the file to `folder` under an unused name. Does nothing if the file is gone or was replaced."""
    if _signature(path) != signature:
        return
    folder.mkdir(exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # a link could lead outside
    try:
        name, number = path.name, 0
        while _is_taken(name, fd):
            counted = f"-{number}" if number else ""
            ending = f"-{signature.mtime_ns}{counted}{path.suffix}"
            name = _cut(path.stem, MAX_NAME_BYTES - len(os.fsencode(ending))) + ending
            number += 1
        os.rename(path, name, dst_dir_fd=fd)
    finally:
        os.close(fd)
