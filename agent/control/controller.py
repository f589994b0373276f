"""Commands over MQTT: the sending thread queues them, another thread carries them out and answers each."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from zsad_agent.config import AgentConfig
from zsad_agent.control.actions import CONFIG, Actions, Shown, Target
from zsad_agent.control.command import (
    Command,
    CommandError,
    Key,
    TeachAction,
    TeachRequest,
    Value,
    check_value,
    is_commit,
    parse_command,
    shown,
)
from zsad_agent.control.freshness import Nonces
from zsad_agent.control.running_agent import MAX_ERROR_CHARACTERS, RunningAgent
from zsad_agent.control.stored_settings import StoredSettings
from zsad_agent.messages import Topics, encode
from zsad_agent.mqtt import Publisher
from zsad_agent.spool import SpoolClock, Stamp
from zsad_agent.system import Service, one_line, utc_text
from zsad_core.errors import ZsadError

logger = logging.getLogger(__name__)

MAX_A_SECOND = 20  # more commands are refused without reading them
MAX_WAITING = 64  # commands that wait for a slow one, such as a bundle switch
CHECK_EVERY_S = 1.0  # interval between two checks of a bundle's probation
ANSWER_S = 5.0  # a page waits so long for a command,
TEACH_ANSWER_S = 30.0  # and for one of teach-in but a mark: a commit writes 20 MB and waits for the model
HUNG_S = 600.0  # a command that takes longer is a stated fault; the slowest learn a thousand pictures again
REPORT_EVERY_S = 1.0  # interval between two answers to commands that were refused without reading


@dataclass(slots=True)
class _State:
    """The content of `…/state`."""

    value: Shown = None
    source: str = CONFIG
    error: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class _Asked:
    """A command of the page."""

    value: Value
    by: str
    answer: "Future[dict[str, Any]]" = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One message on a command topic, or a command of the page."""

    target: Target
    payload: bytes | None  # None: a SIGHUP in place of a `reload` command, or `asked`
    at: Stamp
    nonces: tuple[str, ...]  # valid then
    asked: _Asked | None = None


