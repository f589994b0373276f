"""Parity: torch and IR must give the same maps and scores on real images."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from zsad_core.bundle import GENERIC_PRODUCT, Parity
from zsad_core.errors import DeviceError, ParityError
from zsad_core.model import Detector
from zsad_core.openvino_offline import openvino_core
from zsad_core.picture import read_image, resize_to_input


def measure_parity(
    detector: Detector,
    text: dict[str, np.ndarray],
    ir: tuple[bytes, bytes],
    prompts: dict[str, np.ndarray],
    images: Iterable[Path],
    *,
    source: str,
    map_tolerance: float,
    score_tolerance: float,
    device: str = "CPU",
) -> Parity:
    """Runs both on each image, from the file to map and score, without judging the differences.

    Each image uses the next product in turn.

    Args:
        detector: the torch model as trained, in eval mode on the CPU.
        text: product -> [T, 2].
        ir: (model.xml, model.bin) as they will ship.
        prompts: product -> [K, 2, M] as they will ship; empty for a method without text.
        images: image files.
        source: name of the images, for the manifest.
        map_tolerance: largest absolute difference allowed at any map pixel.
        score_tolerance: largest absolute difference allowed of the score.
        device: OpenVINO device; it computes in float32.

    Raises:
        DeviceError: there is no such device, or it cannot compile the graph.
        ParityError: an answer is not finite.
        ValueError: no images.
    """
    compiled = compiled_in_float32(ir, device)
    input_hw = detector.config.backbone.input_hw
    products: list[str | None] = [*sorted(prompts, key=lambda name: name != GENERIC_PRODUCT)] or [None]
    worst_map, worst_score, count = 0.0, 0.0, 0
    with torch.no_grad():
        for index, path in enumerate(tqdm(list(images), desc="comparing", leave=False, disable=None)):
            product = products[index % len(products)]
            resized = resize_to_input(read_image(path), input_hw)[None]
            embedding = None if product is None else torch.from_numpy(text[product]).unsqueeze(0)
            torch_map, torch_score = detector.predict(torch.from_numpy(resized), embedding)
            given = {"image": resized} if product is None else {"image": resized, "prompt": prompts[product]}
            answer = compiled(given)
            ir_map, ir_score = answer["anomaly_map"], answer["anomaly_score"]
            if not (np.isfinite(ir_map).all() and np.isfinite(ir_score).all()):
                raise ParityError(f"{path}: the exported graph gives values that are not finite")
            if not (torch_map.isfinite().all() and torch_score.isfinite().all()):
                raise ParityError(f"{path}: the checkpoint gives values that are not finite")
            worst_map = max(worst_map, float(np.abs(ir_map - torch_map.numpy()).max()))
            worst_score = max(worst_score, float(np.abs(ir_score - torch_score.numpy()).max()))
            count += 1
    if count == 0:
        raise ValueError("parity needs at least one image")
    return Parity(
        images=count,
        source=source,
        max_map_difference=worst_map,
        max_score_difference=worst_score,
        map_tolerance=map_tolerance,
        score_tolerance=score_tolerance,
    )


def parity_faults(parity: Parity) -> list[str]:
    """One line if a difference is above its tolerance, else none."""
    within = parity.max_map_difference <= parity.map_tolerance
    if within and parity.max_score_difference <= parity.score_tolerance:
        return []
    return [
        f"torch and IR differ over {parity.images} pictures: map by {parity.max_map_difference:.2e} "
        f"(allowed {parity.map_tolerance:.0e}), score by {parity.max_score_difference:.2e} "
        f"(allowed {parity.score_tolerance:.0e})"
    ]


def compiled_in_float32(ir: tuple[bytes, bytes], device: str = "CPU") -> Any:
    """Compiles (model.xml, model.bin) on an OpenVINO device, with float32 arithmetic.

    Raises:
        DeviceError: there is no such device, or it cannot compile the graph.
    """
    core = openvino_core()
    model = core.read_model(model=ir[0], weights=ir[1])
    try:
        return core.compile_model(model, device, {"INFERENCE_PRECISION_HINT": "f32"})
    except RuntimeError as error:
        present = ", ".join(core.available_devices)
        raise DeviceError(f"device {device!r} is absent or cannot run the graph. Present: {present}.") from error
