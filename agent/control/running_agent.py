"""The running agent as commands read and change it."""

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsad_agent.config import AgentConfig
from zsad_agent.control.command import CommandError, TeachAction, TeachRequest
from zsad_agent.inspection import Station
from zsad_agent.messages import UpdateState
from zsad_agent.model import BundleStore, BundleUpdater, ModelInUse, Outcome
from zsad_agent.system import in_thread, one_line
from zsad_core.errors import BundleError, ConfigError, ProfileError

if TYPE_CHECKING:  # imported while the model loads
    from zsad_agent.learning import LineLearner
    from zsad_agent.updating import InstalledProfiles, UpdateRequest, Updates

logger = logging.getLogger(__name__)

MAX_ERROR_CHARACTERS = 4000  # a config file may have many faults
START_COUNT = 30  # pictures of a teach-in that names no number
NO_LEARNER = "teaching needs profiles in the config (not off), and a bundle with feature networks"


class RunningAgent:
    """Access to the stations, the model and the config file for commands. For one thread at a time.

    A setter raises a ZsadError when it refuses the value; nothing has then changed. None: the config's value.
    """

    def __init__(
        self,
        stations: Sequence[Station],
        models: ModelInUse,
        updater: BundleUpdater,
        store: BundleStore,
        restart: "ReloadRequest",
        learner: "LineLearner | None" = None,
        updates: "Updates | None" = None,
        profiles: "InstalledProfiles | None" = None,
    ) -> None:
        self._learner, self._updates, self._profiles = learner, updates, profiles
        self._stations = {station.name: station for station in stations}
        self._configured = {
            name: (station.inspector.threshold, station.inspector.product) for name, station in self._stations.items()
        }
        self._models = models
        self._updater = updater
        self._store = store
        self._restart = restart

    @property
    def cameras(self) -> tuple[str, ...]:
        return tuple(self._stations)

    @property
    def bundle(self) -> str:
        """Name and version of the current bundle, for people."""
        return self._models.current.name

    @property
    def bundle_commanded(self) -> bool:
        """Whether a command, not the config, chose the current bundle."""
        return self._store.holds(self._models.current.bundle)

    def threshold(self, camera: str) -> float:
        inspector = self._stations[camera].inspector
        if inspector.threshold is not None:
            return inspector.threshold
        model = self._models.current
        taught = model.predictor.is_taught(inspector.product)
        return inspector.own_threshold(model, inspector.product, taught=taught)[0]

    def scale(self, camera: str) -> str:
        """`taught` or `not taught`: the two kinds of scores. A threshold for one kind does not fit the other."""
        return "taught" if self._models.current.predictor.is_taught(self.product(camera)) else "not taught"

    def product(self, camera: str) -> str:
        return self._stations[camera].inspector.product

    def paused(self, camera: str) -> bool:
        return self._stations[camera].capture.paused

    def set_threshold(self, camera: str, value: float | None) -> None:
        self._stations[camera].inspector.threshold = self._configured[camera][0] if value is None else value

    def set_product(self, camera: str, name: str | None) -> None:
        product = self._configured[camera][1] if name is None else name
        self._models.current.predictor.prepare(product)  # ProductError if there is none
        self._stations[camera].inspector.product = product

    def set_paused(self, camera: str, paused: bool | None) -> None:
        capture = self._stations[camera].capture
        capture.pause(bool(paused))

    def snapshot(self, camera: str) -> np.ndarray | None:
        """The newest picture, uint8 BGR [H, W, 3]; None before the first."""
        newest = self._stations[camera].capture.newest_images(1)
        return newest[-1] if newest else None

    def teaching(self, camera: str) -> dict[str, Any]:
        """What is being taught at the camera, and what can be done next."""
        if self._learner is None:
            return {"phase": "off", "text": NO_LEARNER, "next": []}
        return self._learner.state(camera)

    def teach(self, camera: str, request: TeachRequest) -> None:
        """Carries out a command of teach-in.

        Raises:
            ZsadError: it is refused.
        """
        learner = self._learner
        if learner is None:
            raise CommandError(NO_LEARNER)
        product = request.product or self.product(camera)
        match request.action:
            case TeachAction.START:
                learner.begin(camera, product, request.count or START_COUNT, request.rate)
            case TeachAction.FINISH:
                learner.finish(camera)
            case TeachAction.CANCEL:
                learner.cancel(camera)
            case TeachAction.COMMIT:
                learner.commit(camera, request.offer)
            case TeachAction.ROLL_BACK:
                learner.roll_back(camera, product)
            case TeachAction.GOOD | TeachAction.BAD:
                learner.mark(camera, str(request.id), good=request.action is TeachAction.GOOD)

    def switch_bundle(self, path: Path | None) -> None:
        """Returns when the bundle inspects on probation. Waits for the disk and the compiler.

        Raises:
            ZsadError: the bundle is refused.
        """
        if path is None:
            self._restart.ask()  # before the store changes: a config that is now wrong changes nothing
            self._store.forget()
        else:
            self._updater.update(path)

    def settle_bundle(self) -> Outcome | None:
        """The outcome of a new bundle's probation, once. Call it regularly, in the thread of `switch_bundle`."""
        outcome = self._updater.settle()
        if outcome is not None and self._updates is not None:
            self._updates.settled(outcome)
        return outcome

    @property
    def on_probation(self) -> bool:
        """Whether a new bundle is on probation."""
        return self._updater.on_probation

    def in_use(self, kind: str, product: str | None) -> str | None:
        """As of `zsad_agent.updating.Installer`, like the next two."""
        if kind == "bundle":
            return self._models.current.bundle.sha256
        return None if product is None or self._profiles is None else self._profiles.in_use(product)

    def install(self, kind: str, path: Path) -> None:
        if kind == "bundle":
            self.switch_bundle(path)
        elif self._profiles is None:
            raise ProfileError("profiles is off in the config, so nothing taught is used")
        else:
            self._profiles.use(path)

    def leave(self, kind: str, product: str | None) -> None:
        if kind == "profile" and product is not None and self._profiles is not None:
            self._profiles.leave(product)
        elif self._updater.on_probation:
            self._updater.revert()
        else:
            self.switch_bundle(self._store.previous)

    def update(self, request: "UpdateRequest", command_id: str) -> None:
        """Begins an update.

        Raises:
            ZsadError: it is refused.
        """
        if self._updates is None:
            raise CommandError("updates are off: set update.enabled")
        self._updates.begin(request, command_id, self)

    def updating(self) -> dict[str, Any]:
        """How far the last update is: `zsad.update/1`."""
        bundle = self._models.current.bundle.sha256
        state = UpdateState(phase="off", bundle=bundle) if self._updates is None else self._updates.state(bundle)
        return state.model_dump(by_alias=True, mode="json")

    def knows_update(self, command_id: str) -> bool:
        """Whether a command with this id began an update."""
        return self._updates is not None and self._updates.knows(command_id)

    def tend_update(self) -> bool:
        """Goes on with an update. Call it regularly. Returns whether the bundle in use was replaced."""
        return self._updates is not None and self._updates.tend(self)

    def stored_bundle_fault(self) -> str | None:
        """Why the next start cannot run the current bundle, if a command chose it."""
        return self._store.check(self._models.current.bundle)

    def reload(self) -> None:
        """Reads the config file again and requests a restart with it. Returns before the restart.

        Raises:
            ConfigError: the file is wrong.
            BundleError: a new bundle is on probation.
        """
        if self._updater.on_probation:  # a restart would silently run the earlier bundle
            raise BundleError(
                f"the new bundle {self.bundle} is still on probation. Wait until its probation ends, or switch to "
                "the earlier bundle first (bundle/set)"
            )
        self._restart.ask()


