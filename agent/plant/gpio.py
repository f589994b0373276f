"""Digital outputs without a PLC: what each camera's lines show, and the service that sets them through libgpiod.

The lines are fail-safe: `ok` is active only for a moment after a result that passed, while the camera can inspect.
"""

import contextlib
import errno
import logging
import math
import queue
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Self

from zsad_agent.config import GpioConfig
from zsad_agent.inspection import Station
from zsad_agent.messages import Result
from zsad_agent.plant.stations import can_inspect
from zsad_agent.probing import users_of_lines
from zsad_agent.system import RestartingService
from zsad_core.errors import ZsadError
from zsad_core.types import Verdict

if TYPE_CHECKING:
    import gpiod

logger = logging.getLogger(__name__)

LOOK_S = 0.05  # between two looks whether the cameras can inspect
REFRESH_S = 0.5  # every line is set at least this often, so a chip that has vanished is noticed
BEAT_S = 0.5  # the heartbeat changes
STORE_S = 2.0  # a result is stored within this time
LATE_SHOWN_S = 60.0  # a late reject is a fault for this long


class _Arrival(NamedTuple):
    verdict: Verdict
    captured_s: float  # monotonic
    arrived_s: float


class LineLevels:
    """Which lines of one camera are active at a moment. No I/O. Times are monotonic seconds that do not go back."""

    def __init__(self, config: GpioConfig) -> None:
        self._lines = config.lines
        self._hold_s = config.hold_ms / 1000
        self._delay_s, self._pulse_s = config.reject_delay_ms / 1000, config.reject_ms / 1000
        self._verdict: Verdict | None = None
        self._verdict_until_s = -math.inf
        self._pulses: deque[float] = deque()  # begins of the reject pulses that are not over

    def take(self, verdict: Verdict, *, captured_s: float, arrived_s: float) -> float:
        """Takes a result. Returns by how many seconds its reject pulse is later than `reject_delay_ms` asks."""
        self._verdict, self._verdict_until_s = verdict, arrived_s + self._hold_s
        if "reject" not in self._lines or verdict is Verdict.OK:
            return 0.0
        due_s = captured_s + self._delay_s
        self._pulses.append(max(due_s, arrived_s))
        return max(0.0, arrived_s - due_s) if self._delay_s else 0.0

    def at(self, now_s: float, *, can_inspect: bool) -> dict[str, bool]:
        """Line -> whether it is active."""
        while self._pulses and self._pulses[0] + self._pulse_s <= now_s:
            self._pulses.popleft()
        if self._verdict is Verdict.OK and not can_inspect:
            self._verdict = None  # also after a short pause: nobody knows which part is at the gate then
        shown = self._verdict if now_s < self._verdict_until_s else None
        active = {
            "ok": shown is Verdict.OK,
            "ng": shown is Verdict.ANOMALOUS,
            "unknown": shown is Verdict.UNKNOWN,
            "reject": bool(self._pulses) and self._pulses[0] <= now_s,
            "ready": can_inspect,
            "heartbeat": can_inspect and int(now_s / BEAT_S) % 2 == 1,
        }
        return {line: active[name] for name, line in self._lines.items()}

    def next_s(self, now_s: float) -> float:
        """When a line changes next by itself."""
        beat_s = (int(now_s / BEAT_S) + 1) * BEAT_S
        ends_s = [self._verdict_until_s, *(self._pulses and (self._pulses[0], self._pulses[0] + self._pulse_s))]
        return min((end_s for end_s in ends_s if end_s > now_s), default=beat_s)


