"""One compiled model on one OpenVINO device: from a picture to its anomaly map and score."""

import logging
import re
import time
import zlib
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np

from zsad_agent.config import InferenceConfig
from zsad_agent.model.bundle_store import open_bundle
from zsad_agent.model.compiled_cache import (
    alone_in,
    clear_cache,
    forget_compiled,
    known_file,
    open_cache,
    seal_cache,
)
from zsad_agent.model.precision_choice import choose_model
from zsad_agent.model.self_test import MIXED_TOLERANCE, TOLERANCE, answer_fault, drawn_picture
from zsad_core.bundle import Bundle
from zsad_core.errors import BundleError, DeviceError, ImageError
from zsad_core.openvino_offline import import_openvino, openvino_core
from zsad_core.picture import resize_to_input
from zsad_core.types import Prediction

logger = logging.getLogger(__name__)

IMAGE, PROMPT, MAP, SCORE = "image", "prompt", "anomaly_map", "anomaly_score"
RANGE_SLACK = 1e-3  # rounding in a half-precision graph may exceed [0, 1] by this; the values are clipped
MIN_SIDE_PX = 8
Tried: TypeAlias = tuple[Any, np.ndarray]  # an inference request, and an answer to the test picture
PredictorT = TypeVar("PredictorT")
Try: TypeAlias = Callable[[Any], Tried]  # of a compiled model
_VIRTUAL_DEVICES = frozenset({"AUTO", "MULTI", "HETERO", "BATCH"})


class Detector:
    """Holds the compiled model and one inference request. For one thread at a time."""

    trial_s: float  # time of the first picture, which also creates the kernels

    def __init__(self, bundle: Bundle, config: InferenceConfig) -> None:
        """Compiles the model that `choose_model` picks, and tests it.

        Raises:
            BundleError: the model does not match the manifest, or cannot be read.
            ProductError: the bundle has no such product.
            DeviceError: the device is absent, cannot run the model, or gives no valid answer.
        """
        self.arithmetic = choose_model(bundle, config)
        bundle = bundle.computing_in(self.arithmetic)
        self._bundle = bundle.without_model()
        self._input_hw = bundle.manifest.model.input_hw
        self._product = ""
        self._image = np.zeros((1, *self._input_hw, 3), np.uint8)  # the request's own input memory
        prompt_shape = bundle.manifest.model.prompt_shape
        self._prompt = None if prompt_shape is None else np.zeros(prompt_shape, np.float32)
        self._select_product(config.product)
        self._prompts_crc = self._sum_prompts()
        self._failed_test: str | None = None
        self._tolerance = _tolerance(config)
        model = _read_model(bundle)
        check_device(config.device)
        self._device = config.device
        self._request, self._known = _compile(model, bundle, config, self._try)

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        """Map and score of one picture.

        Args:
            image_bgr: uint8 [H, W, 3], any size.
            product: None: that of the picture before.

        Raises:
            ProductError: the bundle has no such product.
            ImageError: a side has fewer than `MIN_SIDE_PX` pixels, too few to show a defect.
            DeviceError: the device failed, or the answer is not in [0, 1].
        """
        if self._failed_test is not None:
            raise DeviceError(self._failed_test)
        height, width = image_bgr.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            raise ImageError(
                f"the picture has {width}x{height} pixels, at least {MIN_SIDE_PX}x{MIN_SIDE_PX} are needed"
            )
        if product is not None:
            self._select_product(product)
        resize_to_input(image_bgr, self._input_hw, out=self._image[0])
        anomaly_map, anomaly_score = self._infer(self._request)
        return Prediction(
            anomaly_map=np.clip(anomaly_map, 0.0, 1.0),  # a copy: the request's memory is reused
            anomaly_score=min(max(anomaly_score, 0.0), 1.0),
        )

    def prepare(self, product: str) -> None:
        """As `zsad_agent.model.Predictor.prepare`."""
        self._bundle.prompt(product)

    def is_taught(self, product: str) -> bool:
        """As `zsad_agent.model.Predictor.is_taught`: it uses the bundle alone."""
        return False

    def self_test(self) -> None:
        """As `zsad_agent.model.Predictor.self_test`."""
        if self._failed_test is None:
            try:
                self._failed_test = answer_fault(self._answer(self._request), self._known, self._tolerance)
                if self._sum_prompts() != self._prompts_crc:
                    self._failed_test = "the prompts of the bundle have changed in memory"
            except DeviceError as error:
                self._failed_test = f"the model has no answer to the test picture: {error}"
        if self._failed_test is not None:
            raise DeviceError(self._failed_test)

    def _sum_prompts(self) -> int:
        """A checksum of the prompts of all products."""
        bank = self._bundle.prompt_bank
        return 0 if bank is None else zlib.crc32(b"".join(bank[product].tobytes() for product in bank.products))

    def _try(self, compiled: Any) -> Tried:
        """An inference request of a compiled model, and its answer to the test picture."""
        ov = import_openvino()
        request = compiled.create_infer_request()
        request.set_tensor(IMAGE, ov.Tensor(self._image, shared_memory=True))
        if self._prompt is not None:
            request.set_tensor(PROMPT, ov.Tensor(self._prompt, shared_memory=True))
        started_s = time.monotonic()
        answer = self._answer(request)
        self.trial_s = time.monotonic() - started_s
        return request, answer

    def _answer(self, request: Any) -> np.ndarray:
        """float32 [map values, score]: the answer to the test picture for the first product of the bundle."""
        product = self._product
        self._select_product(min(self._bundle.manifest.products, default=product))
        np.copyto(self._image[0], drawn_picture(self._input_hw))
        try:
            anomaly_map, anomaly_score = self._infer(request)
        finally:
            self._select_product(product)
        return np.append(anomaly_map, np.float32(anomaly_score))

    def _infer(self, request: Any) -> tuple[np.ndarray, float]:
        """Map, in the request's memory, and score of the picture in the input."""
        try:
            request.infer()
            anomaly_map = request.get_tensor(MAP).data[0]
            anomaly_score = float(request.get_tensor(SCORE).data[0])
        except RuntimeError as error:
            raise DeviceError(f"device {self._device}: inference failed: {_short(error)}") from error
        _check_range(MAP, float(anomaly_map.min()), float(anomaly_map.max()))  # NaN anywhere makes both NaN
        _check_range(SCORE, anomaly_score, anomaly_score)
        return anomaly_map, anomaly_score

    def _select_product(self, product: str) -> None:
        """Copies the product's prompt into the model's input. A bundle without text scores every product alike."""
        if product != self._product:
            prompt = self._bundle.prompt(product)
            if self._prompt is not None and prompt is not None:
                np.copyto(self._prompt, prompt)
            self._product = product


