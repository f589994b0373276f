"""A watched folder: every picture in it is inspected once, then moved."""

import errno
import itertools
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from zsad_agent.sources.source import DamagedPicture, Picture, Receipt, ReceiptError, name_of
from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import is_picture, read_image
from zsad_core.types import Verdict

LOOK_EVERY_S = 0.2
GRACE_S = 5.0  # a picture that cannot be decoded yet may still be written
_MAKE_ROOM = "Free disk space, or give this user write permission"
_WHAT_TO_DO = {
    errno.EROFS: "Let the service write there: systemctl edit zsad-agent, then [Service] and ReadWritePaths=THE FOLDER"
}
MAX_NAME_BYTES = 255  # longest file name on Linux
INSPECTED, UNREADABLE = "inspected", "unreadable"  # subfolders that pictures are moved to
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _Signature(NamedTuple):
    """Distinguishes a file from a later one with the same name."""

    inode: int
    mtime_ns: int
    size: int


_Found = tuple[Path, _Signature]


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
        sort_by_verdict: bool = False,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Does not access the folder yet.

        Args:
            folder: the watched folder; its subfolders are not watched.
            stale_after_s: a folder that does not answer for so many seconds is lost.
            sort_by_verdict: move inspected pictures to `inspected/<verdict>/`.
            grace_s: seconds that a picture may be undecodable before it is reported.
            clock: monotonic seconds.
        """
        self.description = f"folder {folder}"
        self._folder = folder
        self._stale_after_s = stale_after_s
        self._sort_by_verdict = sort_by_verdict
        self._grace_s = grace_s
        self._clock = clock
        self._looked_s = -float("inf")
        self._seen: dict[Path, _Signature] = {}  # the latest listing
        self._ready: deque[_Found] = deque()
        self._undecoded: dict[_Found, float] = {}  # monotonic time of the first failure
        self._taken: set[_Found] = set()  # read already, and still in the folder
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
        while self._read is None and self._ready:
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
        latest = self._call = _in_thread(call)
        self._wait()
        latest.result()

    def _wait(self) -> None:
        if self._call is not None and not wait({self._call}, self._stale_after_s).done:
            raise SourceError(f"{self.description}: no answer for {self._stale_after_s:g} s")

    def _read_next(self) -> None:
        found = path, signature = self._ready.popleft()
        try:
            image = read_image(path)
        except ImageError as error:
            first_s = self._undecoded.setdefault(found, self._clock())
            if _signature(path) == signature and self._clock() - first_s >= self._grace_s:
                receipt = self._take(found, lambda _: (UNREADABLE,))
                self._read = DamagedPicture(str(error), source_name=name_of(path), receipt=receipt)
            return
        if _signature(path) == signature:  # else the file changed during reading
            receipt = self._take(found, self._folder_of)
            self._read = Picture(image=image, source_name=name_of(path), receipt=receipt)

    def _take(self, found: _Found, into: Callable[[Verdict], Sequence[str]]) -> Receipt:
        """Marks the picture as read and returns its receipt. `into` gives the subfolders, from the top."""
        self._taken.add(found)
        return lambda verdict: self._await_answer(partial(_put_away, *found, into(verdict)))

    def _folder_of(self, verdict: Verdict) -> tuple[str, ...]:
        return (INSPECTED, verdict.value) if self._sort_by_verdict else (INSPECTED,)

    def _look(self) -> None:
        before, now_s = self._seen, self._clock()
        with self._entries() as entries:
            paths = [Path(entry.path) for entry in entries if not entry.name.startswith(".")]
        pictures = [path for path in paths if is_picture(path.name, b"")]
        self._seen = {path: found for path in pictures if (found := _signature(path)) is not None}
        self._looked_s = now_s
        present = self._seen.items()
        self._taken.intersection_update(present)
        self._undecoded = {found: first_s for found, first_s in self._undecoded.items() if found in present}
        unchanged = (before.items() & present) - self._taken
        self._ready.extend(sorted(unchanged, key=lambda found: (found[1].mtime_ns, found[0].name)))

    def _open(self) -> None:
        """Checks that the folder can be read. `_look` lists it, which can take long."""
        with self._entries():
            pass

    @contextmanager
    def _entries(self) -> Iterator[Iterator[os.DirEntry[str]]]:
        try:
            with os.scandir(self._folder) as entries:
                yield entries
        except OSError as error:
            raise SourceError(f"{self.description}: cannot be listed: {error.strerror or error}") from error


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


def _put_away(path: Path, signature: _Signature, into: Sequence[str]) -> None:
    """Moves the file to the nested subfolders `into`, under an unused name. Does nothing if it is gone or replaced."""
    if _signature(path) != signature:
        return
    try:
        with ExitStack() as opened:
            fd = os.open(path.parent, _FOLDER)
            opened.callback(os.close, fd)
            for name in into:
                with suppress(FileExistsError):
                    os.mkdir(name, dir_fd=fd)
                fd = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=fd)  # a link could lead outside
                opened.callback(os.close, fd)
            os.rename(path, _unused_name(path, signature, fd), dst_dir_fd=fd)
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


def _signature(path: Path) -> _Signature | None:
    """None if the file is gone, cannot be accessed, or is not a regular file."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return _Signature(found.st_ino, found.st_mtime_ns, found.st_size)
