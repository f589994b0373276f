"""Makes profiles that were taught with another bundle again, while other products are inspected."""

from zsad_agent.model import ModelInUse
from zsad_agent.system import ThreadService, lower_priority
from zsad_agent.teaching import ProductPredictor

LOOK_EVERY_S = 0.5  # for another model


class ProfileMaker(ThreadService):
    """Owns a thread."""

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