class Controller(Service):
    """Start it before the cameras, so that the stored settings apply to the first part.

    `stop` closes the settings. It does not wait for a bundle switch in progress, whose outcome is then not reported.
    """

    name = "commands"
    stop_s = 0.4

    def __init__(
        self,
        agent: RunningAgent,
        publisher: Publisher,
        config: AgentConfig,
        stored: StoredSettings,
        *,
        nonces: Nonces,
        reload_fault: str | None = None,
        on_mark: Callable[[str, bool], object] = lambda part_id, good: None,
        clock: SpoolClock | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Changes and publishes nothing yet. Owns `stored` from now on.

        `reload_fault`: why the config of the reload that caused this start is not used; None: it is used.
        `on_mark`: called with the id of a result that a message over MQTT has marked, and whether it was good.
        """
        self._agent = agent
        self._publisher = publisher
        self._control = config.control
        self._topics = Topics(config.mqtt.topic_prefix, config.device_id)
        self._stored = stored
        self._reload_fault = reload_fault
        self._nonces, self._on_mark = nonces, on_mark
        self._clock, self._monotonic = clock or SpoolClock(), monotonic
        self._actions = Actions(agent, publisher, config, stored)
        self._states = {target: _State() for target in self._actions.targets}
        self._answering = threading.Lock()  # guards the states
        self._changed = threading.Condition()  # guards what follows
        self._waiting: deque[_Arrival] = deque()
        self._recent_s: deque[float] = deque(maxlen=MAX_A_SECOND)  # times of the latest accepted commands
        self._unread: Counter[Target] = Counter()  # refused without reading, not yet reported
        self._unread_reason = ""
        self._reported_s = float("-inf")
        self._stopping = False
        self._bundle_fault: str | None = None  # of the stored copy of the bundle
        self._obeying = False  # a command is being carried out
        self._turn_s = time.monotonic()  # when the thread's last turn began
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zsad-control", daemon=True)

    def start(self) -> None:
        """Applies the stored settings, publishes every setting and subscribes."""
        notes = self._actions.restore_cameras()
        if self._reload_fault is not None:
            notes[Target(None, Key.RELOAD)] = self._reload_fault
        for target in self._states:
            # first, so that a command after the first state is received
            if self._control.enabled:  # else they come from the page alone
                self._publisher.subscribe(self._topics.below(f"{target.suffix}/set"), partial(self._take, target))
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
    def fault(self) -> str | None:
        is_hung = self.alive and time.monotonic() - self._turn_s > HUNG_S
        hung = f"no command has been carried out for {HUNG_S / 60:g} min" if is_hung else None
        return "; ".join(filter(None, (self._stored.fault, self._bundle_fault, hung))) or None

    @property
    def busy(self) -> bool:
        """Whether a command was still running at the stop: a compiler cannot be interrupted."""
        return self._left.is_set() and self.alive

    def wait_idle(self, timeout_s: float) -> bool:
        """Waits until the running command, if any, is answered."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._obeying, timeout_s)

    def reload(self) -> None:
        """Carries out `reload` as a command does. The answer on `reload/state` has no id."""
        self._take(Target(None, Key.RELOAD), None)

    def state(self, camera: str, key: str) -> dict[str, Any]:
        """`value` and `source` of a setting now, also if a command is in progress. That of `teach` may wait."""
        value, source = self._actions.present(Target(camera, Key(key)))
        return {"value": value, "source": source}

    def perform(self, camera: str | None, key: str, value: Any, *, by: str, to_the_end: bool = False) -> dict[str, Any]:
        """Carries out a command as one over MQTT, and waits for its end.

        Args:
            camera: None for a command to the device.
            key: of `Key`.
            value: as in a message.
            by: who asks, for the log.
            to_the_end: waits for the end of a command that has begun, however long it takes.

        Returns:
            `value`, `source` and `error`: None, or why the new value is not stored.

        Raises:
            ZsadError: it is refused, or has not begun within `ANSWER_S` or `TEACH_ANSWER_S`, so nothing has changed; or
                it takes longer and goes on.
        """
        target = next((one for one in self._states if (one.camera, one.key) == (camera, key)), None)
        if target is None:
            raise CommandError(f"there is no camera {shown(str(camera))} with a setting {shown(key)}")
        asked = _Asked(check_value(target.key, value), by)
        with self._changed:
            if self._stopping or len(self._waiting) >= MAX_WAITING:
                raise CommandError("the agent is stopping" if self._stopping else "too many commands wait: try again")
            self._waiting.append(_Arrival(target, None, self._clock.stamp(), (), asked))
            self._changed.notify_all()
        is_mark = isinstance(asked.value, TeachRequest) and asked.value.id is not None
        answer_s = TEACH_ANSWER_S if target.key is Key.TEACH and not is_mark else ANSWER_S
        try:
            return asked.answer.result(answer_s)
        except TimeoutError as error:
            if not is_mark and asked.answer.cancel():
                text = f"not carried out: the agent was busy with other commands for {answer_s:g} s. Try again"
                raise CommandError(text) from error
            if to_the_end or asked.answer.done():
                return asked.answer.result()
            raise CommandError(
                f"no answer within {answer_s:g} s: the command goes on, and its outcome is shown when it ends"
            ) from error

    def _take(self, target: Target, payload: bytes | None) -> None:
        """In the sending thread: only queues."""
        now_s = self._monotonic()
        with self._changed:
            if self._stopping:
                return
            flooded = len(self._recent_s) == MAX_A_SECOND and now_s - self._recent_s[0] < 1.0
            accepted = not flooded and len(self._waiting) < MAX_WAITING
            if accepted:
                self._recent_s.append(now_s)
                self._waiting.append(_Arrival(target, payload, self._clock.stamp(), self._nonces.valid))
            else:
                self._unread[target] += 1
                self._unread_reason = (
                    f"more than {MAX_A_SECOND} commands a second"
                    if flooded
                    else f"{MAX_WAITING} commands are waiting already"
                )
            self._changed.notify_all()
        if not accepted:
            self._report_unread()

    def _report_unread(self) -> None:
        with self._changed:
            now_s = self._monotonic()
            if not self._unread or now_s - self._reported_s < REPORT_EVERY_S:
                return
            self._reported_s = now_s
            unread, self._unread = self._unread, Counter()
            reason = self._unread_reason
        for target, count in unread.items():
            text = f"{count} commands refused without reading them: {reason}. Send the needed ones again"
            self._refuse(target, text, None, update=False)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn_s = time.monotonic()
                self._check_state_folder()
                self._report_unread()
                self._settle_bundle()
                self._tend_update()
                self._report_learning()
                if (taken := self._next()) is not None:
                    self._obey(taken)
                    with self._changed:
                        self._obeying = False
                        self._changed.notify_all()
        except Exception:  # a defect of this module: `_obey` raises nothing
            logger.exception("commands are no longer carried out")

    def _next(self) -> _Arrival | None:
        """The next command; None when the probation must be checked."""
        with self._changed:
            if not self._waiting and not self._stopping:
                self._changed.wait(CHECK_EVERY_S)
            if not self._waiting or self._stopping:
                return None
            self._obeying = True
            return self._waiting.popleft()

    def _obey(self, arrival: _Arrival) -> None:
        """One command, from its payload to its answer. Raises nothing."""
        target, command_id, value = arrival.target, None, None
        asked = arrival.asked or _Asked(None, "a command")
        if not asked.answer.set_running_or_notify_cancel():
            return  # who asked has waited too long
        try:
            if arrival.asked is not None:
                value = asked.value
            elif arrival.payload is not None:
                command = parse_command(arrival.payload, target.key, plain=self._control.plain)
                command_id, value = command.id, command.value
                if target.key is Key.UPDATE and self._agent.knows_update(str(command_id)):
                    logger.info("update: the command %s came again; its state is published already", command_id)
                    return
                self._check_new(command, arrival)
            to_save = self._actions.perform(target, value, command_id)
            dropped = self._actions.drop_old_thresholds()
            if self._left.is_set():
                asked.answer.set_exception(CommandError("the agent is stopping"))
                return
            if arrival.asked is None and isinstance(value, TeachRequest) and value.id is not None:
                self._on_mark(value.id, value.action is TeachAction.GOOD)
            saved = not (to_save or dropped) or self._stored.save()
            before, error_text = self._states[target].value, None
            if not saved:
                error_text = f"active until the next restart only: {self._stored.fault}"
            self._answer(target, command_id, error_text)
            if is_commit(value):  # it may change these
                for key in (Key.PRODUCT, Key.THRESHOLD):
                    self._answer(Target(target.camera, key), None, error_text)
            state = self._states[target]
            if target.key not in (Key.TEACH, Key.UPDATE):  # they log what they do
                logger.info("%s: %s changed %r to %r", target.suffix, asked.by, before, state.value)
            for other in dropped:
                self._answer(other, None, None)
            if target.key is Key.BUNDLE:
                self._after_switch()
            asked.answer.set_result({"value": state.value, "source": state.source, "error": error_text})
        except ZsadError as error:
            parsed_id = error.command_id if isinstance(error, CommandError) else None
            self._refuse(target, str(error), parsed_id or command_id)
            asked.answer.set_exception(error)
        except Exception as error:
            logger.exception("%s: a command failed", target.suffix)
            text = f"internal error {type(error).__name__}: {error}"
            self._refuse(target, text, command_id)
            asked.answer.set_exception(CommandError(text))

    def _check_new(self, command: Command, arrival: _Arrival) -> None:
        """Refuses a replay. What is stored is on disk before the command has an effect.

        Raises:
            CommandError: it is not new. A bare value has neither id, time nor nonce and is accepted.
        """
        guard, max_age_s, sent_s = self._stored.guard, self._control.max_age_s, command.sent_at_s
        if command.id is None:
            return
        if command.nonce is not None:
            guard.check_id(command.id)
            self._nonces.use(command.nonce, command.id, arrival.nonces)
            if sent_s is not None and guard.correct(sent_s, arrival.at, max_age_s):
                self._stored.save()
        elif sent_s is not None:
            guard.check(command.id, sent_s, arrival.at, max_age_s)
            guard.accept(command.id, sent_s, arrival.at, max_age_s)
            self._stored.save()

    def _refuse(self, target: Target, reason: str, command_id: str | None, *, update: bool = True) -> None:
        reason = one_line(reason, MAX_ERROR_CHARACTERS)
        logger.warning("%s: command refused: %s", target.suffix, reason)
        self._answer(target, command_id, reason, update=update)

    def _check_state_folder(self) -> None:
        """Another program may have removed or replaced its files."""
        self._stored.check()
        fault = self._agent.stored_bundle_fault()
        if fault is not None and fault != self._bundle_fault:
            logger.error("%s", fault)
        self._bundle_fault = fault

    def _settle_bundle(self) -> None:
        """Reports the end of a new bundle's probation."""
        try:
            outcome = self._agent.settle_bundle()
        except Exception:
            logger.exception("the end of a bundle's probation cannot be reported")
            return
        if outcome is not None:
            bundle = Target(None, Key.BUNDLE)
            self._answer(bundle, self._states[bundle].id, None if outcome.passed else outcome.text)
            self._after_switch()

    def _tend_update(self) -> None:
        """Goes on with an update, and publishes how far it is."""
        try:
            replaced = self._agent.tend_update()
        except Exception:
            logger.exception("the update cannot go on")
            return
        update, bundle = Target(None, Key.UPDATE), Target(None, Key.BUNDLE)
        if replaced:
            self._answer(bundle, self._states[bundle].id, None)
            self._after_switch()
        state = self._states[update]
        if self._actions.present(update)[0] != state.value:
            self._answer(update, state.id, state.error)

    def _report_learning(self) -> None:
        """Publishes what is being taught, and provisional thresholds, where they have changed.

        A profile may have come into use by itself.
        """
        dropped = self._actions.drop_old_thresholds()
        if dropped:
            self._stored.save()
        for target in dropped:
            self._answer(target, None, None)
        for target, state in self._states.items():
            if target.key in (Key.TEACH, Key.THRESHOLD) and self._actions.present(target)[0] != state.value:
                self._answer(target, state.id, state.error)

    def _after_switch(self) -> None:
        """Applies the stored products again, which the earlier bundle may have lacked, and publishes the states."""
        if self._left.is_set():
            return
        notes = self._actions.restore_cameras((Key.PRODUCT,))
        for target, state in self._states.items():
            if target.key is Key.PRODUCT:  # an earlier error belongs to the earlier bundle
                self._answer(target, state.id, notes.get(target))
            elif target.key is Key.THRESHOLD:  # the bundle has its own threshold
                self._answer(target, state.id, state.error)

    def _answer(self, target: Target, command_id: str | None, error: str | None, *, update: bool = True) -> None:
        """Publishes the state. `update`: reads it first, which may wait; without it the last known value is sent."""
        if self._left.is_set():
            return
        state = self._states[target]
        value, source = state.value, state.source
        if update:
            try:
                value, source = self._actions.present(target)
            except Exception:  # the answer is sent anyway
                logger.exception("%s: the current value cannot be read", target.suffix)
        error = None if error is None else one_line(error, MAX_ERROR_CHARACTERS)
        with self._answering:
            if update:
                state.value, state.source = value, source
            state.error, state.id = error, command_id
            if not self._control.enabled:
                return
            at = utc_text(datetime.now(UTC))
            message = {"value": state.value, "source": state.source, "error": error, "id": command_id, "at": at}
            try:
                self._publisher.set_retained(f"{target.suffix}/state", encode(message))
            except Exception:  # the publisher is closing, or the value is not JSON
                logger.exception("%s: the answer cannot be published", target.suffix)