def load_again(bundle: Bundle, config: InferenceConfig, make: Callable[[Bundle], PredictorT]) -> PredictorT:
    """A bundle in use, read from its file again and compiled by `make` without the cache.

    Raises:
        BundleError: it cannot be read, is another one now, or no trusted key signed it.
        ZsadError: as of `make`.
    """
    found = open_bundle(config.model_copy(update={"bundle": bundle.path}))
    if found.sha256 != bundle.sha256:
        raise BundleError(f"{bundle.path}: holds another bundle now, {found.sha256[:12]}. Restart the agent to use it")
    forget_compiled(config.cache_dir, bundle.sha256)
    return make(found)


def _tolerance(config: InferenceConfig) -> float:
    """AUTO may compute the first answers on another device than the later ones."""
    mixed = config.precision == "auto" and config.device.partition(":")[0] in _VIRTUAL_DEVICES
    return MIXED_TOLERANCE if mixed else TOLERANCE


def _check_range(name: str, low: float, high: float) -> None:
    if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):  # also for NaN
        raise DeviceError(f"the model gave no valid {name}: values from {low} to {high}, expected [0, 1]")


def _read_model(bundle: Bundle) -> Any:
    try:
        model = openvino_core().read_model(model=bundle.model_xml, weights=bundle.model_bin)
    except RuntimeError as error:
        raise BundleError(f"{bundle.path}/model.xml: OpenVINO cannot read it: {_short(error)}") from error
    facts = bundle.manifest.model
    expected = {
        IMAGE: ("u8", [1, *facts.input_hw, 3]),
        MAP: ("f32", [1, *facts.map_hw]),
        SCORE: ("f32", [1]),
    }
    inputs = 1
    if facts.prompt_shape is not None:
        expected[PROMPT] = ("f32", list(facts.prompt_shape))
        inputs = 2
    found = {
        name: (port.get_element_type().get_type_name(), _shape(port))
        for port in (*model.inputs, *model.outputs)
        for name in port.get_names() & expected.keys()
    }
    faults = [
        f"{name}: expected {kind} {shape}, found {' '.join(map(str, found[name])) if name in found else 'none'}"
        for name, (kind, shape) in expected.items()
        if found.get(name) != (kind, shape)
    ]
    if faults or len(model.inputs) != inputs:
        faults = faults or [f"{len(model.inputs)} inputs, expected {IMAGE}{f' and {PROMPT}' if inputs == 2 else ''}"]
        raise BundleError(f"{bundle.path}/model.xml: does not match the manifest: {'; '.join(faults)}")
    return model


