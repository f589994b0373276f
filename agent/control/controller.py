"""Commands over MQTT: the sending thread queues them, a thread of their own carries them out and answers each."""

import functools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from zsad_agent.config import AgentConfig
from zsad_agent.control.actions import CONFIG, Actions, Controls, PicturePublisher, Target
from zsad_agent.control.command import CommandError, Key, Value, check_fresh, parse_command
from zsad_agent.control.stored_settings import StoredSettings
from zsad_agent.messages import encode
from zsad_agent.model import UpdateState
from zsad_agent.system import Service, one_line, utc_text
from zsad_core.errors import ZsadError

logger = logging.getLogger(__name__)

MAX_A_SECOND = 20  # more commands are refused without reading them
MAX_WAITING = 64  # commands that wait for a slow one, such as a bundle switch
LOOK_EVERY_S = 1.0  # interval between two checks of a bundle's probation
SAY_EVERY_S = 1.0  # limits the answers to commands that were refused without reading
MAX_ERROR_CHARACTERS = 4000  # a config file may have many faults


class ControlPublisher(PicturePublisher, Protocol):
    def subscribe(self, topic: str, handler: Callable[[bytes], None]) -> None:
        """`handler` is called in the sending thread with each payload that arrives on the whole topic `topic`."""

    def set_retained(self, topic_suffix: str, payload: bytes) -> None: ...


@dataclass(slots=True)
class _State:
    """The content of `…/state`."""

    value: Value = None
    source: str = CONFIG
    error: str | None = None
    id: str | None = None


