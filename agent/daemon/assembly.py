"""Builds the pipeline of a run and what belongs to it, from what the start has made ready."""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from zsad_agent.capture import INFERENCE, MODEL, CameraStatus
from zsad_agent.config import AgentConfig
from zsad_agent.control import (
    FILE_NAME,
    Controller,
    Nonces,
    ReloadRequest,
    RunningAgent,
    StoredSettings,
    listen_for_triggers,
)
from zsad_agent.daemon.observer import Observer
from zsad_agent.daemon.startup import RecordedFirst, make_sparkplug, make_updates, mark_in_history, start_evidence
from zsad_agent.inspection import Pipeline, Sink, Station, View, make_stations
from zsad_agent.messages import RecentResults, Topics
from zsad_agent.model import BundleStore, BundleUpdater, CameraInUse, Model, ModelGuard, ModelInUse, Started, load_again
from zsad_agent.monitoring import Metrics, StatsReporter
from zsad_agent.mqtt import Publisher
from zsad_agent.sources import Source
from zsad_agent.system import CrashReports, ServiceGroup, ThreadService, lower_priority
from zsad_agent.teaching import ProductPredictor, ProfileStore

if TYPE_CHECKING:
    from zsad_agent.daemon.plant import Plant
    from zsad_agent.daemon.web import Web
    from zsad_agent.dashboards import SparkplugPublisher
    from zsad_agent.history import HistoryStore

TRIAL_FRAMES = 4  # frames of each camera for the trial of a new bundle
LOOK_EVERY_S = 0.5  # for a new bundle, with which profiles are made again


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


@dataclass(frozen=True, kw_only=True)
class Base:
    """What a run has before its pipeline: the model is compiled, results can be stored and published."""

    config: AgentConfig
    options: RunOptions
    started: Started[ProductPredictor]
    store: BundleStore
    compile_one: Callable[..., ProductPredictor]
    profiles: ProfileStore | None  # None: nothing taught is used
    publisher: Publisher
    history: "HistoryStore | None"  # None: it is off
    sources: Sequence[Source]
    capture_stop: threading.Event  # ends what waits in a source
    services: ServiceGroup


class ProfileMaker(ThreadService):
    """Makes profiles that were taught with another bundle again, while other products are inspected. Owns a thread."""

    name = "profiles made again"
    stop_s = 0.3

    def __init__(self, models: ModelInUse) -> None:
        """Starts nothing."""
        super().__init__("zsad-profiles")
        self._models = models

    def _run(self) -> None:
        lower_priority()
        while not self._stop.wait(LOOK_EVERY_S):
            predictor = self._models.current.predictor
            if isinstance(predictor, ProductPredictor):
                predictor.make_waiting(self._stop.is_set)


@dataclass(frozen=True, kw_only=True)
class Agent:
    """The parts of a run that its servers and its end need."""

    pipeline: Pipeline
    observer: Observer
    metrics: Metrics
    reporter: StatsReporter
    guard: ModelGuard
    maker: ProfileMaker
    web: "Web | None"  # None: it is off
    plant: "Plant | None"  # None: it is off
    sparkplug: "SparkplugPublisher | None"  # None: it is off


def assemble(base: Base) -> Agent:
    """Builds the pipeline and its counters. Starts no thread of the pipeline."""
    config, options, services, publisher = base.config, base.options, base.services, base.publisher
    slots_changed = threading.Condition()
    models = ModelInUse(Model(bundle=base.started.bundle, predictor=base.started.detector))
    views = [View(camera.region_xywh, camera.ignore_mask) for camera in config.every_camera]
    stations = make_stations(
        config,
        base.sources,
        views,
        models=models,
        publish_status=publisher.set_camera_status,
        slots_changed=slots_changed,
        stop=base.capture_stop,
    )
    triggered = {station.name: station.capture for station in stations if station.capture.triggered}
    listen_for_triggers(publisher, Topics(config.mqtt.topic_prefix, config.device_id), triggered)
    evidence = start_evidence(config, options.state_dir, services)
    from zsad_agent.daemon.learning import make_learner

    learner = make_learner(config, options.state_dir, stations, base.sources, views, models, base.profiles)
    if learner is not None:
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
    web = _make_web(config, options.state_dir, base.history)
    sparkplug = make_sparkplug(config, options.state_dir, publisher, observer.snapshot)
    metrics = Metrics([station.name for station in stations], observer.snapshot)
    machines = () if plant is None else plant.sinks
    pages = () if web is None else web.sinks
    pipeline = Pipeline(
        stations=stations,
        slots_changed=slots_changed,
        store=publisher if base.history is None else RecordedFirst(base.history, publisher),
        sinks=[one for one in (*machines, sparkplug, metrics, recent, *pages, *options.sinks) if one is not None],
        stop=base.capture_stop,
        evidence=evidence if web is None else web.before(evidence),
        learner=learner,
        on_crash=options.crash_reports.record if options.crash_reports is not None else None,
        max_frames=options.max_frames,
    )
    return Agent(
        pipeline=pipeline,
        observer=observer,
        metrics=metrics,
        reporter=StatsReporter(observer.snapshot, lambda: services.faults, publisher.set_retained),
        guard=services.start(_make_guard(base, models, stations)),
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


def _make_guard(base: Base, models: ModelInUse, stations: Sequence[Station]) -> ModelGuard:
    load = partial(load_again, config=base.config.inference, make=base.compile_one)
    return ModelGuard(
        models, load_again=load, on_fault=partial(_note_model_fault, [station.status for station in stations])
    )


def _note_model_fault(statuses: Sequence[CameraStatus], fault: str | None) -> None:
    for status in statuses:
        if fault is None:
            status.clear(INFERENCE)
            status.clear(MODEL)
        else:
            status.fault(MODEL, fault, replace=True)


def make_controller(base: Base, running: Observer, restart: ReloadRequest) -> Controller:
    """The controller of commands. After its start the stored settings of earlier runs apply."""
    state_dir, stations, models = base.options.state_dir, running.stations, running.models

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
        store=base.store,
        models=models,
        compile_bundle=partial(base.compile_one, on_trial=True),
        on_passed=lambda predictor: cast("ProductPredictor", predictor).keep_made(),
        cameras=cameras,
    )
    updates, installed = make_updates(base.config, state_dir, base.profiles, models, cameras)
    if updates is not None:
        base.services.start(updates)
    return Controller(
        RunningAgent(stations, models, updater, base.store, restart, running.learner, updates, installed),
        base.publisher,
        base.config,
        StoredSettings(state_dir / FILE_NAME),
        nonces=running.nonces,
        reload_fault=restart.fault,
        on_mark=partial(mark_in_history, base.history),
    )
