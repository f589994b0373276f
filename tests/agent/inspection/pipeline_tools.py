"""A pipeline on fakes, for several test files."""

import dataclasses
import itertools
import json
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from plain_pictures import UNCHECKED

from zsad_agent.capture import CameraStatus, Capture, Captured
from zsad_agent.config import CameraConfig, HeatmapConfig, SourceConfig
from zsad_agent.inspection import Identity, Inspector, Pipeline, Sink, Station, View
from zsad_agent.messages import Result, schema_text
from zsad_agent.model import Model, ModelInUse
from zsad_agent.sources import Picture
from zsad_agent.system import BoundedQueue, FrameQueue, LatestQueue
from zsad_core.errors import DeviceError
from zsad_core.facts import ScoreRule
from zsad_core.types import Prediction

DARK, BRIGHT = np.zeros((40, 60, 3), np.uint8), np.full((40, 60, 3), 255, np.uint8)
GREY = np.full((40, 60, 3), 200, np.uint8)
RESULT_SCHEMA = json.loads(schema_text(Result))


class FakeSource:
    """A source of pictures, errors that it raises, and functions that give a picture."""

    description = "fake"

    def __init__(self, *steps: Any, lossless: bool = True) -> None:
        self.lossless, self.endless = lossless, not lossless
        self._steps = list(steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self) -> Picture | None:
        step = self._steps.pop(0) if self._steps else None
        if isinstance(step, BaseException):
            raise step
        image = step() if callable(step) else step
        return Picture(image=image) if image is not None else None


class FakePredictor:
    """The score is the darkness of the whole picture; `before` is called first."""

    def __init__(self, before: Callable[[np.ndarray], None] = lambda image: None) -> None:
        self._before = before

    def is_taught(self, product: str) -> bool:
        return False

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        self._before(image_bgr)
        darkness = 1.0 - float(image_bgr.mean()) / 255
        return Prediction(anomaly_map=np.full((8, 8), darkness, np.float32), anomaly_score=darkness)


class ListSink:
    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.results: list[dict[str, Any]] = []
        self.heatmaps: list[bytes | None] = []
        self._before = before

    def accept(self, result: Result, heatmap: bytes | None) -> None:
        self._before()
        self.results.append(json.loads(result.encode()))
        self.heatmaps.append(heatmap)


def make_model(predictor: FakePredictor, name: str = "darkness", threshold: float = 0.5) -> Model:
    manifest = SimpleNamespace(
        name=name,
        version="1",
        threshold=SimpleNamespace(value=threshold),
        region_level=0.5,
        model=SimpleNamespace(score=ScoreRule(top_fraction=0.0, pool=1)),
    )
    return Model(predictor=predictor, bundle=SimpleNamespace(manifest=manifest, sha256="0" * 64))  # type: ignore[arg-type]


def make_inspector(
    predictor: FakePredictor,
    status: CameraStatus | None = None,
    *,
    camera: CameraConfig = CameraConfig(product="object"),  # noqa: B008 - frozen
    lossless: bool = True,
) -> Inspector:
    return Inspector(
        camera,
        Identity(device_id="line3", boot="b007"),
        ModelInUse(make_model(predictor)),
        status or CameraStatus("cam0", lambda camera, state: None),
        View(),
        heatmap=HeatmapConfig(),
        lossless=lossless,
    )


class FakeLine:
    """A whole pipeline on fakes, with a camera for each of `sources`."""

    def __init__(
        self,
        *sources: FakeSource,
        predictor: FakePredictor | None = None,
        sink: Sink | None = None,
        max_frames: int | None = None,
    ) -> None:
        self.states: list[dict[str, Any]] = []
        self.sink = sink or ListSink()
        self.stop = threading.Event()
        slots_changed = threading.Condition()
        seq = itertools.count(1)
        self.lines = []
        for number, source in enumerate(sources):
            slot: FrameQueue[Captured] = (
                BoundedQueue(condition=slots_changed) if source.lossless else LatestQueue(slots_changed)
            )
            config = SourceConfig(reopen_max_s=0.01, name=f"cam{number}", health=UNCHECKED)
            status = CameraStatus(config.name, lambda camera, state: self.states.append(state))
            capture = Capture(source=source, config=config, slot=slot, status=status, stop=self.stop, seq=seq)
            inspector = make_inspector(predictor or FakePredictor(), status)
            self.lines.append(Station(capture=capture, slot=slot, inspector=inspector, status=status))
        self.slot = self.lines[0].slot
        self.slots_changed = slots_changed
        self.max_frames = max_frames
        self.pipeline = self.make_pipeline()

    def make_pipeline(self, inspector: Inspector | None = None) -> Pipeline:
        """Makes the pipeline; `inspector` replaces that of the first camera."""
        if inspector is not None:
            self.lines[0] = dataclasses.replace(self.lines[0], inspector=inspector)
        stores = hasattr(self.sink, "accept_all")
        return Pipeline(
            stations=self.lines,
            slots_changed=self.slots_changed,
            store=self.sink if stores else None,
            sinks=[] if stores else [self.sink],
            stop=self.stop,
            max_frames=self.max_frames,
        )

    def run(self) -> list[dict[str, Any]]:
        self.pipeline.start()
        assert self.pipeline.wait(60)
        assert isinstance(self.sink, ListSink)
        return self.sink.results


class SlowDisk(ListSink):
    """A sink that waits in its first call until `five_wait` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.five_wait = threading.Event()

    def accept_all(self, results: list[tuple[Result, bytes | None]], on_durable: object) -> None:
        assert self.five_wait.wait(60)
        self.batches.append(len(results))
        for result, heatmap in results:
            self.accept(result, heatmap)


def fail_on_dark(image: np.ndarray) -> None:
    if not image.any():
        raise DeviceError("no answer")
