"""The age of results, on a clock that does not jump when the system clock does, and the duration of disk calls."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zsad_core.errors import SpoolError

MAX_WAIT_S = 5.0  # a disk call that takes longer is a stated fault, and the calls that wait for it fail
MAX_GAP_S = 24 * 3600.0  # the most that a reboot adds
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Stamp:
    """One moment, stored by the spool over restarts."""

    age_s: float = 0.0  # on the scale of `SpoolClock.now_s`
    wall_s: float = 0.0  # Unix time of the system clock
    boot_s: float = 0.0  # since the machine was booted
    boot_id: str = ""  # id of that boot; empty: there is no earlier moment


class SpoolClock:
    """Seconds of the spool's life. They never run backwards.

    The system clock can jump, for example when a device without a clock battery gets the time from the network. Within
    one boot, also between two runs of the agent, the spool counts seconds since boot and ignores the system clock. Over
    a reboot only the system clock can tell the time: its difference counts for at most `MAX_GAP_S`, and for nothing if
    it is negative. So a jump ages the results by one day at most.
    """

    def __init__(
        self,
        *,
        wall_s: Callable[[], float] = time.time,
        boot_s: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        boot_id: str | None = None,
    ) -> None:
        self._wall_s = wall_s
        self._boot_s = boot_s
        self._boot_id = boot_id if boot_id is not None else _read_boot_id()
        self._offset_s = -boot_s()

    def go_on_from(self, last: Stamp) -> None:
        """Continues the scale of an earlier run."""
        if last.boot_id and last.boot_id == self._boot_id and self._boot_s() >= last.boot_s:
            self._offset_s = last.age_s - last.boot_s
        else:
            gap_s = min(max(0.0, self._wall_s() - last.wall_s), MAX_GAP_S) if last.boot_id else 0.0
            self._offset_s = last.age_s + gap_s - self._boot_s()

    def now_s(self) -> float:
        return self._boot_s() + self._offset_s

    def stamp(self) -> Stamp:
        return Stamp(age_s=self.now_s(), wall_s=self._wall_s(), boot_s=self._boot_s(), boot_id=self._boot_id)


def _read_boot_id() -> str:
    """A different text for every boot. Without the system's boot id it matches no earlier boot."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return f"unknown-{time.time_ns()}"


class DiskCalls:
    """The calls in progress that may wait for the disk. Used from any thread."""

    def __init__(self, path: Path) -> None:
        """`path` is the file's."""
        self._path = path
        self._since_s: dict[threading.Lock, float] = {}  # locks that are held for a call -> since when, monotonic

    @property
    def waiting_s(self) -> float:
        """Seconds that the slowest call has waited; 0 when there is none."""
        return max((time.monotonic() - since_s for since_s in list(self._since_s.values())), default=0.0)

    @property
    def fault(self) -> str | None:
        """The fault of a disk that hangs; None when there is none."""
        return self._text() if self.waiting_s > MAX_WAIT_S else None

    @contextlib.contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Holds the lock during a call.

        Raises:
            SpoolError: the call that holds it has waited for `MAX_WAIT_S`.
        """
        now_s = time.monotonic()
        if not lock.acquire(timeout=max(0.0, self._since_s.get(lock, now_s) + MAX_WAIT_S - now_s)):
            raise SpoolError(self._text())
        self._since_s[lock] = time.monotonic()
        try:
            yield
        finally:
            del self._since_s[lock]
            lock.release()

    def _text(self) -> str:
        return f"{self._path}: the disk has not answered for more than {MAX_WAIT_S:g} s"
