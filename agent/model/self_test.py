"""Tests the model in use with a drawn picture whose answer is known, and loads it again when its answer is wrong.

The known answer is that of the first compilation of the verified bundle. It is stored beside the compiled model.
"""

import functools
import logging
import random
import time
from collections.abc import Callable

import cv2
import numpy as np

from zsad_agent.model.current_model import Model, ModelInUse, Predictor
from zsad_agent.system import Backoff, ThreadService, give_back_memory
from zsad_core.bundle import Bundle
from zsad_core.errors import DeviceError

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of the score and of each map value. On a CPU the same model gives the same bits
DEVICE_TOLERANCE = 1e-3  # of other devices
# If the answers may come from different devices that compute in half precision: bf16 changes values of the shipped
# models by up to 0.046, and a false alarm stops the line.
MIXED_TOLERANCE = 0.2
BLOB_SIDES = (4, 12, 36, 108)  # number of blobs along a side; the last ones have the size of small defects
TEST_EVERY_S = 60.0
MOST_SHARE = 0.005  # of the time, for tests
LOOK_EVERY_S = 0.5  # interval of checks for another model
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0  # between two attempts to load the model


@functools.lru_cache(maxsize=2)
def drawn_picture(input_hw: tuple[int, int]) -> np.ndarray:
    """uint8 BGR [h, w, 3]: coloured blobs of several sizes. Its anomaly map has low and high values."""
    generator = random.Random(0)  # importing NumPy's would take 7 MB
    picture = np.full((*input_hw, 3), 128, np.float32)
    for side in BLOB_SIDES:
        drawn = np.frombuffer(generator.randbytes(side * side * 3), np.uint8).reshape(side, side, 3)
        blobs = 0.5 * (drawn.astype(np.float32) - 128)
        picture += cv2.resize(blobs, input_hw[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def answer_fault(found: np.ndarray, known: np.ndarray, tolerance: float) -> str | None:
    """Why `found` is not the known answer, float32 [map values, score]; None if it is."""
    if found.shape == known.shape and (difference := float(np.abs(found - known).max())) <= tolerance:
        return None
    differs = f"differs by {difference:.2g}" if found.shape == known.shape else "has another size"
    return f"the model's answer to the test picture {differs} (allowed {tolerance:g})"


class ModelGuard(ThreadService):
    """Tests the model every `TEST_EVERY_S` and after each change. Owns a thread.

    A model with a wrong answer gives no more predictions. The guard says so and loads it again, until that succeeds.
    """

    name = "model self-test"
    stop_s = 0.3

    def __init__(
        self,
        models: ModelInUse,
        *,
        load_again: Callable[[Bundle], Predictor],
        on_fault: Callable[[str | None], None],
        every_s: float = TEST_EVERY_S,
        first_pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """Starts nothing.

        Args:
            models: its present model was tested when it was loaded.
            load_again: compiles and tests the bundle anew. Raises a ZsadError if that fails.
            on_fault: called with the fault when it begins or changes, and with None when it has ended.
            every_s: between two tests.
            first_pause_s: between the first two attempts to load a model; then doubled up to `LONGEST_PAUSE_S`.
        """
        super().__init__("zsad-self-test")
        self._models = models
        self._load_again = load_again
        self._on_fault = on_fault
        self._every_s = every_s
        self._first_pause_s = first_pause_s

    def _run(self) -> None:
        tested, passed_s = self._models.current, time.monotonic()
        pause_s = self._every_s
        while not self._stop.wait(min(LOOK_EVERY_S, pause_s)):
            model, now_s = self._models.current, time.monotonic()
            if model is tested and now_s < passed_s + pause_s:
                continue
            fault = None
            with self._models.model_lock:
                started_s = time.monotonic()
                try:
                    model.predictor.self_test()
                except DeviceError as error:
                    fault = f"{error}; the last test passed {now_s - passed_s:.0f} s ago"
                pause_s = max(self._every_s, (time.monotonic() - started_s) / MOST_SHARE)
            if fault is not None:
                self._replace(model, fault)
            tested, passed_s = model, time.monotonic()

    def _replace(self, model: Model, fault: str) -> None:
        """Loads the model again. Ends when it is replaced, also by another bundle, or at the stop."""
        logger.error("%s: every verdict is unknown until the model is loaded again", fault)
        self._on_fault(fault)
        backoff = Backoff(self._first_pause_s, LONGEST_PAUSE_S)
        while self._models.current is model and not self._stop.is_set():
            try:
                predictor = self._load_again(model.bundle)
            except Exception as error:  # a model, device or disk can fail in any way; the thread must live
                reason = str(error) or type(error).__name__
                self._on_fault(f"{fault}; loading it again failed: {reason}")
                logger.warning("the model cannot be loaded again: %s", reason)
                self._stop.wait(backoff.next_s())
            else:
                self._models.replace(Model(bundle=model.bundle, predictor=predictor), instead_of=model)
        if not self._stop.is_set():
            self._on_fault(None)
            logger.warning("back: the model was loaded again and has passed its test")
            give_back_memory()
