"""Builds everything from the config, supervises it and stops it in order."""

import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import cv2

from zsad_agent.config import OFF, AgentConfig
from zsad_agent.control import CAMERA_KEYS, DEVICE_KEYS, Controller, ReloadRequest
from zsad_agent.daemon.assembly import Agent, Base, RunOptions, assemble, make_controller
from zsad_agent.daemon.shutdown import STOP_S, drain_and_flush, in_time, is_calm, leave_at_once
from zsad_agent.daemon.startup import (
    PublishedFile,
    compile_bundle,
    load_in_thread,
    make_spool,
    start_history,
    start_publisher,
)
from zsad_agent.daemon.supervision import find_stuck, supervise
from zsad_agent.inspection import Pipeline
from zsad_agent.messages import what_is_missing
from zsad_agent.model import BundleStore
from zsad_agent.monitoring import HealthApp, HealthServer
from zsad_agent.sources import make_source
from zsad_agent.spool import Cause
from zsad_agent.system import Notifier, ServiceGroup, configure_logging, give_back_memory, quick_imports
from zsad_agent.teaching import ProfileStore
from zsad_core.errors import ZsadError

logger = logging.getLogger(__name__)

CLOSE_CAPTURE_S = 0.5  # for a camera's process to end its connection in order
CLOSE_CAPTURE_AT_LEAST_S = 0.2  # the same, if the services used all of `STOP_S`
ANSWER_S = 2.0  # for the answer to the command that asked for the restart


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
    started = late = False
    while True:
        restart, started = ReloadRequest(options.reread, again=started, fault=fault, late=late), True
        try:
            code = _run_once(config, options, notifier, restart)
        except ZsadError as error:
            if before is None or restart.begun:
                raise
            fault = f"the new config cannot be started, so the earlier one is used again: {error}"
            logger.error("%s", fault)
            config, before = before, None
            configure_logging(config.log_level, config.log_format)
            continue
        if restart.config is None or options.stop.is_set():
            return code
        before, config, fault, late = config, restart.config, None, restart.unread
        configure_logging(config.log_level, config.log_format)
        logger.info("restarting with the new config")


def _run_once(config: AgentConfig, options: RunOptions, notifier: Notifier, restart: ReloadRequest) -> int:
    """Runs until the end or a reload."""
    capture_stop = threading.Event()
    sources = [make_source(camera, may_come_later=True, stop=capture_stop) for camera in config.every_camera]
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
        base = Base(
            config=config,
            options=options,
            started=started,
            store=store,
            compile_one=compile_one,
            profiles=profiles,
            publisher=publisher,
            history=history,
            sources=sources,
            capture_stop=capture_stop,
            services=services,
        )
        agent = assemble(base)
        controller = None
        if config.control.enabled or config.web.on or config.plant.on:
            controller = services.start(make_controller(base, agent.observer, restart))
        reload = partial(restart.tell, restart.ask_in_background if controller is None else controller.reload)
        _start_servers(base, agent, controller, notifier, reload)
        services.start(agent.pipeline)
        restart.begun = True
        notifier.ready()
        ends = (options.stop, restart.event)
        tend = (partial(last.keep, publisher), lambda: restart.on_hangup(options.hangup(), reload))
        _inspect(base, agent, notifier, ends, tend)
        stop_by_s = time.monotonic() + STOP_S
        if not restart.event.is_set():
            notifier.stopping()
        elif controller is not None:
            controller.wait_idle(ANSWER_S)  # the reload command is answered before the restart
        ending = drain_and_flush(agent.pipeline, publisher, spool, ends)
        services.stop(stop_by_s if options.stop.is_set() else time.monotonic() + STOP_S)
    lost = ending.lost + publisher.stats.given_up.get(Cause.DAMAGE, 0)
    code = _exit_code(agent.pipeline, lost, by_itself=not any(end.is_set() for end in ends))
    calm = ending.drained and _is_calm(agent, controller, notifier, ends)
    left_s = stop_by_s + CLOSE_CAPTURE_AT_LEAST_S - time.monotonic() if options.stop.is_set() else CLOSE_CAPTURE_S
    if not calm or not in_time(agent.pipeline.wait_capture, max(0.0, min(CLOSE_CAPTURE_S, left_s)), ends):
        if restart.event.is_set() and not options.stop.is_set():
            logger.error("a thread hangs, so a restart in this process is impossible: the process ends")
            code = 1
        leave_at_once(code, options.exit_now)
    return code


def _inspect(
    base: Base,
    agent: Agent,
    notifier: Notifier,
    ends: Sequence[threading.Event],
    tend: Sequence[Callable[[], None]],
) -> None:
    """Supervises the running pipeline until one of `ends` is set or its sources end."""
    stations = agent.observer.stations
    for station, source in zip(stations, base.sources, strict=True):
        product = station.inspector.product
        taught = agent.observer.models.current.predictor.is_taught(product)
        note = "" if taught else "; no profile is used, so the verdicts are provisional"
        logger.info("inspecting %s as %r with %s%s", source.description, product, base.started.bundle.path, note)
    statuses = [station.status for station in stations]
    tend = (agent.reporter.tend, *tend)
    supervise(agent.pipeline, base.services, notifier, statuses, ends=ends, notes=base.started.reasons, tend=tend)


def _is_calm(agent: Agent, controller: Controller | None, notifier: Notifier, ends: Sequence[threading.Event]) -> bool:
    """Whether no thread compiles a bundle or learns a product. Before a reload it waits for that."""
    workers = [one for one in (agent.guard, agent.maker, controller, agent.observer.learner) if one is not None]
    return in_time(partial(is_calm, workers, notifier.watchdog), 0.0, ends)


def _import_learning() -> None:
    """Imports the other modules in 0.1 s, on the core that the compiler does not use at first."""
    importlib.import_module("zsad_agent.daemon.learning")


def _start_servers(
    base: Base, agent: Agent, controller: Controller | None, notifier: Notifier, reload: Callable[[], None]
) -> None:
    """The health server, and the page if it is on."""
    services = base.services
    health = HealthApp(
        metrics=agent.metrics.render,
        stuck=lambda: find_stuck(agent.pipeline, services, notifier.watchdog_s),
        missing=lambda: [*what_is_missing(agent.observer.snapshot()), *services.dead()],
    )
    if base.config.http.listen != OFF:
        services.start(HealthServer(base.config.http.listen, health))
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
                profiles=base.profiles,
                config_path=base.options.config_path,
                check_config=base.options.check_config,
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


def _retained_topics(config: AgentConfig) -> set[str]:
    """The statuses and states that the agent publishes, below the device's topic."""
    cameras = [camera.name for camera in config.every_camera]
    keys = [*(f"{camera}/{key}" for camera in cameras for key in CAMERA_KEYS), *DEVICE_KEYS]
    states = {f"{key}/state" for key in keys if config.control.enabled}
    return states | {f"{camera}/status" for camera in cameras}