class DigitalOutputs(RestartingService):
    """Its thread sets the lines of one camera. A sink of the pipeline, which never waits for it.

    While the lines cannot be set, that is the fault, and it is tried again.
    """

    name = "gpio"
    stop_s = 0.3

    def __init__(self, config: GpioConfig, station: Station) -> None:
        """Opens nothing."""
        super().__init__(f"zsad-gpio-{station.name}", place=config.chip)
        self._config, self._station, self._levels = config, station, LineLevels(config)
        self._arrived: queue.SimpleQueue[_Arrival | None] = queue.SimpleQueue()  # None: a stop
        self._late: tuple[float, str] = (-math.inf, "")  # when, what

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        """Shows a stored result of the camera on the lines, within a few milliseconds."""
        if result.camera != self._station.name:
            return
        now_s = time.monotonic()
        until_result_s = (result.latency_ms.capture_to_result or 0.0) / 1000
        age_s = time.time() - result.captured_at.timestamp()  # wrong if the clock was set since
        age_s = min(max(age_s, until_result_s), until_result_s + STORE_S)
        self._arrived.put(_Arrival(result.verdict, now_s - age_s, now_s))

    def stop(self, deadline_s: float) -> None:
        self._stop.set()
        self._arrived.put(None)
        self._wait(deadline_s)

    @property
    def fault(self) -> str | None:
        late_s, late = self._late
        recent = late if time.monotonic() - late_s < LATE_SHOWN_S else None
        return "; ".join(filter(None, (super().fault, recent))) or None

    def _work(self) -> None:
        while not self._arrived.empty():  # of the time without lines
            self._take(self._arrived.get())
        with _Lines(self._config, f"zsad-agent {self._station.name}") as lines:
            self._works()
            while not self._stop.is_set():
                now_s = time.monotonic()
                lines.set(self._levels.at(now_s, can_inspect=can_inspect(self._station)), now_s)
                next_s = min(self._levels.next_s(now_s) - time.monotonic(), LOOK_S)
                with contextlib.suppress(queue.Empty):
                    self._take(self._arrived.get(timeout=max(0.0, next_s)))

    def _take(self, arrival: _Arrival | None) -> None:
        if arrival is None:
            return
        late_s = self._levels.take(arrival.verdict, captured_s=arrival.captured_s, arrived_s=arrival.arrived_s)
        if late_s:
            text = (
                f"gpio: {self._station.name}: a reject came {1000 * late_s:.0f} ms too late, which may eject another "
                f"part. Raise reject_delay_ms, {self._config.reject_delay_ms:g}, and move the ejector"
            )
            logger.error("%s", text)
            self._late = (arrival.arrived_s, text)


class _Lines:
    """The lines of one camera, requested as outputs. Inactive at the beginning and at the end."""

    def __init__(self, config: GpioConfig, consumer: str) -> None:
        self._chip, self._names = config.chip, list(config.lines.values())
        self._active_low, self._consumer = config.active_low, consumer
        self._request: gpiod.LineRequest
        self._levels: Mapping[str, bool] = {}
        self._set_s = -math.inf

    def __enter__(self) -> Self:
        """Raises OSError, ValueError or ZsadError if the chip or a line cannot be used."""
        import gpiod
        from gpiod.line import Direction

        off = gpiod.LineSettings(direction=Direction.OUTPUT, active_low=self._active_low)
        config = dict.fromkeys(self._names, off)
        try:
            self._request = gpiod.request_lines(self._chip, config=config, consumer=self._consumer)  # type: ignore[arg-type]
        except OSError as error:
            users = users_of_lines(self._chip, self._names) if error.errno == errno.EBUSY else {}
            if not users:
                raise
            used = ", ".join(f"line {line} is used by {user}" for line, user in users.items())
            raise ZsadError(used) from error
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # the chip has vanished
            self.set(dict.fromkeys(self._names, False), math.inf)
        self._request.release()

    def set(self, levels: Mapping[str, bool], now_s: float) -> None:
        """Sets the lines if one changes, or to look whether the chip is still there. Raises OSError if not."""
        if levels == self._levels and now_s < self._set_s + REFRESH_S:
            return
        from gpiod.line import Value

        self._request.set_values({line: Value.ACTIVE if on else Value.INACTIVE for line, on in levels.items()})
        self._levels, self._set_s = levels, now_s
