"""Builds everything from the config, supervises it and stops it in order."""

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import cv2

from zsad_agent.capture import INFERENCE, CameraStatus
from zsad_agent.config import OFF, AgentConfig
from zsad_agent.control import (
    CAMERA_KEYS,
    DEVICE_KEYS,
    FILE_NAME,
    Controller,
    Nonces,
    ReloadRequest,
    RunningAgent,
    StoredSettings,
    listen_for_triggers,
)
from zsad_agent.daemon.observer import Observer
from zsad_agent.daemon.profile_maker import ProfileMaker
from zsad_agent.daemon.shutdown import STOP_S, drain_and_flush, in_time, is_calm, leave_at_once
from zsad_agent.daemon.startup import (
    PublishedFile,
    RecordedFirst,
    compile_bundle,
    load_in_thread,
    make_sparkplug,
    make_spool,
    make_updates,
    mark_in_history,
    start_evidence,
    start_history,
    start_publisher,
)
from zsad_agent.daemon.supervision import find_stuck, supervise
from zsad_agent.inspection import Pipeline, Sink, Station, View, make_stations
from zsad_agent.messages import RecentResults, Topics, what_is_missing
from zsad_agent.model import (
    BundleStore,
    BundleUpdater,
    CameraInUse,
    Model,
    ModelGuard,
    ModelInUse,
    Started,
    load_again,
)
from zsad_agent.monitoring import HealthApp, HealthServer, Metrics, StatsReporter
from zsad_agent.mqtt import Publisher
from zsad_agent.sources import Source, make_source
from zsad_agent.spool import Cause
from zsad_agent.system import (
    CrashReports,
    Notifier,
    ServiceGroup,
    configure_logging,
    give_back_memory,
    quick_imports,
)
from zsad_agent.teaching import ProductPredictor, ProfileStore
from zsad_core.bundle import Bundle
from zsad_core.errors import ZsadError

if TYPE_CHECKING:
    from zsad_agent.daemon.plant import Plant
    from zsad_agent.daemon.web import Web
    from zsad_agent.dashboards import SparkplugPublisher
    from zsad_agent.history import HistoryStore

logger = logging.getLogger(__name__)