def _shape(port: Any) -> list[int] | str:
    shape = port.get_partial_shape()
    return list(shape.to_shape()) if shape.is_static else str(shape)


def check_device(device: str) -> None:
    """Checks that OpenVINO finds the device.

    Raises:
        DeviceError: the device is absent; the text lists the present ones.
    """
    core = openvino_core()
    kind, _, inner = device.partition(":")
    if kind in _VIRTUAL_DEVICES:
        named = [name.strip().lstrip("-").partition("(")[0] for name in inner.split(",") if name.strip()]
    else:
        named = [device]
    absent = [name for name in named if not _is_present(core, name)]
    if absent:
        present = list(core.available_devices)
        raise DeviceError(
            f"inference device {device!r}: {', '.join(absent)} not present. "
            f"Present here: {', '.join(present) or 'none'}. Set inference.device to one of these or to AUTO."
        )


def _is_present(core: Any, name: str) -> bool:
    """Loads only the plugin of this device: a list of all devices would load every plugin, 15 MB."""
    kind, _, number = name.partition(".")
    try:
        numbers = core.get_property(kind, "AVAILABLE_DEVICES")
    except RuntimeError:  # no such plugin, or it cannot be loaded
        return False
    return any(number in ("", have) or have.startswith(f"{number}.") for have in numbers)


def _compile(model: Any, bundle: Bundle, config: InferenceConfig, try_it: Try) -> Tried:
    """The compiled model's request, and the known answer."""
    core = openvino_core()
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if config.precision == "f32":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    # Also for AUTO, which may choose the CPU. 0, the default, resets it: all models of the process share the core.
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": config.threads or 0})
    if config.device == "CPU":
        _expand_weights(model)
    tried = _compile_with_cache(model, bundle, config, options, try_it)
    if tried is not None:
        return tried
    try:
        compiled = core.compile_model(model, config.device, options)
    except RuntimeError as error:
        raise DeviceError(
            f"inference device {config.device!r} cannot run the model with precision {config.precision}: "
            f"{_short(error)} Present here: {', '.join(core.available_devices)}."
        ) from error
    return try_it(compiled)


def _compile_with_cache(
    model: Any, bundle: Bundle, config: InferenceConfig, options: dict[str, Any], try_it: Try
) -> Tried | None:
    """As `_compile`. None (logged) if the cache or the device fails, or the cached model has another answer.

    The model is compiled from the bundle first, then read back: compiling leaves tens of MB of memory. It is not mapped
    into memory. A change of a mapped file would change the answers, and a cut would end the process by SIGBUS.
    """
    root, core = config.cache_dir, openvino_core()
    with alone_in(root) as alone:
        cache = open_cache(root, bundle.sha256, import_openvino().get_version()) if alone else None
        if cache is None:
            return None
        options = {**options, "CACHE_DIR": str(cache), "ENABLE_MMAP": False}
        device = re.sub(r"[^A-Za-z0-9.]", "_", config.device)
        variant = f"{zlib.crc32(bundle.model_xml):08x}-{device}-{config.precision}"
        try:
            known_path = known_file(cache, variant)
            if not known_path.exists():
                np.save(known_path, try_it(core.compile_model(model, config.device, options))[1])
            known = np.load(known_path, allow_pickle=False)
            request, answer = try_it(core.compile_model(model, config.device, options))
            fault = answer_fault(answer, known, _tolerance(config))
            if fault is None:
                seal_cache(cache)
                return request, known
        except (RuntimeError, OSError, ValueError, DeviceError) as error:  # the disk or the device
            fault = _short(error)
        logger.warning("compiling with the cache %s failed, compiling without it: %s", cache, fault)
        clear_cache(cache)
        return None


def _expand_weights(model: Any) -> None:
    """Converts half-precision weights to float once, at compile time.

    Otherwise the CPU plugin converts those of fully connected layers for every picture. On a CPU without half-precision
    arithmetic this takes 15 to 18 % of the time of a ViT-Ti (AVX2, OpenVINO 2026.4).
    """
    for node in model.get_ops():
        if node.get_type_name() == "Convert":
            marks = node.get_rt_info()
            for mark in [mark for mark in marks if mark.startswith("decompression")]:
                del marks[mark]


def _short(error: Exception) -> str:
    """OpenVINO's text without its file names, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    useful = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(useful or [line for line in lines if line])[:300]
