"""The contenders of `speed.py`: how each is built, the cost of its graph, and how it processes a frame.

All of this runs in child processes (`worker.py`), so a missing library or too little memory affects only one row.

Weights are random if they are only available from a hub; the time does not depend on their values:

- `vit-l`, `vit-s`: AVA-DINO on DINOv3's architecture at 512 px, text width and hidden width 768, exported in FP32 by
  this project's converter and run by the agent's code.
- Anomalib's models at 256 px, exported in FP32 by their `to_openvino` and run by its `OpenVINOInferencer`. Their
  backbones have no pretrained weights. PatchCore's bank has the size for 200 images at its default of 10 %: 20,480
  vectors of 384 numbers. PaDiM has Gaussians for 64 x 64 positions of 100 features.
"""

import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from zsad_core.bundle import Bundle, load_bundle
from zsad_core.openvino_offline import import_openvino, openvino_core

VIT_SIDE, ANOMALIB_SIDE, SGEMM_SIDE = 512, 256, 2048  # pixels, pixels, rows and columns
TEXT_DIM = HIDDEN_DIM = 768
PATCHCORE_PICTURES, PATCHCORE_SHARE = 200, 0.1
PADIM_FEATURES, PADIM_GRID = 100, 64
PICTURES = Path(__file__).parents[2] / "demo" / "stream"
FRAME_WH = (1280, 720)

Predict = Callable[[np.ndarray], tuple[float, np.ndarray]]  # uint8 BGR frame -> score and map on the host


@dataclass(frozen=True, kw_only=True)
class Contender:
    name: str
    kind: Literal["bundle", "vit", "anomalib", "sgemm"]
    what: str  # the bundle's path, the backbone's timm name, or Anomalib's class

    def as_json(self) -> str:
        return json.dumps(asdict(self))


OTHERS = (
    Contender(name="vit-l", kind="vit", what="vit_large_patch16_dinov3"),
    Contender(name="vit-s", kind="vit", what="vit_small_patch16_dinov3"),
    Contender(name="efficientad-s", kind="anomalib", what="EfficientAd"),
    Contender(name="patchcore-r18", kind="anomalib", what="Patchcore"),
    Contender(name="stfpm-r18", kind="anomalib", what="Stfpm"),
    Contender(name="padim-r18", kind="anomalib", what="Padim"),
)
# numpy is not used: on an AMD CPU with AVX-512 its OpenBLAS reached half the speed of OpenVINO's matrix product.
SGEMM = Contender(name="sgemm", kind="sgemm", what=f"OpenVINO, float32, {SGEMM_SIDE} x {SGEMM_SIDE}")


def frames() -> list[np.ndarray]:
    """uint8 BGR [720, 1280, 3]: images of the demo, resized to a camera's size."""
    from zsad_core.picture import read_image

    return [cv2.resize(read_image(path), FRAME_WH) for path in sorted(PICTURES.glob("*.jpg"))[:4]]


def build(contender: Contender, folder: Path) -> None:
    """Builds the files for `load` in `folder`, unless they exist."""
    if contender.kind == "vit" and not (folder / "bundle").exists():
        _build_vit(contender.what, folder / "bundle")
    elif contender.kind == "anomalib" and not _anomalib_ir(folder).exists():
        _build_anomalib(contender.what, folder)


def load(contender: Contender, folder: Path, threads: int) -> Predict:
    """Loads the contender for `threads` CPU threads, in float32."""
    if contender.kind == "sgemm":
        return _load_sgemm(threads)
    if contender.kind == "anomalib":
        return _load_anomalib(_anomalib_ir(folder), threads)
    return _load_bundle(_bundle_path(contender, folder), Path("compiled"), threads)  # in the current folder