class Controller(Service):
    """Start it before the cameras, so that the stored settings apply to the first part.

    At the stop a bundle switch in progress is not waited for, and what it ends with is not said; the settings are
    closed.
    """

    name = "commands"
    stop_s = 0.4

    def __init__(
        self,
        controls: Controls,
        publisher: ControlPublisher,
        config: AgentConfig,
        stored: StoredSettings,
        *,
        reload_fault: str | None = None,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Changes and publishes nothing yet.

        Args:
            controls: the running agent.
            publisher: for commands in, states and pictures out.
            config: its device id, `mqtt.topic_prefix`, `control` and `heatmap`.
            stored: owned from now on.
            reload_fault: what is to be said of the reload that led here; None: it is in force.
            clock: seconds since the epoch.
            monotonic: seconds, for the rate.
        """
        self._publisher = publisher
        self._control = config.control
        self._base = f"{config.mqtt.topic_prefix}/{config.device_id}"
        self._stored = stored
        self._reload_fault = reload_fault
        self._clock, self._monotonic = clock, monotonic
        self._actions = Actions(controls, publisher, config, stored, clock=clock)
        self._states = {target: _State() for target in self._actions.targets}
        self._answering = threading.Lock()  # guards the states
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[tuple[Target, bytes, float]] = deque()
        self._recent_s: deque[float] = deque(maxlen=MAX_A_SECOND)  # times of the latest accepted commands
        self._unread: Counter[Target] = Counter()  # refused without reading, not yet reported
        self._unread_reason = ""
        self._said_s = float("-inf")
        self._stopping = False
        self._obeying = False  # a command is being carried out
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zsad-control", daemon=True)

    def start(self) -> None:
        """Applies the stored settings, publishes every setting and subscribes."""
        notes = dict(self._actions.restore_cameras())
        if self._reload_fault is not None:
            notes[Target(None, Key.RELOAD)] = self._reload_fault
        for target in self._states:
            # first, so that a command after the first state is received
            self._publisher.subscribe(self._set_topic(target), functools.partial(self._take, target))
            self._answer(target, None, notes.get(target) or self._stored.damage)
        super().start()

    def stop(self, deadline_s: float) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._wait(deadline_s)
        self._left.set()
        self._stored.close()

    @property
    def busy(self) -> bool:
        """Whether a command was still running at the stop: a compiler cannot be interrupted."""
        return self._left.is_set() and self.alive

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until the running command, if any, is answered."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._obeying, timeout_s)

    def _set_topic(self, target: Target) -> str:
        return f"{self._base}/{target.suffix}/set"

    def _take(self, target: Target, payload: bytes) -> None:
        """In the sending thread: only queues."""
        now_s = self._monotonic()
        with self._changed:
            if self._stopping:
                return
            crowded = len(self._recent_s) == MAX_A_SECOND and now_s - self._recent_s[0] < 1.0
            if not crowded and len(self._waiting) < MAX_WAITING:
                self._recent_s.append(now_s)
                self._waiting.append((target, payload, self._clock()))
                self._changed.notify_all()
                return
            self._unread[target] += 1
            self._unread_reason = (
                f"more than {MAX_A_SECOND} commands a second" if crowded else f"{MAX_WAITING} commands wait already"
            )
            self._changed.notify_all()
        self._say_unread()

    def _say_unread(self) -> None:
        with self._changed:
            now_s = self._monotonic()
            if not self._unread or now_s - self._said_s < SAY_EVERY_S:
                return
            self._said_s = now_s
            unread, self._unread = self._unread, Counter()
            reason = self._unread_reason
        for target, count in unread.items():
            self._refuse(target, f"{count} refused unread: {reason}. Send again what is needed", None, look=False)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._say_unread()
                self._settle_bundle()
                if (taken := self._next()) is not None:
                    self._obey(*taken)
                    with self._changed:
                        self._obeying = False
                        self._changed.notify_all()
        except Exception:  # a defect of this module: `_obey` raises nothing
            logger.exception("commands are no longer obeyed")

    def _next(self) -> tuple[Target, bytes, float] | None:
        """The next command; None when the probation must be checked."""
        with self._changed:
            if not self._waiting and not self._stopping:
                self._changed.wait(LOOK_EVERY_S)
            if not self._waiting or self._stopping:
                return None
            self._obeying = True
            return self._waiting.popleft()

    def _obey(self, target: Target, payload: bytes, arrived_s: float) -> None:
        """One command, from its payload to its answer. Raises nothing."""
        command_id = None
        try:
            command = parse_command(payload, target.key, plain=self._control.plain)
            command_id = command.id
            max_age_s = self._control.max_age_s
            check_fresh(command, now_s=arrived_s, max_age_s=max_age_s, seen=self._stored.seen)
            if command.id is not None and command.sent_at_s is not None:  # on disk before it has an effect
                self._stored.seen.add(command.id, command.sent_at_s, now_s=arrived_s, keep_s=2 * max_age_s)
                self._stored.save()
            to_save = self._actions.perform(target, command.value)
            if self._left.is_set():
                return
            saved = not to_save or self._stored.save()
            self._accept(target, command_id, None if saved else f"in force until a restart: {self._stored.fault}")
        except CommandError as error:
            self._refuse(target, str(error), error.command_id or command_id)
        except ZsadError as error:
            self._refuse(target, str(error), command_id)
        except Exception as error:
            logger.exception("%s: a command failed", target.suffix)
            self._refuse(target, f"internal error {type(error).__name__}: {error}", command_id)

    def _accept(self, target: Target, command_id: str | None, note: str | None) -> None:
        before = self._states[target].value
        self._answer(target, command_id, note)
        logger.info("%s: %r is now %r, by command", target.suffix, before, self._states[target].value)
        if target.key is Key.BUNDLE:
            self._after_switch()

    def _refuse(self, target: Target, reason: str, command_id: str | None, *, look: bool = True) -> None:
        reason = one_line(reason, MAX_ERROR_CHARACTERS)
        logger.warning("%s: command refused: %s", target.suffix, reason)
        self._answer(target, command_id, reason, look=look)

    def _settle_bundle(self) -> None:
        """Reports the end of a new bundle's probation."""
        try:
            outcome = self._actions.settle_bundle()
        except Exception:
            logger.exception("what a bundle's probation has come to cannot be told")
            return
        if outcome is not None:
            bundle = Target(None, Key.BUNDLE)
            failed = outcome.state is UpdateState.ROLLED_BACK
            self._answer(bundle, self._states[bundle].id, outcome.text if failed else None)
            self._after_switch()

    def _after_switch(self) -> None:
        """Applies the stored products again, which the earlier bundle may have lacked, and publishes the states."""
        if self._left.is_set():
            return
        notes = dict(self._actions.restore_cameras((Key.PRODUCT,)))
        for target, state in self._states.items():
            if target.key is Key.PRODUCT:  # an earlier error belongs to the earlier bundle
                self._answer(target, state.id, notes.get(target))
            elif target.key is Key.THRESHOLD:  # the bundle has its own threshold
                self._answer(target, state.id, state.error)

    def _answer(self, target: Target, command_id: str | None, error: str | None, *, look: bool = True) -> None:
        """Publishes the state. `look`: brought up to date; without, as known last, for a thread that must not wait."""
        if self._left.is_set():
            return
        state = self._states[target]
        value, source = state.value, state.source
        if look:
            try:
                value, source = self._actions.present(target)
            except Exception:  # the answer is sent anyway
                logger.exception("%s: what is in force cannot be told", target.suffix)
        error = None if error is None else one_line(error, MAX_ERROR_CHARACTERS)
        with self._answering:
            if look:
                state.value, state.source = value, source
            state.error, state.id = error, command_id
            at = utc_text(datetime.fromtimestamp(self._clock(), UTC))
            message = {"value": state.value, "source": state.source, "error": error, "id": command_id, "at": at}
            try:
                self._publisher.set_retained(f"{target.suffix}/state", encode(message))
            except Exception:  # the publisher is closing, or the value is not JSON
                logger.exception("%s: the answer could not be published", target.suffix)
