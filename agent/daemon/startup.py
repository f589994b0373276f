"""Starts what all cameras share: the model, the spool, the history, the evidence, the connection to the broker."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_agent.config import EMBEDDED_BROKER, AgentConfig
from zsad_agent.daemon.supervision import SUPERVISE_S
from zsad_agent.evidence import EvidenceStore
from zsad_agent.inspection import ResultStore, prepare_products, product_of
from zsad_agent.messages import AgentSnapshot, Published, Result
from zsad_agent.model import BundleStore, CameraInUse, ModelInUse, Started
from zsad_agent.mqtt import EmbeddedBroker, Publisher
from zsad_agent.spool import Spool
from zsad_agent.system import ServiceGroup, in_thread, read_json, write_whole
from zsad_agent.teaching import ProductPredictor, ProfileStore, make_predictor
from zsad_core.bundle import Bundle, read_trusted_keys
from zsad_core.errors import HistoryError, SpoolError

if TYPE_CHECKING:
    from zsad_agent.dashboards import SparkplugPublisher
    from zsad_agent.history import HistoryStore
    from zsad_agent.updating import InstalledProfiles, Updates

SLOW_S = 10.0  # for one picture; the unit's WatchdogSec is 30
MOST_BYTES = 10_000  # of `published.json`
LOAD_S = 300.0  # longest time for a model to load, as the unit's TimeoutStartSec

logger = logging.getLogger(__name__)


def make_spool(config: AgentConfig, state_dir: Path, stop: threading.Event) -> Spool:
    """The spool, where results wait for the broker. Opens no file."""
    limits = config.spool
    return Spool(
        limits.path or state_dir / "spool.sqlite3",
        max_results=limits.max_results,
        max_bytes=limits.max_bytes,
        max_age_h=limits.max_age_h,
        fsync=limits.fsync,
        stop=stop,
    )


class RecordedFirst:
    """Gives each result first to the history, then to the spool.

    So the broker acknowledges no result that the history does not have.
    """

    def __init__(self, history: "HistoryStore", store: ResultStore) -> None:
        self._history, self._store = history, store

    def accept_all(
        self,
        results: Sequence[tuple[Result, bytes | None]],
        on_durable: Sequence[Callable[[], None] | None],
    ) -> None:
        """As `ResultStore`."""
        for result, _ in results:
            self._history.accept(result)
        self._store.accept_all(results, on_durable)


def start_history(config: AgentConfig, state_dir: Path, spool: Spool, services: ServiceGroup) -> "HistoryStore | None":
    """A history that has started. None: it is off.

    It gets the newest results of the spool: an earlier run may have been killed before their commit. Start it before
    the publisher, which deletes results from the spool.
    """
    if not config.keeps_history:
        return None
    from zsad_agent.history import MOST_WAITING, HistoryStore  # what is off costs nothing

    limits = config.history
    path = limits.path or state_dir / "history.sqlite3"
    history = HistoryStore(path, max_days=limits.max_days, max_bytes=limits.max_bytes)
    with contextlib.suppress(SpoolError):  # the outbox reports it
        history.refill(entry.body for entry in spool.wait_for(lambda: spool.newest(MOST_WAITING)) or ())
    return services.start(history)


def start_evidence(config: AgentConfig, state_dir: Path, services: ServiceGroup) -> EvidenceStore | None:
    """An evidence store that has started. None: it is off."""
    if not config.keeps_evidence:
        return None
    return services.start(EvidenceStore(config.evidence, config.evidence.path or state_dir / "evidence"))


def start_publisher(
    config: AgentConfig, spool: Spool, history: "HistoryStore | None", services: ServiceGroup, stop: threading.Event
) -> Publisher:
    """A publisher that has started. Waits for the first attempt to connect, or for `stop`."""
    mqtt = config.mqtt
    if mqtt.broker == EMBEDDED_BROKER:
        mqtt = services.start(EmbeddedBroker()).reached_by(mqtt)
    may_delete = history.is_copied if history is not None else lambda: True
    publisher = services.start(
        Publisher(mqtt, config.device_id, spool, pictures=config.spool.pictures, may_delete=may_delete)
    )
    publisher.await_first_attempt(stop)
    return publisher


def make_sparkplug(
    config: AgentConfig, state_dir: Path, publisher: Publisher, snapshot: Callable[[], AgentSnapshot]
) -> "SparkplugPublisher | None":
    """Publishes Sparkplug B; not started yet. None: it is off."""
    if not config.sparkplug.enabled:
        return None
    from zsad_agent.dashboards import SparkplugPublisher  # what is off costs nothing

    return SparkplugPublisher(
        publisher.config,
        snapshot,
        group=config.sparkplug.group,
        device_id=config.device_id,
        cameras=[camera.name for camera in config.every_camera],
        state_file=state_dir / "sparkplug.json",
    )


def make_updates(
    config: AgentConfig,
    state_dir: Path,
    profiles: ProfileStore | None,
    models: ModelInUse,
    cameras: Callable[[], Sequence[CameraInUse]],
) -> "tuple[Updates | None, InstalledProfiles | None]":
    """What fetches updates, not started yet, and what takes fetched profiles into use. None: it is off.

    Raises:
        ConfigError: a key cannot be used.
    """
    if not config.update.enabled:
        return None, None
    from zsad_agent.updating import InstalledProfiles, Updates  # what is off costs nothing

    keys = read_trusted_keys(config.inference.trusted_keys)
    installed = None if profiles is None else InstalledProfiles(profiles, models, cameras, keys)
    return Updates(config.update, state_dir), installed


def mark_in_history(history: "HistoryStore | None", result_id: str, good: bool) -> None:
    """Stores a person's mark of a result, which came over MQTT. A fault is only logged: the command has succeeded."""
    if history is None:
        return
    try:
        history.mark(result_id, good=good, who="mqtt")
    except HistoryError as error:
        logger.warning("the mark of %s is not in the history: %s", result_id, error)


