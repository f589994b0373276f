"""The running agent as commands change it: implements `zsad_agent.control.actions.Controls`."""

import threading
from collections.abc import Callable, Mapping

import numpy as np

from zsad_agent.config import AgentConfig
from zsad_agent.inspection import Station
from zsad_agent.model import BundleStore, BundleUpdater, ModelInUse, Outcome, UpdateState
from zsad_core.errors import BundleError, ConfigError


class RunningAgent:
    """Access to the stations, the model and the config file for commands. For one thread at a time."""

    def __init__(
        self,
        stations: Mapping[str, Station],
        models: ModelInUse,
        updater: BundleUpdater,
        store: BundleStore,
        restart: "ReloadRequest",
    ) -> None:
        """Takes what it commands; `stations` by the camera's name."""
        self._stations = stations
        self._configured = {
            name: (station.inspector.threshold, station.inspector.product) for name, station in stations.items()
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
        model = self._models.current
        return f"{model.name} {model.version} ({model.sha256[:12]})"

    @property
    def bundle_commanded(self) -> bool:
        return self._store.holds(self._updater.running.bundle)

    def threshold(self, camera: str) -> float:
        threshold = self._stations[camera].inspector.threshold
        return self._models.current.threshold if threshold is None else threshold

    def product(self, camera: str) -> str:
        return self._stations[camera].inspector.product

    def paused(self, camera: str) -> bool:
        return self._stations[camera].capture.paused

    def set_threshold(self, camera: str, value: float | None) -> float:
        self._stations[camera].inspector.threshold = self._configured[camera][0] if value is None else value
        return self.threshold(camera)

    def set_product(self, camera: str, name: str | None) -> str:
        product = self._configured[camera][1] if name is None else name
        self._updater.running.bundle.prompt(product)  # ProductError if there is none
        self._stations[camera].inspector.product = product
        return product

    def set_paused(self, camera: str, paused: bool) -> bool:
        capture = self._stations[camera].capture
        capture.pause(paused)
        return capture.paused

    def snapshot(self, camera: str) -> np.ndarray | None:
        newest = self._stations[camera].capture.newest_images(1)
        return newest[-1] if newest else None

    def switch_bundle(self, name: str | None) -> str:
        if name is None:
            self._restart.ask()  # before the store changes: a config that is now wrong changes nothing
            self._store.forget()
            return self.bundle
        outcome = self._updater.update(name)
        if outcome.state is UpdateState.REFUSED:
            raise BundleError(outcome.text)
        return self.bundle

    def settle_bundle(self) -> Outcome | None:
        return self._updater.settle()

    def reload(self) -> None:
        if self._updater.on_probation:  # a restart would silently run the earlier bundle
            raise BundleError(
                f"{self.bundle} is still on its probation: wait until it has passed, or switch back first (bundle/set)"
            )
        self._restart.ask()


class ReloadRequest:
    """A restart of the agent with the current config file."""

    def __init__(self, reread: Callable[[], AgentConfig] | None, *, again: bool, fault: str | None) -> None:
        """Requests nothing yet.

        Args:
            reread: reads and checks the file; None: there is none.
            again: this start follows a reload.
            fault: why the config of the last reload is not the one that runs; None: it is.
        """
        self._reread = reread
        self.again = again
        self.fault = fault
        self.begun = False  # the cameras of this run are being read
        self.event = threading.Event()
        self.config: AgentConfig | None = None  # the config of the restart, once it was requested

    def ask(self) -> None:
        """Returns before it.

        Raises:
            ConfigError: the file is wrong, with every fault; nothing happens.
        """
        if self._reread is None:
            raise ConfigError("the agent was started without a config file, so that there is none to read again")
        self.config = self._reread()
        self.event.set()