def cost(contender: Contender, folder: Path) -> dict[str, Any]:
    """GFLOP of one frame, a bundle's hash, and the kernels of OpenVINO's CPU plugin, each with its number of uses.

    FLOP are counted as usual: only matrix products and convolutions; a multiplication with its addition counts as two.
    GFLOP is None if a shape is only known at run time.
    """
    if contender.kind == "sgemm":
        return {"gflop": 2 * SGEMM_SIDE**3 / 1e9, "sha256": None, "kernels": {}}
    import_openvino()
    sha256 = None
    if contender.kind == "anomalib":
        model = openvino_core().read_model(_anomalib_ir(folder))
        model.reshape([1, 3, ANOMALIB_SIDE, ANOMALIB_SIDE])
    else:
        bundle = load_bundle(_bundle_path(contender, folder))
        model = openvino_core().read_model(model=bundle.model_xml, weights=bundle.model_bin)
        sha256 = bundle.sha256
    flop = [_flop(op) for op in model.get_ops()]
    compiled = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kernels: dict[str, int] = {}
    for op in compiled.get_runtime_model().get_ops():
        layer, primitive = (str(op.get_rt_info()[key].astype(str)) for key in ("layerType", "primitiveType"))
        if not primitive.startswith("unknown"):  # constants and other operations without computation
            kernels[f"{layer} {primitive}"] = kernels.get(f"{layer} {primitive}", 0) + 1
    known = None if None in flop else sum(filter(None, flop)) / 1e9
    return {"gflop": known, "sha256": sha256, "kernels": dict(sorted(kernels.items()))}


def _flop(op: Any) -> float | None:
    kind = op.get_type_name()
    if kind not in ("MatMul", "Convolution", "GroupConvolution", "ConvolutionBackpropData"):
        return 0.0
    ports = [op.input(0), op.input(1), op.output(0)]
    if any(port.get_partial_shape().is_dynamic for port in ports):
        return None
    given, weights, out = (list(port.get_shape()) for port in ports)
    if kind == "MatMul":
        return 2.0 * np.prod(out) * given[-2 if op.get_attributes()["transpose_a"] else -1]
    if kind == "ConvolutionBackpropData":  # weights [C in, C out, kh, kw]
        return 2.0 * np.prod(given) * np.prod(weights[1:])
    per_output = weights[1:] if kind == "Convolution" else weights[2:]  # [C in / groups, kh, kw]
    return 2.0 * np.prod(out) * np.prod(per_output)


def _bundle_path(contender: Contender, folder: Path) -> Path:
    return Path(contender.what) if contender.kind == "bundle" else folder / "bundle"


def _load_bundle(path: Path, cache: Path, threads: int) -> Predict:
    """Loads a bundle as the agent does."""
    from zsad_agent.config import InferenceConfig
    from zsad_agent.model import Detector
    from zsad_agent.system import give_back_memory
    from zsad_core.bundle import GENERIC_PRODUCT

    cv2.setNumThreads(1)
    bundle: Bundle = load_bundle(path)
    products = bundle.manifest.products
    product = GENERIC_PRODUCT if not products or GENERIC_PRODUCT in products else products[0]
    detector = Detector(bundle, InferenceConfig(product=product, threads=threads, cache_dir=cache))
    del bundle
    give_back_memory()

    def predict(frame: np.ndarray) -> tuple[float, np.ndarray]:
        prediction = detector.predict(frame)
        return prediction.anomaly_score, prediction.anomaly_map

    return predict


def _load_sgemm(threads: int) -> Predict:
    ov = import_openvino()
    ops = ov.opset13
    left, right = (np.random.default_rng(seed).random((SGEMM_SIDE,) * 2, np.float32) for seed in (0, 1))
    given = ops.parameter(left.shape, np.float32)
    model = ov.Model([ops.matmul(given, ops.constant(right), False, False)], [given], "sgemm")
    request = openvino_core().compile_model(model, "CPU", _options(threads)).create_infer_request()
    request.set_input_tensor(ov.Tensor(left))

    def predict(_: np.ndarray) -> tuple[float, np.ndarray]:
        request.infer()
        out = request.get_output_tensor().data
        return float(out[0, 0]), out

    return predict


def _options(threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }


def _build_vit(backbone_name: str, out: Path) -> None:
    import torch

    from zsad_convert.bundle import serialise, write_bundle
    from zsad_convert.export import prompt_arrays, to_openvino
    from zsad_convert.gate import measure_parity
    from zsad_core.backbones import BackboneConfig, build_backbone
    from zsad_core.bundle import GENERIC_PRODUCT, ModelFacts, Threshold, Variant
    from zsad_core.model import Detector, DetectorConfig

    torch.manual_seed(0)
    size = (VIT_SIDE, VIT_SIDE)
    backbone = BackboneConfig(name=backbone_name, input_hw=size)
    config = DetectorConfig(method="ava_dino", backbone=backbone, text_dim=TEXT_DIM, hidden_dim=HIDDEN_DIM)
    detector = Detector(config, build_backbone(backbone)).eval()
    text = {GENERIC_PRODUCT: np.random.default_rng(0).normal(size=(TEXT_DIM, 2)).astype(np.float32)}
    prompts, ir = prompt_arrays(detector.head, text), serialise(to_openvino(detector), "fp32")
    pictures = sorted(PICTURES.glob("*.jpg"))[:1]
    limits = {"source": "a picture of the demo", "map_tolerance": 0.01, "score_tolerance": 0.01}
    write_bundle(
        out,
        name=backbone_name,
        version="0.0.0",
        facts=ModelFacts(
            method=config.method,
            backbone=f"{backbone_name} with random weights",
            text_encoder="none: random vectors",
            input_hw=size,
            taps=tuple(detector.backbone.taps),
            map_hw=size,
            prompt_shape=prompts[GENERIC_PRODUCT].shape,
            precision="fp32",
        ),
        ir=ir,
        prompts=prompts,
        threshold=Threshold(value=0.5, method="none: random weights, for time alone"),
        region_level=0.5,
        evaluation=None,
        proof=Variant(precision="fp32", parity=measure_parity(detector, text, ir, prompts, pictures, **limits)),
        made_by="benchmarks/speed.py",
        licences=(),
    )


def _anomalib_ir(folder: Path) -> Path:
    return folder / "weights" / "openvino" / "model.xml"


def prepare_for_anomalib() -> None:
    """Prepares the import of Anomalib: without OpenVINO's telemetry, and with any build of torchvision.

    Anomalib calls `openvino.convert_model`, which the import without the converter lacks.
    """
    openvino = import_openvino()
    from openvino.tools.ovc import convert_model

    vars(openvino)["convert_model"] = convert_model
    from zsad_core.backbones import ensure_torchvision_imports

    ensure_torchvision_imports()


def _build_anomalib(class_name: str, folder: Path) -> None:
    prepare_for_anomalib()
    import timm
    import torch
    from anomalib import models

    torch.manual_seed(0)
    create_model = timm.create_model
    timm.create_model = functools.wraps(create_model)(lambda *a, **k: create_model(*a, **{**k, "pretrained": False}))
    model_class = getattr(models, class_name)
    options = {} if class_name == "EfficientAd" else {"backbone": "resnet18"}  # EfficientAd's default is size S
    whole = model_class(**options, evaluator=False, visualizer=False)
    inner = whole.model
    if class_name == "Patchcore":
        cells = (ANOMALIB_SIDE // 8) ** 2  # of layer 2
        inner.memory_bank = torch.randn(round(PATCHCORE_PICTURES * PATCHCORE_SHARE * cells), 128 + 256)
    elif class_name == "Padim":
        inner.gaussian.mean = torch.randn(PADIM_FEATURES, PADIM_GRID**2)
        inner.gaussian.inv_covariance = torch.eye(PADIM_FEATURES).repeat(PADIM_GRID**2, 1, 1)
    elif class_name == "EfficientAd":  # without quantiles it would skip the normalisation of its maps
        for name, value in inner.quantiles.items():
            value.data.fill_(0.1 if name.startswith("qa") else 0.2)
        inner.mean_std["std"].data.fill_(1.0)
    # Batch size 1: with the default, a dynamic batch size, PatchCore's graph only accepts a batch of two.
    fixed = {"dynamic_axes": {}}
    whole.to_openvino(folder, input_size=(ANOMALIB_SIDE, ANOMALIB_SIDE), onnx_kwargs=fixed)


def _load_anomalib(xml: Path, threads: int) -> Predict:
    """Anomalib's inferencer in float32, as for the other contenders.

    The frame is resized to 256 px first; a graph that resizes the whole frame itself would be slower.
    """
    prepare_for_anomalib()
    from anomalib.deploy import OpenVINOInferencer

    from zsad_core.picture import resize_to_input

    cv2.setNumThreads(1)
    inferencer = OpenVINOInferencer(path=xml, device="CPU", config=_options(threads))

    def predict(frame: np.ndarray) -> tuple[float, np.ndarray]:
        resized = resize_to_input(frame, (ANOMALIB_SIDE, ANOMALIB_SIDE))
        answer = inferencer.predict(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB))
        return float(np.asarray(answer.pred_score).ravel()[0]), np.asarray(answer.anomaly_map)

    return predict


def timed(predict: Predict, frame: np.ndarray) -> float:
    """Milliseconds for one frame."""
    started_s = time.perf_counter()
    predict(frame)
    return (time.perf_counter() - started_s) * 1000