CLOSE_CAPTURE_S = 0.5  # for a camera's process to end its connection in order
CLOSE_CAPTURE_AT_LEAST_S = 0.2  # the same, if the services used all of `STOP_S`
ANSWER_S = 2.0  # for the answer to the command that asked for the restart
TRIAL_FRAMES = 4  # frames of each camera for the trial of a new bundle


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of one run that are not in the config."""

    stop: threading.Event  # set to end the run; accepted results are then published or stored within 2 s
    state_dir: Path
    hangup: Callable[[], bool] = lambda: False  # whether a reload was requested by signal since its last call
    reread: Callable[[], AgentConfig] | None = None  # reads and checks the config again; None: there is no file
    config_path: Path | None = None  # None: there is no file
    check_config: Callable[[Path], Sequence[str]] = lambda path: ()  # the faults of another file in its place
    sinks: Sequence[Sink] = ()  # get every result, in addition to the publisher
    max_frames: int | None = None  # the run ends after this number of pictures
    crash_reports: CrashReports | None = None
    exit_now: Callable[[int], None] = os._exit  # used if a thread hangs in a driver and blocks the end of the process


def run_agent(config: AgentConfig, options: RunOptions) -> int:
    """Inspects until every source ends, `max_frames` are done, or a stop is requested. Returns the exit code.

    A `reload` command starts everything again with the new config, in the same process. A new config without a fault
    may still fail to start, for example because its bundle answers NaN. Then the earlier config is started again.

    Raises:
        ZsadError: something named in the config cannot be used.
    """
    cv2.setNumThreads(1)  # its threads would compete with the model's for the cores
    notifier = Notifier(os.environ)
    before: AgentConfig | None = None  # the config until the reload
    fault: str | None = None
    started = False
    while True:
        restart, started = ReloadRequest(options.reread, again=started, fault=fault), True
        try:
            code = _run_once(config, options, notifier, restart)
        except ZsadError as error:
            if before is None or restart.begun:
                raise
            fault = f"the new config cannot be started, so the earlier one is used again: {error}"
            logger.error("%s", fault)
            config, before = before, None
            continue
        if restart.config is None or options.stop.is_set():
            return code
        before, config, fault = config, restart.config, None
        configure_logging(config.log_level, config.log_format)
        logger.info("restarting with the new config")


def _run_once(config: AgentConfig, options: RunOptions, notifier: Notifier, restart: ReloadRequest) -> int:
    """Runs until the end or a reload."""
    capture_stop = threading.Event()
    sources = [make_source(camera, may_come_later=True, stop=capture_stop) for camera in config.every_camera]
    views = [View(camera.region_xywh, camera.ignore_mask) for camera in config.every_camera]
    store = BundleStore(options.state_dir / "bundles", config.inference)
    folder = config.profiles_folder(options.state_dir)
    profiles = None if folder is None else ProfileStore(folder, must_exist=config.profiles is not None)
    compile_one = partial(compile_bundle, config=config, profiles=profiles)
    with ExitStack() as stack:
        with quick_imports(freeze=False):
            alive = notifier.watchdog if restart.again else None
            started = load_in_thread(store, compile_one, options.stop, alive, meanwhile=_import_learning)
        if started is None:
            leave_at_once(0, options.exit_now)  # the compiler's threads would crash during interpreter shutdown
            return 0
        give_back_memory()
        spool = stack.enter_context(make_spool(config, options.state_dir, options.stop))
        services = ServiceGroup()
        stack.callback(lambda: services.stop(time.monotonic() + STOP_S))
        history = start_history(config, options.state_dir, spool, services)
        publisher = start_publisher(config, spool, history, services, options.stop)
        if config.home_assistant.enabled:
            from zsad_agent.dashboards import announce

            announce(config, publisher)
        last = PublishedFile(options.state_dir / "published.json")
        publisher.clear_all_but(_retained_topics(config), last.read())
        agent = _assemble(
            config, options, started, compile_one, profiles, publisher, history, sources, capture_stop, views, services
        )
        controller = None
        if config.control.enabled or config.web.on or config.plant.on:
            on_mark = partial(mark_in_history, history)
            controller = _make_controller(
                config, options, agent.observer, store, compile_one, restart, on_mark, profiles
            )
            services.start(controller)
        reload = controller.reload if controller is not None else restart.ask_in_background
        _start_servers(config, options, agent, controller, profiles, services, notifier, reload)
        services.start(agent.pipeline)
        restart.begun = True
        notifier.ready()
        stations = agent.observer.stations
        for station, source in zip(stations, sources, strict=True):
            logger.info(
                "inspecting %s as %r with %s", source.description, station.inspector.product, started.bundle.path
            )
        statuses = [station.status for station in stations]
        ends = (options.stop, restart.event)
        tend = (
            agent.reporter.tend,
            partial(last.keep, publisher),
            partial(_reload_on_hangup, options.hangup, reload),
        )
        supervise(agent.pipeline, services, notifier, statuses, ends=ends, notes=started.reasons, tend=tend)
        stop_by_s = time.monotonic() + STOP_S
        if not restart.event.is_set():
            notifier.stopping()
        elif controller is not None:
            controller.wait_idle(ANSWER_S)  # the reload command is answered before the restart
        ending = drain_and_flush(agent.pipeline, publisher, spool, ends)
        services.stop(stop_by_s if options.stop.is_set() else time.monotonic() + STOP_S)
    lost = ending.lost + publisher.stats.given_up.get(Cause.DAMAGE, 0)
    code = _exit_code(agent.pipeline, lost, by_itself=not any(end.is_set() for end in ends))
    # a bundle is compiled, as at the start, or a product is learned
    workers = (agent.guard, agent.maker, controller, agent.observer.learner)
    calm = in_time(partial(is_calm, [one for one in workers if one is not None], notifier.watchdog), 0.0, ends)
    left_s = stop_by_s + CLOSE_CAPTURE_AT_LEAST_S - time.monotonic() if options.stop.is_set() else CLOSE_CAPTURE_S
    close_s = max(0.0, min(CLOSE_CAPTURE_S, left_s))
    if not calm or not ending.drained or not in_time(agent.pipeline.wait_capture, close_s, ends):
        if restart.event.is_set() and not options.stop.is_set():
            logger.error("a thread hangs, so a restart in this process is impossible: the process ends")
            code = 1
        leave_at_once(code, options.exit_now)
    return code


def _import_learning() -> None:
    """Imports the other modules in 0.1 s, on the core that the compiler does not use at first."""
    importlib.import_module("zsad_agent.daemon.learning")


def _start_servers(
    config: AgentConfig,
    options: RunOptions,
    agent: "_Agent",
    controller: Controller | None,
    profiles: ProfileStore | None,
    services: ServiceGroup,
    notifier: Notifier,
    reload: Callable[[], None],
) -> None:
    """The health server, and the page if it is on."""
    health = HealthApp(
        metrics=agent.metrics.render,
        stuck=lambda: find_stuck(agent.pipeline, services, notifier.watchdog_s),
        missing=lambda: [*what_is_missing(agent.observer.snapshot()), *services.dead()],
    )
    if config.http.listen != OFF:
        services.start(HealthServer(config.http.listen, health))
    if agent.plant is not None:
        for service in agent.plant.services(controller):
            services.start(service)
    if agent.sparkplug is not None:
        services.start(agent.sparkplug)
    if agent.web is not None:
        assert controller is not None
        for service in agent.web.services(agent.observer, health, controller):
            services.start(service)
        services.start(
            agent.web.make_server(
                agent.observer,
                health=health,
                commands=controller,
                profiles=profiles,
                config_path=options.config_path,
                check_config=options.check_config,
                reload=reload,
            )
        )


def _exit_code(pipeline: Pipeline, lost: int, *, by_itself: bool) -> int:
    """1 if the run failed or lost results, or ended by itself after pictures that could not be decoded."""
    if pipeline.failure is not None:
        logger.error("%s", pipeline.failure)
    if unreadable := pipeline.unreadable if by_itself else 0:
        logger.error("pictures that could not be decoded, so their verdict is unknown: %d", unreadable)
    return 1 if pipeline.failure is not None or lost or unreadable else 0


def _reload_on_hangup(hangup: Callable[[], bool], reload: Callable[[], None]) -> None:
    if hangup():
        logger.info("SIGHUP: the config file is read again")
        reload()


def _retained_topics(config: AgentConfig) -> set[str]:
    """The statuses and states that the agent publishes, below the device's topic."""
    cameras = [camera.name for camera in config.every_camera]
    keys = [*(f"{camera}/{key}" for camera in cameras for key in CAMERA_KEYS), *DEVICE_KEYS]
    states = {f"{key}/state" for key in keys if config.control.enabled}
    return states | {f"{camera}/status" for camera in cameras}