class PublishedFile:
    """Remembers, over restarts, where the agent published retained messages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept = False

    def read(self) -> Published | None:
        try:
            return read_json(self._path, Published, MOST_BYTES)
        except ValueError:  # it is damaged, so old topics stay at the broker
            return None

    def keep(self, publisher: Publisher) -> None:
        """Writes it once the broker is connected. The disk may hang; the spool reports a disk that fails."""
        if not self._kept and publisher.connected:
            self._kept = True
            content = publisher.published.model_dump_json().encode()
            in_thread("published", partial(write_whole, self._path, content))


def compile_bundle(
    bundle: Bundle, config: AgentConfig, profiles: ProfileStore | None, *, on_trial: bool = False
) -> ProductPredictor:
    """The bundle, compiled for the config's device, with what was taught about the products of the cameras.

    A profile that was made with another bundle is made again: here if the bundle is `on_trial`, else by `ProfileMaker`.

    Raises:
        ZsadError: the bundle cannot serve every camera, or the device cannot run it.
    """
    products = {product_of(camera) for camera in config.every_camera}
    predictor = make_predictor(
        bundle,
        config.inference,
        profiles,
        products=products,
        cameras=len(config.every_camera),
        read_only=on_trial,
        later=not on_trial,
    )
    prepare_products(config, bundle, predictor)
    for camera in config.every_camera:
        masked = predictor.taught_with_mask(product_of(camera))
        if masked is not None and masked != (camera.ignore_mask is not None):
            logger.warning(
                "camera %s: %r was taught %s ignore_mask, so its threshold does not fit. Teach the product again",
                camera.name,
                product_of(camera),
                "with an" if masked else "without",
            )
    if predictor.trial_s > SLOW_S:
        logger.warning(
            "the model needed %.0f s for one picture, so systemd's watchdog may restart the agent. Use a smaller "
            "bundle, set inference.threads to the free cores, or raise WatchdogSec (systemctl edit zsad-agent)",
            predictor.trial_s,
        )
    return predictor


def load_in_thread(
    store: BundleStore,
    compile_one: Callable[[Bundle], ProductPredictor],
    stop: threading.Event,
    alive: Callable[[], None] | None,
    *,
    meanwhile: Callable[[], object],
) -> Started[ProductPredictor] | None:
    """Compiles in a thread, because a signal cannot interrupt the compiler. Returns None if stopped.

    `alive` feeds a watchdog that already runs, for at most `LOAD_S`; None: none runs yet. `meanwhile` is called once,
    while the compiler works.
    """
    started_s = time.monotonic()
    outcome = in_thread("load", lambda: store.start(compile_one))
    meanwhile()
    while not outcome.done() and not stop.is_set():
        if alive is not None and time.monotonic() - started_s < LOAD_S:
            alive()
        wait({outcome}, SUPERVISE_S)
    return outcome.result() if outcome.done() else None
