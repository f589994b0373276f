"""The model that all cameras share, and its replacement between two pictures."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zsad_core.bundle import Bundle
from zsad_core.types import Prediction


class Predictor(Protocol):
    """A compiled model, for example `zsad_agent.model.Detector`."""

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        """Map and score of a uint8 [H, W, 3] picture, all in [0, 1]. A `product` of None is the config's.

        Raises:
            ImageError: the picture cannot be scored.
            DeviceError: the device or model gives no valid answer, or has failed a self-test.
        """

    def prepare(self, product: str) -> None:
        """Makes sure that pictures of the product can be predicted, which may take as long as teach-in.

        Raises:
            ProductError: neither the bundle nor what was taught has this product.
            ProfileError: what was taught about it cannot be used; `predict` fails with the same reason.
        """

    def is_taught(self, product: str) -> bool:
        """Whether `predict` uses what was taught about the product."""

    def self_test(self) -> None:
        """Compares the answer to a test picture with the known one. After a failure `predict` fails too.

        Raises:
            DeviceError: the answer is wrong, or there is none.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A bundle and its compiled model."""

    bundle: Bundle
    predictor: Predictor

    @property
    def name(self) -> str:
        return full_name(self.bundle)


class ModelInUse:
    """The inference thread reads it once per picture, so one model scores and describes a picture."""

    def __init__(self, model: Model) -> None:
        self.current = model  # a change takes effect at the next picture
        self._replacing = threading.Lock()
        self.model_lock = threading.Lock()  # held while a model runs, so that a trial times each model alone
        # called for every picture: the bundle's sha256, whether it answered, and if not, why
        self.on_answer: Callable[[str, bool, str | None], None] = lambda sha256, answered, reason: None

    def replace(self, new: Model, *, instead_of: Model | None = None) -> None:
        """Sets the current model. Does nothing if `instead_of` is given and is no longer the current one."""
        with self._replacing:
            if instead_of is None or self.current is instead_of:
                self.current = new


def full_name(bundle: Bundle) -> str:
    """Name, version and hash, for people."""
    return f"{bundle.manifest.name} {bundle.manifest.version} ({bundle.sha256[:12]})"
