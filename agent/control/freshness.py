"""Whether a command is new: by its id and time of sending, or by a nonce of this run. No thread, no file."""

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from zsad_agent.control.command import CommandError, shown
from zsad_agent.spool import Stamp

MAX_SEEN_IDS = 2000
NONCE_S = 30.0  # a nonce is replaced after this time and accepted for as long again
DRIFT = 2e-4  # most seconds per second by which the seconds since boot may differ from the true time


class ReplayGuard:
    """Judges commands by id and time of sending. It never accepts one command twice, whatever the clocks do.

    The system clock may jump, so it is not the only measure. The `anchor` is the last moment at which a sender and this
    device agreed on the time. The seconds since boot that have passed since then give a second time, which cannot jump.

    - A command is fresh if either time is within `max_age_s` of its time of sending.
    - It is old if it was sent before the anchor, or before the second time, whatever the system clock says.

    Old ids are deleted. Every command that is not younger than the youngest deleted id is then refused.
    """

    def __init__(
        self, seen: Mapping[str, float], *, forgotten_up_to_s: float | None, anchor: Stamp | None, started: Stamp
    ) -> None:
        """Takes what an earlier run has stored: accepted ids with their times of sending, and the anchor.

        `forgotten_up_to_s`: Unix time; commands up to then are refused. None: all from before `started`.
        """
        self.seen = dict(seen)
        self.anchor = anchor
        self._forgotten_up_to_s = forgotten_up_to_s
        self._started = started

    def forgotten_up_to_s(self, now: Stamp) -> float:
        """Unix time up to which ids may be unknown. Until a command is accepted it follows a clock that is set back."""
        if self._forgotten_up_to_s is not None:
            return self._forgotten_up_to_s
        return min(self._started.wall_s, now.wall_s - (now.boot_s - self._started.boot_s))

    def check(self, command_id: str, sent_s: float, now: Stamp, max_age_s: float) -> None:
        """Refuses an old, future or repeated command. `sent_s`: Unix time by the sender's clock.

        Raises:
            CommandError: it is refused.
        """
        self.check_id(command_id)
        age_s = now.wall_s - sent_s
        if max_age_s < abs(age_s) and max_age_s < abs(self._steady_s(now) - sent_s):
            when = f"{abs(age_s):.6g} s {'ago' if age_s > 0 else 'in the future'}"
            raise CommandError(
                f"sent {when} by this device's clock, at most {max_age_s:g} s are allowed. "
                "The clocks of sender and device may differ: compare them, or send command_nonce of stats as nonce"
            )
        if self._is_old(sent_s, now, max_age_s):
            raise CommandError(
                "sent before a time that this device knows to have passed, so it may be a replay. Send it again with a "
                "new id and time. If a clock was wrong before, add command_nonce of stats as nonce"
            )

    def check_id(self, command_id: str) -> None:
        """Raises CommandError if the id is known."""
        if command_id in self.seen:
            raise CommandError("a command with this id was already received: this is a replay. Use a new id")

    def accept(self, command_id: str, sent_s: float, now: Stamp, max_age_s: float) -> None:
        """Stores the id of a checked command. Arguments as of `check`."""
        self._forgotten_up_to_s = self.forgotten_up_to_s(now)
        self._move_anchor(sent_s, now, max_age_s)
        self.seen[command_id] = sent_s
        by_age = sorted(self.seen.items(), key=lambda entry: entry[1])
        excess = len(by_age) - MAX_SEEN_IDS
        keep_from_s = self._earliest_s(now, max_age_s) - max_age_s
        for index, (old_id, old_s) in enumerate(by_age):
            if index >= excess and old_s >= keep_from_s:
                break
            del self.seen[old_id]
            self._forgotten_up_to_s = max(self._forgotten_up_to_s, old_s)

    def correct(self, sent_s: float, now: Stamp, max_age_s: float) -> bool:
        """Uses the time of a command that a nonce proved to be new: stored times after it come from a wrong clock.

        The system clock must agree with the sender. Returns whether anything has changed.
        """
        if not self._is_old(sent_s, now, max_age_s) or abs(now.wall_s - sent_s) > max_age_s:
            return False
        self.anchor, self._forgotten_up_to_s = now, min(self.forgotten_up_to_s(now), sent_s)
        return True

    def _is_old(self, sent_s: float, now: Stamp, max_age_s: float) -> bool:
        return sent_s < self._earliest_s(now, max_age_s) or sent_s <= self.forgotten_up_to_s(now)

    def _move_anchor(self, sent_s: float, now: Stamp, max_age_s: float) -> None:
        """The anchor becomes the moment that the sender confirms. A system clock that jumped does not move it."""
        steady_s = self._steady_s(now)
        jumped = abs(now.wall_s - steady_s) > max_age_s + self._drift_s(now)
        if abs(now.wall_s - sent_s) <= max_age_s and not jumped:
            self.anchor = now
        elif abs(steady_s - sent_s) <= max_age_s:
            self.anchor = replace(now, wall_s=steady_s)

    def _base(self, now: Stamp) -> Stamp:
        """The moment from which seconds since boot are counted: the anchor if it is of this boot, else the start."""
        anchor = self.anchor
        same_boot = anchor is not None and anchor.boot_id == now.boot_id and anchor.boot_s <= now.boot_s
        return anchor if anchor is not None and same_boot else self._started

    def _steady_s(self, now: Stamp) -> float:
        """Unix time of `now` by the seconds since boot."""
        base = self._base(now)
        return base.wall_s + now.boot_s - base.boot_s

    def _drift_s(self, now: Stamp) -> float:
        return DRIFT * (now.boot_s - self._base(now).boot_s)

    def _earliest_s(self, now: Stamp, max_age_s: float) -> float:
        """Unix time; what was sent before it is certainly too old."""
        if self.anchor is None:
            return float("-inf")
        if self._base(now) is not self.anchor:  # of an earlier boot
            return self.anchor.wall_s - max_age_s
        return self._steady_s(now) - self._drift_s(now) - max_age_s


class Nonces:
    """Random texts that prove a command to be new without any clock of the sender or the system. Thread-safe.

    The current one is published. It and the one before it are accepted, each once with an id. Another run has others.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._made_s = float("-inf")
        self._used: dict[str, set[str]] = {}  # nonce -> ids, for the thread that calls `use`
        self.valid: tuple[str, ...] = ()  # the oldest first

    def current(self) -> str:
        """The one to publish. Call it at least every `NONCE_S`."""
        with self._lock:
            if self._monotonic_s() - self._made_s >= NONCE_S:
                self._made_s = self._monotonic_s()
                self.valid = (*self.valid[-1:], secrets.token_hex(8))
            return self.valid[-1]

    def use(self, nonce: str, command_id: str, valid: tuple[str, ...]) -> None:
        """Accepts a nonce once with each id. `valid`: as it was at the command's arrival.

        Raises:
            CommandError: the nonce is not valid, or was used with this id.
        """
        if nonce not in valid:
            raise CommandError(
                f"the nonce {shown(nonce)} is not one of the last two of this run, so it may be a replay. Read "
                "command_nonce of stats and send it again"
            )
        self._used = {known: ids for known, ids in self._used.items() if known in valid}
        used = self._used.setdefault(nonce, set())
        if command_id in used:
            raise CommandError("a command with this id was already received: this is a replay. Use a new id")
        used.add(command_id)
