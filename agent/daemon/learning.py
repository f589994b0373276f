"""Joins learning to the model in use and to the cameras."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from zsad_agent.capture import DRIFT
from zsad_agent.config import AgentConfig
from zsad_agent.inspection import Station, View
from zsad_agent.learning import Feedback, Follower, LineLearner, Networks, learn_from_stream, learn_kept
from zsad_agent.model import ModelInUse
from zsad_agent.sources import Source
from zsad_agent.teaching import Followed, Picture, ProductPredictor, ProfileStore, Taught, teach
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
    bundle = models.current.bundle
    if store is None or bundle.manifest.features is None:
        return None
    cameras = {station.name: (station, view) for station, view in zip(stations, views, strict=True)}

    def predictor() -> ProductPredictor:
        found = models.current.predictor
        assert isinstance(found, ProductPredictor)
        return found

    def prepare(product: str) -> None:
        predictor().prepare(product)

    made: list[tuple[ProductPredictor, Networks]] = []  # the last one: its compiled searches are used again

    def networks_in_use() -> Networks:
        current = predictor()
        if not made or made[0][0] is not current:
            detector, features = current.for_learning()
            made[:] = [(current, Networks(detector=detector, features=features, config=config.inference))]
        return made[0][1]

    def use_followed(sha256: str, followed: Followed) -> None:
        predictor().follow(sha256, followed)

    def note_drift(camera: str, fault: str | None) -> None:
        status = cameras[camera][0].status
        if fault is None:
            status.clear(DRIFT)
        else:
            status.fault(DRIFT, fault)

    def teach_one(
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
        if camera not in cameras:
            raise ZsadError(f"there is no camera {camera} any more")
        detector, networks = predictor().for_learning()
        make = teach if trusted else learn_from_stream
        taught = make(
            pictures,
            product=product,
            networks=networks,
            detector=detector,
            bad=bad,
            rate=rate,
            ignored=_ignored(*cameras[camera], networks.bundle.manifest.model.map_hw),
            progress=progress,
        )
        if not kept:
            return taught
        fresh = Networks(detector=detector, features=networks, config=config.inference)
        return learn_kept(taught, kept, bad, fresh, progress)

    return LineLearner(
        config.learning,
        state_dir / "learning",
        store,
        teach_one,
        prepare=prepare,
        feedback=Feedback(store, networks_in_use, prepare),
        follower=Follower(networks_in_use, use_followed) if config.learning.follow else None,
        on_drift=note_drift,
        cut=lambda camera, frame_bgr: cameras[camera][1].cut(frame_bgr),
        free_running=[
            camera.name
            for camera, source in zip(config.every_camera, sources, strict=True)
            if camera.trigger == "free" and not source.lossless
        ],
    )


def _ignored(station: Station, view: View, map_hw: tuple[int, int]) -> np.ndarray | None:
    """bool [map_hw]: what the mask ignores in frames of the size that the camera has now."""
    newest = station.capture.newest_images(1)
    return view.ignored(newest[-1].shape[1::-1], map_hw) if newest else None
