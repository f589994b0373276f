"""The composition root: builds everything from the config, watches over it, and stops it in good order."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Protocol

import cv2

from zsad_agent.broker import EmbeddedBroker
from zsad_agent.config import AgentConfig, InferenceConfig, default_state_dir
from zsad_agent.inference import Detector
from zsad_agent.lines import check_products, make_lines, make_view
from zsad_agent.model_in_use import Model, ModelInUse
from zsad_agent.mqtt_config import EMBEDDED_BROKER
from zsad_agent.notify import Notifier
from zsad_agent.pipeline import Pipeline, Sink
from zsad_agent.publisher import Publisher
from zsad_agent.source_choice import make_source
from zsad_agent.spool import Spool
from zsad_agent.status import PROCESS, CameraStatus
from zsad_core.bundle import Bundle, load_bundle

logger = logging.getLogger(__name__)

SUPERVISE_S = 0.2  # between two looks at the pipeline
STATUS_EVERY_S = 5.0
STUCK_AFTER_S = 15.0  # without systemd's watchdog; with it, half of its interval
DRAIN_S = 1.0  # on a signal: for the picture that the model is at
FLUSH_ON_SIGNAL_S = 0.4
FLUSH_PATIENCE_S = 5.0  # at the end of a source: without a result leaving, so that an absent broker holds nobody up
FLUSH_AT_END_S = 60.0  # in all


class StopRequest:
    """SIGTERM and SIGINT, turned into an event. Entered in the main thread."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.event.set()


def run_agent(
    config: AgentConfig,
    *,
    stop: threading.Event,
    sinks: Sequence[Sink] = (),
    max_frames: int | None = None,
    exit_now: Callable[[int], None] = os._exit,
) -> int:
    """Inspects until every source ends, `max_frames` are done, or `stop` is set. The exit code.

    Args:
        config: checked.
        stop: set by whoever wants an end; everything accepted so far is then published or kept, within 2 s.
        sinks: given every result beside the publisher.
        max_frames: None for no limit.
        exit_now: ends the process where a thread hangs in a driver and would not let it end.

    Raises:
        ZsadError: something named in the config cannot be used.
    """
    cv2.setNumThreads(1)  # its threads would fight the model's for the cores
    notifier = Notifier(os.environ)
    sources = [make_source(camera) for camera in config.every_camera]
    views = [make_view(camera) for camera in config.every_camera]
    bundle = load_bundle(config.inference.bundle)
    check_products(config, bundle)
    with ExitStack() as stack:
        detector = _load_detector(bundle, config.inference, stop)
        if detector is None:
            _leave_at_once(0, exit_now)  # the compiler's threads would crash while the interpreter is taken apart
            return 0
        publisher = _open_publisher(config, stack, stop)
        capture_stop, news = threading.Event(), threading.Condition()
        lines = make_lines(
            config,
            sources,
            views,
            models=ModelInUse(Model.of(bundle, detector)),
            publish_status=publisher.set_camera_status,
            news=news,
            stop=capture_stop,
        )
        pipeline = Pipeline(lines=lines, news=news, sinks=[publisher, *sinks], stop=capture_stop, max_frames=max_frames)
        pipeline.start()
        notifier.ready()
        for line, source in zip(lines, sources, strict=True):
            logger.info("inspecting %s as %r with %s", source.description, line.inspector.product, bundle.path)
        supervise(pipeline, publisher, notifier, [line.status for line in lines], stop)
        notifier.stopping()
        drained = _wind_up(pipeline, publisher, config, stop)
    if pipeline.failure is not None:
        logger.error("%s", pipeline.failure)
    code = 0 if pipeline.failure is None else 1
    if not drained or not pipeline.wait_capture(0.1):
        _leave_at_once(code, exit_now)
    return code


def _leave_at_once(code: int, exit_now: Callable[[int], None]) -> None:
    """Ends the process without waiting for its threads."""
    logging.shutdown()
    with contextlib.suppress(OSError):  # nobody reads
        sys.stdout.flush()
    exit_now(code)


def spool_path(config: AgentConfig) -> Path:
    """The file of results that wait for the broker."""
    return config.spool.path or default_state_dir() / "spool.sqlite3"


