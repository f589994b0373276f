"""A watched folder: every picture that is put into it is inspected once, then moved on."""

import errno
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from zsad_core.errors import ImageError, SourceError
from zsad_core.picture import IMAGE_SUFFIXES, read_image

LOOK_EVERY_S = 0.2
GRACE_S = 5.0  # for a picture that does not decode yet: its writer may pause
_MAKE_ROOM = "Make room, or let this user write there"
_WHAT_TO_DO = {
    errno.EROFS: "Let the service write there: systemctl edit zsad-agent, then [Service] and ReadWritePaths=THE FOLDER"
}
MOST_MOVED_AT_ONCE = 20  # of those that could not be moved before
MAX_NAME_BYTES = 255  # of a file's name, on Linux
INSPECTED, UNREADABLE = "inspected", "unreadable"  # the folders inside, where pictures go


class _Signature(NamedTuple):
    """Tells a file from another that takes its name."""

    inode: int
    mtime_ns: int
    size: int


class FolderDropSource:
    """Pictures in order of arrival (modification time, then name), each when it is complete.

    Complete is a file that stayed the same over two looks, `LOOK_EVERY_S` apart, and decodes to its end. Names that
    start with a dot or have another suffix than a picture's (`.part`, `.tmp`) are left alone, so a writer that renames
    into place is safe from being read too early. One that does not decode for `GRACE_S` is an ImageError.

    A picture stays where it is until its receipt is called, which is when its result is safe; then it goes to
    `inspected/` or `unreadable/`. A process that is killed in between inspects it again at its next start: every
    picture is inspected at least once. Within one process a picture that cannot be moved is not inspected again.
    """

    lossless = True

    def __init__(self, folder: Path, *, grace_s: float = GRACE_S, clock: Callable[[], float] = time.monotonic) -> None:
        """Looks at nothing yet.

        Args:
            folder: watched, without the folders in it.
            grace_s: seconds.
            clock: monotonic seconds.
        """
        self.description = f"folder {folder}"
        self._folder = folder
        self._grace_s = grace_s
        self._clock = clock
        self._looked_s = -float("inf")
        self._seen: dict[Path, _Signature] = {}  # at the latest look
        self._ready: deque[tuple[Path, _Signature]] = deque()
        self._undecoded: dict[Path, tuple[_Signature, float]] = {}  # and since when
        self._taken: dict[Path, _Signature] = {}  # those read, while they are still in the folder
        self._receipt: Callable[[], None] | None = None
        self._lock = threading.Lock()  # over the next
        self._unmoved: dict[Path, tuple[_Signature, str]] = {}  # their results are safe

    def __enter__(self) -> Self:
        self._list()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def read(self) -> np.ndarray | None:
        """The next picture; None while none is ready: this source has no end.

        Raises:
            ImageError: a picture did not become readable; it has a receipt like any other.
            SourceError: the folder cannot be listed.
        """
        if not self._ready and self._clock() - self._looked_s >= LOOK_EVERY_S:
            self._look()
        while self._ready:
            path, signature = self._ready.popleft()
            try:
                image = read_image(path)
            except ImageError:
                if _signature(path) == signature and self._grace_is_over(path, signature):
                    self._take(path, signature, UNREADABLE)
                    raise
                continue
            if _signature(path) == signature:  # else it was written to meanwhile
                self._take(path, signature, INSPECTED)
                return image
        return None

    def receipt(self) -> Callable[[], None]:
        """What to call, from any thread, once the result of the picture last read or refused is safe.

        It raises SourceError when the picture cannot be moved, and is then tried again with the next one's.
        """
        if self._receipt is None:
            raise ValueError(f"{self.description}: no picture was read yet")
        return self._receipt

    def _take(self, path: Path, signature: _Signature, into: str) -> None:
        self._taken[path] = signature
        self._undecoded.pop(path, None)
        self._receipt = partial(self._settle, path, signature, into)

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
            raise SourceError(f"{self.description}: cannot be listed: {error.strerror or error}") from error
        return found

    def _settle(self, path: Path, signature: _Signature, into: str) -> None:
        with self._lock:
            self._unmoved.pop(path, None)
            tried = [(path, (signature, into)), *islice(self._unmoved.items(), MOST_MOVED_AT_ONCE)]
            faults: list[tuple[Path, str, OSError]] = []
            for waiting, (known, folder) in tried:
                self._unmoved.pop(waiting, None)
                try:
                    _move(waiting, known, waiting.parent / folder)
                except OSError as error:  # of this picture alone, maybe: the others go on
                    faults.append((waiting, folder, error))
                    self._unmoved[waiting] = (known, folder)  # behind those that were not tried now
        if faults:
            first, folder, fault = faults[0]
            others = f", and {len(self._unmoved) - 1} more" if len(self._unmoved) > 1 else ""
            raise SourceError(
                f"{first}{others}: its result is safe, but it cannot be moved to {folder}/: "
                f"{fault.strerror or fault}. {_WHAT_TO_DO.get(fault.errno or 0, _MAKE_ROOM)}"
            ) from fault


def _signature(path: Path) -> _Signature | None:
    """None where there is no such file any more, none that can be looked at, or none at all but a folder or device."""
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
    """Into `folder`, under a name that no file there has. Nothing if the file went or another took its name."""
    if _signature(path) != signature:
        return
    folder.mkdir(exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)  # who may drop pictures may not lead us away
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
