"""Joins learning to the model in use and to the cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zsad_agent import learning, teaching
from zsad_agent.capture import DRIFT
from zsad_agent.config import AgentConfig, InferenceConfig
from zsad_agent.inspection import Station, View
from zsad_agent.model import ModelInUse
from zsad_agent.sources import Source
from zsad_agent.teaching import ProductPredictor, ProfileStore

if TYPE_CHECKING:  # these are imported after the first verdict
    from zsad_agent.learning import LineLearner, Networks, TeachIn
    from zsad_agent.teaching import Followed, Taught


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
    cameras = {station.name: (station, view) for station, view in zip(stations, views, strict=True)}
    line = _Line(config=config.inference, models=models, cameras=cameras)
    return learning.LineLearner(
        config.learning,
        state_dir / "learning",
        store,
        line.teach,
        prepare=line.prepare,
        feedback=lambda: learning.Feedback(store, line.networks, line.prepare),
        follower=learning.Follower(line.networks, line.use_followed) if config.learning.follow else None,
        on_drift=line.note_drift,
        free_running=[
            camera.name
            for camera, source in zip(config.every_camera, sources, strict=True)
            if camera.trigger == "free" and not source.lossless
        ],
    )


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What the learner uses of the model in use and of the cameras."""

    config: InferenceConfig
    models: ModelInUse
    cameras: dict[str, tuple[Station, View]]
    _made: list[tuple[ProductPredictor, Networks]] = field(default_factory=list)  # the last one

    def prepare(self, product: str) -> None:
        self._predictor.prepare(product)

    def networks(self) -> Networks:
        """Those in use. Their compiled searches are used again until there are others."""
        current = self._predictor
        if not self._made or self._made[0][0] is not current:
            detector, features = current.for_learning()
            networks = learning.Networks(detector=detector, features=features, config=self.config)
            self._made[:] = [(current, networks)]
        return self._made[0][1]

    def use_followed(self, sha256: str, followed: Followed) -> None:
        self._predictor.follow(sha256, followed)

    def note_drift(self, camera: str, fault: str | None) -> None:
        status = self.cameras[camera][0].status
        if fault is None:
            status.clear(DRIFT)
        else:
            status.fault(DRIFT, fault)

    def teach(self, asked: TeachIn) -> Taught:
        """As `zsad_agent.learning.Teach`."""
        detector, networks = self._predictor.for_learning()
        make = teaching.teach if asked.trusted else learning.learn_from_stream
        return make(
            asked.pictures,
            product=asked.product,
            networks=networks,
            detector=detector,
            rate=asked.rate,
            ignored=_ignored(*self.cameras[asked.camera], networks.bundle.manifest.model.map_hw),
            progress=asked.progress,
        )

    @property
    def _predictor(self) -> ProductPredictor:
        found = self.models.current.predictor
        assert isinstance(found, ProductPredictor)
        return found


def _ignored(station: Station, view: View, map_hw: tuple[int, int]) -> np.ndarray | None:
    """bool [map_hw]: what the mask ignores in frames of the size that the camera has now."""
    newest = station.capture.newest_images(1)
    return view.ignored(newest[-1].shape[1::-1], map_hw) if newest else None
