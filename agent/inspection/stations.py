"""From the config to the stations of a pipeline: one for each camera."""

import itertools
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

from zsad_agent.capture import CameraStatus, Capture, Captured
from zsad_agent.config import AgentConfig, CameraConfig
from zsad_agent.inspection.inspector import Identity, Inspector, product_of
from zsad_agent.inspection.pipeline import Station
from zsad_agent.inspection.view import View
from zsad_agent.model import ModelInUse, Predictor
from zsad_agent.sources import Source
from zsad_agent.system import BoundedQueue, FrameQueue, LatestQueue
from zsad_core.bundle import Bundle
from zsad_core.errors import ConfigError, ProfileError
from zsad_core.types import TAUGHT_THRESHOLD

logger = logging.getLogger(__name__)


def prepare_products(config: AgentConfig, bundle: Bundle, predictor: Predictor) -> None:
    """Checks that the bundle can serve every camera, and makes what was taught ready.

    A profile that cannot be used is logged: the verdicts of its product are unknown.

    Raises:
        ProductError: a product was not taught, and the bundle lacks it.
        ConfigError: as of `check_mask`.
    """
    for camera in config.every_camera:
        product = product_of(camera)
        try:
            predictor.prepare(product)
        except ProfileError as error:
            logger.error("camera %s: every verdict is unknown: %s", camera.name, error)
        if not predictor.is_taught(product):
            check_mask(camera, bundle)
        threshold = camera.decision.threshold if camera.decision is not None else None
        if threshold is not None and predictor.is_taught(product):
            logger.warning(
                "camera %s: decision.threshold %g of the config replaces the taught threshold of %r, %g, so the false "
                "reject rate that teach-in promised does not hold. Remove decision.threshold to use it",
                camera.name,
                threshold,
                product,
                TAUGHT_THRESHOLD,
            )


def check_mask(camera: CameraConfig, bundle: Bundle) -> None:
    """Checks that the bundle's score can be computed without the pixels that the camera's mask ignores.

    Raises:
        ConfigError: it cannot.
    """
    if camera.ignore_mask is not None and bundle.manifest.model.score is None:
        raise ConfigError(
            f"ignore_mask of {camera.name}: the score of {bundle.path} ({bundle.manifest.model.method}) is not "
            "computed from its anomaly map, so a mask has no effect on it. Use region_xywh or another bundle."
        )


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
    seq = itertools.count(1)  # one for all cameras: a result's id consists of device, boot and seq
    identity = Identity(device_id=config.device_id, boot=secrets.token_hex(4))
    stations = []
    for camera, source, view in zip(config.every_camera, sources, views, strict=True):
        status = CameraStatus(camera.name, publish_status)
        slot: FrameQueue[Captured] = (
            BoundedQueue(condition=slots_changed) if source.lossless else LatestQueue(slots_changed)
        )
        inspector = Inspector(camera, identity, models, status, view, heatmap=config.heatmap, lossless=source.lossless)
        capture = Capture(source=source, config=camera, slot=slot, status=status, stop=stop, seq=seq)
        stations.append(Station(capture=capture, slot=slot, inspector=inspector, status=status))
    return stations