def _open_publisher(config: AgentConfig, stack: ExitStack, stop: threading.Event) -> Publisher:
    mqtt = config.mqtt
    if mqtt.broker == EMBEDDED_BROKER:
        mqtt = mqtt.model_copy(update={"broker": stack.enter_context(EmbeddedBroker()).url})
    spool = stack.enter_context(Spool(spool_path(config), max_results=config.spool.max_results))
    publisher = stack.enter_context(Publisher(mqtt, config.device_id, spool))
    publisher.await_first_attempt(stop)
    return publisher


def _load_detector(bundle: Bundle, config: InferenceConfig, stop: threading.Event) -> Detector | None:
    """Compiles in a thread, since compiling cannot be interrupted and a signal must be heeded. None when stopped."""
    outcome: list[Detector | Exception] = []

    def load() -> None:
        try:
            outcome.append(Detector(bundle, config))
        except Exception as error:  # told by the main thread
            outcome.append(error)

    thread = threading.Thread(target=load, name="load", daemon=True)
    thread.start()
    while thread.is_alive() and not stop.is_set():
        thread.join(SUPERVISE_S)
    if not outcome:
        return None
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


class Watched(Protocol):
    """The pipeline, as the watch over it sees it."""

    @property
    def dropped(self) -> int: ...

    @property
    def inspected_frames(self) -> int: ...

    def check(self) -> None: ...

    def stuck(self, limit_s: float) -> str | None: ...

    def wait(self, timeout_s: float) -> bool: ...


class WatchedPublisher(Protocol):
    @property
    def alive(self) -> bool: ...

    @property
    def fault(self) -> str | None: ...


def supervise(
    pipeline: Watched,
    publisher: WatchedPublisher,
    notifier: Notifier,
    statuses: Sequence[CameraStatus],
    stop: threading.Event,
) -> None:
    """Until the pipeline is done or `stop` is set. Feeds the watchdog while inference and publishing move on.

    A camera or broker that is away does not stop the signs of life: a restart would not bring it back.
    """
    stuck_after_s = notifier.watchdog_s / 2 if notifier.watchdog_s is not None else STUCK_AFTER_S
    status_due_s = 0.0
    while not stop.is_set() and not pipeline.wait(SUPERVISE_S):
        pipeline.check()
        stuck = pipeline.stuck(stuck_after_s) or (None if publisher.alive else "the thread that sends has died")
        if stuck is None:
            notifier.watchdog()
        for status in statuses:
            if stuck is None:
                status.clear(PROCESS)
            else:
                status.fault(PROCESS, stuck)
        if time.monotonic() >= status_due_s:
            status_due_s = time.monotonic() + STATUS_EVERY_S
            faults = f"; {publisher.fault}" if publisher.fault else ""
            counts = f"{pipeline.inspected_frames} inspected, {pipeline.dropped} dropped"
            notifier.status(f"{condition(statuses)}{faults}; {counts}")


def condition(statuses: Sequence[CameraStatus]) -> str:
    """One line: `ok`, or what is wrong; with several cameras each is named."""
    if len(statuses) == 1:
        return statuses[0].text
    if all(status.text == "ok" for status in statuses):
        return f"{len(statuses)} cameras ok"
    return ", ".join(f"{status.camera} {status.text}" for status in statuses)


def _wind_up(pipeline: Pipeline, publisher: Publisher, config: AgentConfig, stop: threading.Event) -> bool:
    """Lets what was inspected reach the spool, then the broker, for a bounded time. False if a thread hangs."""
    pipeline.stop()
    drained = pipeline.wait(DRAIN_S)
    if not drained:
        logger.warning("stopped amid a picture, which has no result: %s", pipeline.stuck(0.0) or "busy")
    logger.info("%d inspected, %d dropped", pipeline.inspected_frames, pipeline.dropped)
    if not stop.is_set():
        unsent = _flush_at_end(publisher, stop)
    else:
        unsent = publisher.flush(FLUSH_ON_SIGNAL_S if publisher.connected else 0.0)
    if unsent:
        logger.warning("%d results stay in the spool %s and are sent at the next start", unsent, spool_path(config))
    return drained


def _flush_at_end(publisher: Publisher, stop: threading.Event) -> int:
    """Waits for the broker while results still leave. How many did not."""
    started_s = progress_s = time.monotonic()
    unsent = publisher.flush(SUPERVISE_S)
    while unsent and not stop.is_set():
        now_s = time.monotonic()
        if now_s - progress_s > FLUSH_PATIENCE_S or now_s - started_s > FLUSH_AT_END_S:
            break
        before, unsent = unsent, publisher.flush(SUPERVISE_S)
        if unsent < before:
            progress_s = time.monotonic()
    return unsent