@dataclass(frozen=True, kw_only=True)
class _Agent:
    pipeline: Pipeline
    observer: Observer
    metrics: Metrics
    reporter: StatsReporter
    guard: ModelGuard
    maker: ProfileMaker
    web: "Web | None"  # None: it is off
    plant: "Plant | None"  # None: it is off
    sparkplug: "SparkplugPublisher | None"  # None: it is off


def _assemble(
    config: AgentConfig,
    options: RunOptions,
    started: Started[ProductPredictor],
    compile_one: Callable[[Bundle], ProductPredictor],
    profiles: ProfileStore | None,
    publisher: Publisher,
    history: "HistoryStore | None",
    sources: Sequence[Source],
    capture_stop: threading.Event,
    views: Sequence[View],
    services: ServiceGroup,
) -> _Agent:
    """Builds the pipeline and its counters. Starts no thread of the pipeline."""
    slots_changed = threading.Condition()
    models = ModelInUse(Model(bundle=started.bundle, predictor=started.detector))
    stations = make_stations(
        config,
        sources,
        views,
        models=models,
        publish_status=publisher.set_camera_status,
        slots_changed=slots_changed,
        stop=capture_stop,
    )
    triggered = {station.name: station.capture for station in stations if station.capture.triggered}
    listen_for_triggers(publisher, Topics(config.mqtt.topic_prefix, config.device_id), triggered)
    evidence = start_evidence(config, options.state_dir, services)
    from zsad_agent.daemon.learning import make_learner

    if (learner := make_learner(config, options.state_dir, stations, sources, views, models, profiles)) is not None:
        services.start(learner)
    recent = RecentResults()
    plant = _make_plant(config, options.state_dir, stations)
    observer = Observer(
        config=config,
        stations=stations,
        models=models,
        publisher=publisher,
        recent=recent,
        evidence=evidence,
        learner=learner,
        services=services,
        nonces=Nonces(),
        plant=None if plant is None else plant.stations,
    )
    web = _make_web(config, options.state_dir, history)
    pages = () if web is None else web.sinks
    machines = () if plant is None else plant.sinks
    sparkplug = make_sparkplug(config, options.state_dir, publisher, observer.snapshot)
    metrics = Metrics([station.name for station in stations], observer.snapshot)
    pipeline = Pipeline(
        stations=stations,
        slots_changed=slots_changed,
        store=publisher if history is None else RecordedFirst(history, publisher),
        sinks=[one for one in (*machines, sparkplug, metrics, recent, *pages, *options.sinks) if one is not None],
        stop=capture_stop,
        evidence=evidence if web is None else web.before(evidence),
        learner=learner,
        on_crash=options.crash_reports.record if options.crash_reports is not None else None,
        max_frames=options.max_frames,
    )
    load = partial(load_again, config=config.inference, make=compile_one)
    on_fault = partial(_note_model_fault, [station.status for station in stations])
    return _Agent(
        pipeline=pipeline,
        observer=observer,
        metrics=metrics,
        reporter=StatsReporter(observer.snapshot, lambda: services.faults, publisher.set_retained),
        guard=services.start(ModelGuard(models, load_again=load, on_fault=on_fault)),
        maker=services.start(ProfileMaker(models)),
        web=web,
        plant=plant,
        sparkplug=sparkplug,
    )