class ReloadRequest:
    """A restart of the agent with the current config file."""

    def __init__(
        self, reread: Callable[[], AgentConfig] | None, *, again: bool, fault: str | None, late: bool = False
    ) -> None:
        """Requests nothing yet. `reread` reads and checks the file; None: there is none.

        `late`: the run before was told that the file has changed, and ended before it read the file again.
        """
        self._reread = reread
        self._late = late
        self._told = self._read = 0  # how often it was told that the file has changed; of these, known to the last read
        self.again = again  # this start follows a reload
        self.fault = fault  # why the config of the last reload is not used; None: it is used
        self.begun = False  # the cameras of this run are being read
        self.event = threading.Event()
        self.config: AgentConfig | None = None  # the config of the restart, once it was requested

    def ask(self) -> None:
        """Requests the restart.

        Raises:
            ConfigError: the file is wrong, with every fault. No restart is requested.
        """
        if self._reread is None:
            raise ConfigError("the agent was started without a config file, so there is no file to read again")
        told = self._told
        try:
            self.config = self._reread()
        finally:
            self._read = max(self._read, told)
        self.event.set()

    @property
    def unread(self) -> bool:
        """Whether the file has not been read since it was told that the file has changed."""
        return self._told > self._read

    def tell(self, reload: Callable[[], None]) -> None:
        """The file has changed: calls `reload`, which leads to `ask` unless the run ends before."""
        self._told += 1
        reload()

    def on_hangup(self, hangup: bool, reload: Callable[[], None]) -> None:
        """Calls `reload` if a SIGHUP came since the last call (`hangup`), and once if the run before was late."""
        if hangup or self._late:
            logger.info("%s: the config file is read again", "SIGHUP" if hangup else "a reload came during the restart")
            self._late = False
            reload()

    def ask_in_background(self) -> None:
        """As `ask`, in a thread, because a disk may hang. A fault is logged, and the agent continues."""

        def ask() -> None:
            try:
                self.ask()
            except Exception as error:
                logger.error("the config is not reloaded: %s", one_line(str(error), MAX_ERROR_CHARACTERS))

        in_thread("zsad-reload", ask)
