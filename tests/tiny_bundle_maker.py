"""A complete bundle whose model is a few OpenVINO operations: no torch, no training, known outputs.

The anomaly map is the darkness of each pixel (1 - mean/255, 3x3 average), times a gain from the product's prompt: a
black blot on a white part is a defect with a score near the gain.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

from zsad_core.bundle import (
    FORMAT_VERSION,
    INT8_BIN,
    INT8_XML,
    MANIFEST,
    MODEL_BIN,
    MODEL_XML,
    PROMPTS,
    RESIZE_RULE,
    Manifest,
    ModelFacts,
    Parity,
    Threshold,
    Variant,
)
from zsad_core.facts import Licence
from zsad_core.openvino_offline import import_openvino

INPUT_HW = (64, 64)
PROMPT_SHAPE = (2, 2, 8)
GAINS = {"object": 1.0, "bottle": 0.8}


def make_tiny_bundle(
    folder: Path,
    *,
    input_hw: tuple[int, int] = INPUT_HW,
    output_scale: float = 1.0,
    nan_on_black: bool = False,
    map_name: str = "anomaly_map",
    stated_map_hw: tuple[int, int] | None = None,
    needs_text: bool = True,
    int8_scale: float | None = None,
    slow: bool = False,
) -> Path:
    """Writes the bundle into `folder`, which is created, and returns it.

    Args:
        folder: for the bundle.
        input_hw: height and width of input and map, pixels.
        output_scale: multiplies map and score; above 1 they exceed [0, 1], NaN makes all outputs NaN.
        nan_on_black: the output contains NaN if the image has an all-black 3x3 patch.
        map_name: name of the map's output.
        stated_map_hw: map size in the manifest, if it should differ from the model's.
        int8_scale: adds a second model as int8 variant, with this `output_scale`.
        slow: the first model takes some milliseconds more than the variant.
        needs_text: False leaves out prompts and products, like a method without text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _save_model(folder / MODEL_XML, input_hw, output_scale, nan_on_black, map_name, needs_text, slow)
    payload = [MODEL_XML, MODEL_BIN, PROMPTS] if needs_text else [MODEL_XML, MODEL_BIN]
    if int8_scale is not None:
        _save_model(folder / INT8_XML, input_hw, int8_scale, nan_on_black, map_name, needs_text, slow=False)
        payload += [INT8_XML, INT8_BIN]
    prompts = {name: np.full(PROMPT_SHAPE, 1.0 - gain, np.float32) for name, gain in GAINS.items()}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **prompts)
    if needs_text:
        (folder / PROMPTS).write_bytes(buffer.getvalue())
    parity = Parity(
        images=1,
        source="none",
        max_map_difference=0.0,
        max_score_difference=0.0,
        map_tolerance=1e-3,
        score_tolerance=1e-3,
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name="darkness",
        version="0.0.1",
        model=ModelFacts(
            method="darkness",
            backbone="none",
            text_encoder="none",
            input_hw=input_hw,
            taps=(),
            map_hw=stated_map_hw or input_hw,
            prompt_shape=PROMPT_SHAPE if needs_text else None,
            precision="fp32",
        ),
        products=tuple(sorted(GAINS)) if needs_text else (),
        threshold=Threshold(value=0.5, method="by hand"),
        region_level=0.5,
        evaluation=None,
        parity=parity,
        variant=None if int8_scale is None else Variant(precision="int8", parity=parity),
        made_by="tests/tiny_bundle_maker.py",
        licences=(Licence(what="all", licence="CC0-1.0", source="made here"),),
        resize=RESIZE_RULE,
        files={name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in payload},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1))
    return folder


def _save_model(
    file: Path,
    input_hw: tuple[int, int],
    output_scale: float,
    nan_on_black: bool,
    map_name: str,
    needs_text: bool,
    slow: bool,
) -> None:
    ov = import_openvino()
    ops = ov.opset13
    image = ops.parameter([1, *input_hw, 3], np.uint8, name="image")
    prompt = ops.parameter(list(PROMPT_SHAPE), np.float32, name="prompt")
    brightness = ops.reduce_mean(ops.convert(image, "f32"), np.array([3]), keep_dims=True)  # [1, H, W, 1]
    planes = ops.transpose(brightness, np.array([0, 3, 1, 2]))  # [1, 1, H, W]
    smooth = ops.avg_pool(planes, [1, 1], [1, 1], [1, 1], [3, 3], exclude_pad=True)
    darkness = ops.subtract(np.float32(1), ops.divide(smooth, np.float32(255)))
    if nan_on_black:  # 0/0 if the patch is black
        darkness = ops.multiply(darkness, ops.divide(smooth, smooth))
    if slow:  # adds nearly 0
        weights = np.random.default_rng(0).normal(0, 0.02, (64, 64, 7, 7)).astype(np.float32)
        work = smooth
        for channels in (1, 64, 64):
            work = ops.convolution(work, weights[:, :channels], [1, 1], [3, 3], [3, 3], [1, 1])
        darkness = ops.add(
            darkness, ops.multiply(ops.reduce_mean(work, np.array([1]), keep_dims=True), np.float32(1e-12))
        )
    dimming = ops.reduce_mean(prompt, np.array([0, 1, 2]), keep_dims=False) if needs_text else np.float32(0)
    gain = ops.subtract(np.float32(output_scale), dimming)
    anomaly_map = ops.squeeze(ops.multiply(darkness, gain), np.array([1]))  # [1, H, W]
    anomaly_score = ops.reduce_max(anomaly_map, np.array([1, 2]), keep_dims=False)  # [1]
    anomaly_map.output(0).set_names({map_name})
    anomaly_score.output(0).set_names({"anomaly_score"})
    for parameter, name in ((image, "image"), (prompt, "prompt")):
        parameter.output(0).set_names({name})
    model = ov.Model([anomaly_map, anomaly_score], [image, prompt] if needs_text else [image], "darkness")
    ov.save_model(model, file, compress_to_fp16=False)
    assert file.with_suffix(".bin").is_file()