def _make_plant(config: AgentConfig, state_dir: Path, stations: Sequence[Station]) -> "Plant | None":
    if not config.plant.on and not config.plant.gpio:
        return None
    from zsad_agent.daemon.plant import Plant  # what is off costs nothing

    return Plant(config.plant, stations, state_dir)


def _make_web(config: AgentConfig, state_dir: Path, history: "HistoryStore | None") -> "Web | None":
    if not config.web.on:
        return None
    from zsad_agent.daemon.web import Web  # what is off costs nothing

    return Web(config, state_dir, history)


def _note_model_fault(statuses: Sequence[CameraStatus], fault: str | None) -> None:
    for status in statuses:
        if fault is None:
            status.clear(INFERENCE)
        else:
            status.fault(INFERENCE, fault, replace=True)


def _make_controller(
    config: AgentConfig,
    options: RunOptions,
    running: Observer,
    store: BundleStore,
    compile_one: Callable[..., ProductPredictor],
    restart: ReloadRequest,
    on_mark: Callable[[str, bool], None],
    profiles: ProfileStore | None,
) -> Controller:
    """The controller of commands. After its start the stored settings of earlier runs apply."""
    stations, models = running.stations, running.models

    def cameras() -> list[CameraInUse]:
        return [
            CameraInUse(
                name=station.name,
                product=station.inspector.product,
                images_bgr=station.capture.newest_images(TRIAL_FRAMES),
            )
            for station in stations
        ]

    updater = BundleUpdater(
        store=store,
        models=models,
        compile_bundle=partial(compile_one, on_trial=True),
        on_passed=lambda predictor: cast("ProductPredictor", predictor).keep_made(),
        cameras=cameras,
    )
    updates, installed = make_updates(config, options.state_dir, profiles, models, cameras)
    if updates is not None:
        running.services.start(updates)
    remote = RunningAgent(stations, models, updater, store, restart, running.learner, updates, installed)
    stored = StoredSettings(options.state_dir / FILE_NAME)
    return Controller(
        remote,
        running.publisher,
        config,
        stored,
        nonces=running.nonces,
        reload_fault=restart.fault,
        on_mark=on_mark,
    )
