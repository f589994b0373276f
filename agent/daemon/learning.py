"""Joins learning to the model in use and to the cameras."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from zsad_agent.capture import DRIFT
from zsad_agent.config import AgentConfig
from zsad_agent.inspection import Station, View
from zsad_agent.learning import Feedback, Follower, LineLearner, learn_from_stream
from zsad_agent.model import ModelInUse
from zsad_agent.sources import Source
from zsad_agent.teaching import (
    Followed,
    Networks,
    Picture,
    ProductPredictor,
    ProfileStore,
    Taught,
    learn_kept,
    teach,
)
from zsad_core.errors import ZsadError


def make_learner(
    config: AgentConfig,
    state_dir: Path,
    stations: Sequence[Station],
    sources: Sequence[Source],
    views: Sequence[View],
    models: ModelInUse,
    store: ProfileStore | None,
) -> LineLearner | None:
    """Learns at every camera. None if nothing taught is used, or if the bundle has no feature networks."""
    if store is None or models.current.bundle.manifest.features is None:
        return None
    line = _Line(config, stations, views, models)
    learner = LineLearner(
        config.learning,
        state_dir / "learning",
        store,
        line.teach,
        prepare=line.prepare,
        feedback=Feedback(store, line.networks, line.prepare),
        follower=Follower(store, line.networks, line.follow) if config.learning.follow else None,
        on_drift=line.note_drift,
        cut=line.cut,
        product_of=line.product_of,
        free_running=[
            camera.name
            for camera, source in zip(config.every_camera, sources, strict=True)
            if not camera.each_picture_is_a_part and not source.lossless
        ],
    )
    for station in stations:
        station.inspector.provisional = partial(learner.provisional, station.name)
    return learner


class _Line:
    """What learning needs of the cameras and of the model in use, which may change at any time."""

    def __init__(
        self, config: AgentConfig, stations: Sequence[Station], views: Sequence[View], models: ModelInUse
    ) -> None:
        self._inference = config.inference
        self._cameras = {station.name: (station, view) for station, view in zip(stations, views, strict=True)}
        self._models = models
        self._made: tuple[ProductPredictor, Networks] | None = None  # the last networks: their searches are compiled

    def prepare(self, product: str) -> None:
        self._predictor().prepare(product)

    def follow(self, sha256: str, followed: Followed) -> None:
        self._predictor().follow(sha256, followed)

    def networks(self) -> Networks:
        """Those of the model in use."""
        predictor = self._predictor()
        if self._made is None or self._made[0] is not predictor:
            self._made = predictor, self._networks_of(predictor)
        return self._made[1]

    def note_drift(self, camera: str, fault: str | None) -> None:
        status = self._cameras[camera][0].status
        if fault is None:
            status.clear(DRIFT)
        else:
            status.fault(DRIFT, fault)

    def product_of(self, camera: str) -> str:
        return self._cameras[camera][0].inspector.product

    def cut(self, camera: str, frame_bgr: np.ndarray) -> np.ndarray:
        return self._cameras[camera][1].cut(frame_bgr)

    def teach(
        self,
        camera: str,
        pictures: Sequence[tuple[str, Picture]],
        *,
        product: str,
        rate: float,
        trusted: bool,
        kept: Sequence[tuple[str, Picture]],
        bad: Sequence[tuple[str, Picture]],
        progress: Callable[[str, int, int], None],
    ) -> Taught:
        """As `zsad_agent.learning.Teach`."""
        if camera not in self._cameras:
            raise ZsadError(f"there is no camera {camera} any more")
        networks = self._networks_of(self._predictor())
        make = teach if trusted else learn_from_stream
        taught = make(
            pictures,
            product=product,
            networks=networks.features,
            detector=networks.detector,
            bad=bad,
            rate=rate,
            ignored=self._ignored(camera, networks.features.bundle.manifest.model.map_hw),
            progress=progress,
        )
        return learn_kept(taught, kept, bad, networks, progress) if kept else taught

    def _predictor(self) -> ProductPredictor:
        found = self._models.current.predictor
        assert isinstance(found, ProductPredictor)
        return found

    def _networks_of(self, predictor: ProductPredictor) -> Networks:
        detector, features = predictor.for_learning()
        return Networks(detector=detector, features=features, config=self._inference)

    def _ignored(self, camera: str, map_hw: tuple[int, int]) -> np.ndarray | None:
        """bool [map_hw]: what the mask ignores in frames of the size that the camera has now."""
        station, view = self._cameras[camera]
        newest = station.capture.newest_images(1)
        return view.ignored(newest[-1].shape[1::-1], map_hw) if newest else None
