"""Makes profiles that were taught with another bundle again, while other products are inspected."""

import threading

from zsad_agent.model import ModelInUse
from zsad_agent.system import Service, lower_priority
from zsad_agent.teaching import ProductPredictor

LOOK_EVERY_S = 0.5  # for another model
NICE = 10


class ProfileMaker(Service):
    """Owns a thread."""

    name = "profiles made again"
    stop_s = 0.3

    def __init__(self, models: ModelInUse) -> None:
        """Starts nothing."""
        self._models = models
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="zsad-profiles", daemon=True)

    def stop(self, deadline_s: float) -> None:
        self._stop.set()
        self._wait(deadline_s)

    @property
    def busy(self) -> bool:
        """Whether it still ran after the stop: a step of a teach-in cannot be interrupted."""
        return self._stop.is_set() and self.alive

    def _run(self) -> None:
        lower_priority(NICE)
        while not self._stop.wait(LOOK_EVERY_S):
            predictor = self._models.current.predictor
            if isinstance(predictor, ProductPredictor):
                predictor.make_waiting(self._stop.is_set)
