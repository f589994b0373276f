"""One compiled model on one OpenVINO device: from a picture to its anomaly map and score."""

import math
import time
import zlib
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from zsad_agent.config import InferenceConfig
from zsad_agent.model.bundle_store import open_bundle
from zsad_agent.model.compiled_cache import forget_compiled
from zsad_agent.model.compiling import Graph, Tried, check_device, compile_tested, read_graph, short, tolerance
from zsad_agent.model.precision_choice import choose_model
from zsad_agent.model.self_test import answer_fault, drawn_picture
from zsad_core.bundle import Bundle, FeatureScale
from zsad_core.errors import BundleError, DeviceError, ImageError
from zsad_core.openvino_offline import import_openvino
from zsad_core.picture import resize_to_input
from zsad_core.types import Prediction

IMAGE, PROMPT, MAP, SCORE, TOKENS = "image", "prompt", "anomaly_map", "anomaly_score", "tokens"
RANGE_SLACK = 1e-3  # rounding in a half-precision graph may exceed [0, 1] by this; the values are clipped
MIN_SIDE_PX = 32
PredictorT = TypeVar("PredictorT")


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
        self._own_tokens = _own_tokens(bundle) if self.arithmetic == bundle.arithmetics[0] else None
        self._answered = False  # whether the request holds the answer to `_image`
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
        self._tolerance = tolerance(config)
        graph = _graph(bundle)
        model = read_graph(graph, _ports(bundle, self._own_tokens), 1 if self._prompt is None else 2)
        check_device(config.device)
        self._device = config.device
        self._request, self._known = compile_tested(model, graph, config, self._try)

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

    def tokens(self, image_bgr: np.ndarray) -> np.ndarray | None:
        """Tokens of the picture that `predict` had last, so that the backbone runs once.

        Args:
            image_bgr: uint8 [H, W, 3].

        Returns:
            float32 [h * w, width], unit vectors in the request's memory: the next picture overwrites them. None: the
            model has no such output, or the last picture was another one.
        """
        if self._own_tokens is None or not self._answered:
            return None
        if not np.array_equal(resize_to_input(image_bgr, self._input_hw), self._image[0]):
            return None
        return np.asarray(self._request.get_tensor(TOKENS).data[0])

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
        """float32 [map values, score, tokens]: the answer to the test picture for the bundle's first product."""
        product = self._product
        self._select_product(min(self._bundle.manifest.products, default=product))
        np.copyto(self._image[0], drawn_picture(self._input_hw))
        try:
            anomaly_map, anomaly_score = self._infer(request)
        finally:
            self._select_product(product)
        answer = np.append(anomaly_map, np.float32(anomaly_score))
        return answer if self._own_tokens is None else np.append(answer, request.get_tensor(TOKENS).data)

    def _infer(self, request: Any) -> tuple[np.ndarray, float]:
        """Map, in the request's memory, and score of the picture in the input."""
        self._answered = False
        try:
            request.infer()
            anomaly_map = request.get_tensor(MAP).data[0]
            anomaly_score = float(request.get_tensor(SCORE).data[0])
        except RuntimeError as error:
            raise DeviceError(f"device {self._device}: inference failed: {short(error)}") from error
        _check_range(MAP, float(anomaly_map.min()), float(anomaly_map.max()))  # NaN anywhere makes both NaN
        _check_range(SCORE, anomaly_score, anomaly_score)
        self._answered = True
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


def _check_range(name: str, low: float, high: float) -> None:
    if not (low >= -RANGE_SLACK and high <= 1 + RANGE_SLACK):  # also for NaN
        raise DeviceError(f"the model gave no valid {name}: values from {low} to {high}, expected [0, 1]")


def _own_tokens(bundle: Bundle) -> FeatureScale | None:
    return next((scale for scale in bundle.manifest.features or () if scale.own), None)


def _ports(bundle: Bundle, own_tokens: FeatureScale | None) -> dict[str, tuple[str, list[int]]]:
    """Name -> (element type, shape); the inputs first."""
    facts = bundle.manifest.model
    ports = {IMAGE: ("u8", [1, *facts.input_hw, 3])}
    if facts.prompt_shape is not None:
        ports[PROMPT] = ("f32", list(facts.prompt_shape))
    ports |= {MAP: ("f32", [1, *facts.map_hw]), SCORE: ("f32", [1])}
    if own_tokens is not None:
        ports[TOKENS] = ("f32", [1, math.prod(own_tokens.grid_hw), own_tokens.width])
    return ports


def _graph(bundle: Bundle) -> Graph:
    source = f"{bundle.path}/model.xml"
    return Graph(xml=bundle.model_xml, weights=bundle.model_bin, source=source, bundle_sha256=bundle.sha256)
