"""The model that all cameras share, and its replacement between two pictures."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zsad_core.bundle import Bundle
from zsad_core.facts import ScoreRule
from zsad_core.types import Prediction


class Predictor(Protocol):
    """A compiled model; `zsad_agent.model.Detector` is one."""

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        """The answer to a uint8 [H, W, 3] picture. A `product` of None is the one that it was made for.

        Raises:
            ImageError: the picture cannot be scored.
            DeviceError: the device or model gives no valid answer.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A compiled model, and the values of its bundle."""

    predictor: Predictor
    name: str
    version: str
    sha256: str
    threshold: float  # a part with at least this score is anomalous, unless the camera's settings differ
    region_level: float  # a pixel with at least this map value is in a region, unless the camera's settings differ
    score_rule: ScoreRule | None  # None: the score cannot be computed again from a part of the map

    @classmethod
    def of(cls, bundle: Bundle, predictor: Predictor) -> "Model":
        manifest = bundle.manifest
        return cls(
            predictor=predictor,
            name=manifest.name,
            version=manifest.version,
            sha256=bundle.sha256,
            threshold=manifest.threshold.value,
            region_level=manifest.region_level,
            score_rule=manifest.model.score,
        )


class ModelInUse:
    """The inference thread reads it once per picture, so one model scores and describes a picture."""

    def __init__(self, model: Model) -> None:
        self.current = model
        self.model_lock = threading.Lock()  # held while a model runs, so that a trial times each model alone
        self._watcher: Callable[[str, bool, str | None], None] = lambda sha256, answered, reason: None

    def replace(self, model: Model) -> None:
        """Takes effect at the next picture. Any thread may call it."""
        self.current = model

    def watch(self, watcher: Callable[[str, bool, str | None], None]) -> None:
        """Calls `watcher` for every picture from now on: the bundle's sha256, whether it answered, and if not, why."""
        self._watcher = watcher

    def note(self, model: Model, answered: bool, reason: str | None = None) -> None:
        self._watcher(model.sha256, answered, reason)
