"""Which files of a folder are being written, as the kernel reports it (inotify)."""

import ctypes
import os
import struct
import weakref
from pathlib import Path

# linux/inotify.h
_MODIFY, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _DELETE = 0x2, 0x8, 0x40, 0x80, 0x200
_OVERFLOW, _ONLY_FOLDER = 0x4000, 0x0100_0000
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_BUFFER_BYTES = 65_536


class WriteEvents:
    """The latest state of each file. Of a network share the kernel reports only what this machine itself writes."""

    def __init__(self) -> None:
        """Watches nothing yet. If the kernel gives no events (a limit is reached), every file's state is unknown."""
        self._libc = ctypes.CDLL(None)
        self._fd = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            weakref.finalize(self, os.close, self._fd)
        self._watch = -1
        self._is_whole: dict[str, bool] = {}

    def update(self, folder: Path) -> None:
        """Takes the events that wait. A folder that was replaced by another one is watched anew."""
        wanted = _MODIFY | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE | _ONLY_FOLDER
        watch = self._libc.inotify_add_watch(self._fd, os.fsencode(folder), wanted)  # known folder: the same number
        if watch != self._watch:
            if self._watch >= 0:
                self._libc.inotify_rm_watch(self._fd, self._watch)
            self._watch = watch
            self._is_whole.clear()
        while watch >= 0:
            try:
                events = os.read(self._fd, _BUFFER_BYTES)
            except BlockingIOError:
                return
            self._take(events)

    def _take(self, events: bytes) -> None:
        position = 0
        while position < len(events):
            watch, mask, _, length = _EVENT.unpack_from(events, position)
            position += _EVENT.size + length
            name = os.fsdecode(events[position - length : position].rstrip(b"\0"))
            if mask & _OVERFLOW:  # events were lost
                self._is_whole.clear()
            elif watch == self._watch and mask & (_MODIFY | _CLOSE_WRITE | _MOVED_TO):
                self._is_whole[name] = not mask & _MODIFY
            elif watch == self._watch and name:
                self.forget(name)

    def is_whole(self, name: str) -> bool | None:
        """True: its writer closed it, or it was moved here. False: its writer has it open. None: nothing is known."""
        return self._is_whole.get(name)

    def forget(self, name: str) -> None:
        self._is_whole.pop(name, None)
