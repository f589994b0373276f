"""From the config to the lines of a pipeline: one for each camera."""

import itertools
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

from zsad_agent.capture import CameraStatus, Capture, Captured, UnknownPace
from zsad_agent.config import AgentConfig, CameraConfig, DecisionConfig, HeatmapConfig
from zsad_agent.inspection.inspector import Identity, Inspector
from zsad_agent.inspection.pipeline import Station
from zsad_agent.inspection.view import View
from zsad_agent.model import ModelInUse
from zsad_agent.sources import Source
from zsad_agent.system import BoundedQueue, FrameQueue, LatestQueue
from zsad_core.bundle import GENERIC_PRODUCT, Bundle
from zsad_core.errors import ConfigError
from zsad_core.judging import Decider


def make_view(camera: CameraConfig) -> View:
    """What of the camera's frames is inspected.

    Raises:
        ConfigError: the mask cannot be read.
    """
    return View(camera.region_xywh, camera.ignore_mask)


def check_products(config: AgentConfig, bundle: Bundle) -> None:
    """Nothing, if the bundle can serve every camera.

    Raises:
        ProductError: it has no such product.
        ConfigError: a camera's mask needs a score that can be computed anew, and the bundle's cannot.
    """
    for camera in config.every_camera:
        bundle.prompt(product_of(camera))
        check_mask(camera, bundle)


def check_mask(camera: CameraConfig, bundle: Bundle) -> None:
    """Nothing, if the bundle's score can do without what the camera's mask ignores.

    Raises:
        ConfigError: it cannot.
    """
    if camera.ignore_mask is not None and bundle.manifest.model.score is None:
        raise ConfigError(
            f"ignore_mask of {camera.name}: the score of {bundle.path} ({bundle.manifest.model.method}) is not "
            "computed from its map, so no part can be ignored. Use region_xywh, or another bundle."
        )


def product_of(camera: CameraConfig) -> str:
    """The product of a camera that `AgentConfig.every_camera` has filled in."""
    return camera.product or GENERIC_PRODUCT


def make_stations(
    config: AgentConfig,
    sources: Sequence[Source],
    views: Sequence[View],
    *,
    models: ModelInUse,
    publish_status: Callable[[str, dict[str, Any]], None],
    slots_changed: threading.Condition,
    stop: threading.Event,
) -> list[Station]:
    """One station for each of `config.every_camera`, with its source and view. Starts nothing."""
    seq = itertools.count(1)  # one for all cameras: a result's id is the device, this start of the process, and seq
    identity = Identity(device_id=config.device_id, boot=secrets.token_hex(4))
    stations = []
    for camera, source, view in zip(config.every_camera, sources, views, strict=True):
        status = CameraStatus(camera.name, publish_status)
        slot: FrameQueue[Captured] = (
            BoundedQueue(condition=slots_changed) if source.lossless else LatestQueue(slots_changed)
        )
        inspector = make_inspector(camera, identity, models, config.heatmap, status, view, lossless=source.lossless)
        capture = Capture(source=source, config=camera, slot=slot, status=status, stop=stop, seq=seq)
        stations.append(Station(capture=capture, slot=slot, inspector=inspector, status=status))
    return stations


def make_inspector(
    camera: CameraConfig,
    identity: Identity,
    models: ModelInUse,
    heatmap: HeatmapConfig,
    status: CameraStatus,
    view: View,
    *,
    lossless: bool,
) -> Inspector:
    """The inspector of one camera; thresholds that the config leaves out are the bundle's.

    `lossless` is the source's: every picture of files and of a watched folder is a result, whatever comes of it.
    """
    decision = camera.decision or DecisionConfig()
    return Inspector(
        models=models,
        identity=identity,
        product=product_of(camera),
        decider=Decider(k=decision.debounce_k, n=decision.debounce_n, hold_s=decision.hold_s),
        heatmap=heatmap,
        status=status,
        view=view,
        threshold=decision.threshold,
        region_level=decision.region_level,
        unknown_pace=UnknownPace() if camera.trigger == "free" and not lossless else None,
    )
