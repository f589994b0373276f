"""The bundle of the config on the inference device."""

import statistics
import time
from collections.abc import Iterator

import numpy as np

from zsad_agent.config import AgentConfig
from zsad_agent.doctor.finding import Finding
from zsad_agent.model import Detector, open_bundle
from zsad_core.bundle import GENERIC_PRODUCT
from zsad_core.openvino_offline import openvino_core

FRAME_HW = (720, 1280)
INFERENCES = 5


def check_inference(config: AgentConfig) -> Iterator[Finding]:
    """The devices that OpenVINO finds, and the speed of the bundle on that of the config."""
    present = ", ".join(openvino_core().available_devices) or "none"
    yield Finding(check="devices", state="ok", text=f"inference devices: {present}")
    inference = config.inference.model_copy(update={"product": GENERIC_PRODUCT})  # a taught one is not the bundle's
    bundle = open_bundle(inference)
    begun_s = time.monotonic()
    detector = Detector(bundle, inference)
    ready_s = time.monotonic() - begun_s
    frame = np.random.default_rng(0).integers(0, 256, (*FRAME_HW, 3), np.uint8)
    times_ms = []
    for _ in range(INFERENCES):
        begun_s = time.monotonic()
        detector.predict(frame)
        times_ms.append((time.monotonic() - begun_s) * 1000)
    took_ms = statistics.median(times_ms)
    text = (
        f"{bundle.manifest.name} {bundle.manifest.version} on {inference.device}: {took_ms:.0f} ms a picture, "
        f"ready in {ready_s:.1f} s"
    )
    wanted = sum(camera.fps or 0.0 for camera in config.every_camera)
    if wanted * took_ms > 1000:
        advice = "inference.bundle: zsad-tiny is faster; or lower fps. Measure with zsad-agent bench"
        yield Finding(check="model", state="warn", text=f"{text}; fps asks for {wanted:g} a second", advice=advice)
    else:
        yield Finding(check="model", state="ok", text=text)
