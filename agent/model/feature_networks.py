"""The networks of a bundle whose tokens teach-in compares with those of good parts."""

import math
import time
from functools import cached_property
from pathlib import PurePath
from typing import Any

import numpy as np

from zsad_agent.config import InferenceConfig
from zsad_agent.model.compiling import Graph, Tried, compile_tested, read_graph, short, tolerance
from zsad_agent.model.detector import IMAGE, TOKENS, Detector
from zsad_agent.model.self_test import answer_fault, drawn_picture
from zsad_core.bundle import Bundle, FeatureScale
from zsad_core.errors import BundleError, DeviceError
from zsad_core.openvino_offline import import_openvino
from zsad_core.picture import resize_to_input

STRIP_TILES = 3  # side by side, in a view three times as wide as high
LENGTH_SLACK = 0.02  # of a unit vector; half precision changes its length by less
_TIMED_RUNS = 2


class FeatureNetworks:
    """Holds the compiled networks of all scales. For one thread at a time, the one that uses the detector."""

    scales: tuple[FeatureScale, ...]
    bundle: Bundle  # without its model

    def __init__(self, bundle: Bundle, config: InferenceConfig, detector: Detector) -> None:
        """Reads, compiles and tests every network. Scales of the same network share it.

        Args:
            bundle: its files are read again; it may be without its model.
            config: as of the detector.
            detector: of the same bundle; its tokens are used where its last picture is the view.

        Raises:
            BundleError: the bundle has no feature networks, or they do not match the manifest.
            DeviceError: the device cannot run a network, or a network gives no valid answer.
        """
        if bundle.manifest.features is None:
            raise BundleError(
                f"{bundle.path}: {bundle.manifest.name} {bundle.manifest.version} has no feature networks, which "
                "teach-in needs. Add them with zsad-convert features, or use a newer bundle."
            )
        self.scales = bundle.manifest.features
        self.bundle = bundle.without_model()
        self._detector = detector
        self._networks = _load(bundle, config)

    def tokens(self, view_bgr: np.ndarray, scale: FeatureScale, *, strip: bool = False) -> np.ndarray:
        """Unit vectors on the grid of the whole view: float32 [h, w, width].

        Args:
            view_bgr: uint8 [H, W, 3], resized to the tiles of the scale.
            scale: one of `scales`.
            strip: cuts the view into three tiles side by side; only for scales without tiles.

        Raises:
            DeviceError: the device failed, a network gives no unit vectors, or it has failed a self-test.
        """
        if strip and scale.tiles != 1:
            raise ValueError(f"{scale.name}: a strip has tiles of its own")
        rows, columns = (1, STRIP_TILES) if strip else (scale.tiles, scale.tiles)
        height, width = scale.input_hw
        h, w = scale.grid_hw
        if scale.own and not strip:
            found = self._detector.tokens(view_bgr)
            if found is not None:
                _check_lengths(scale.name, found)
                return found.reshape(h, w, scale.width).copy()
        network = self._networks[scale.file]
        picture = resize_to_input(view_bgr, (rows * height, columns * width))
        tokens = np.empty((rows * h, columns * w, scale.width), np.float32)
        for row in range(rows):
            for column in range(columns):
                tile = picture[row * height : (row + 1) * height, column * width : (column + 1) * width]
                found = network.run(tile).reshape(h, w, scale.width)
                tokens[row * h : (row + 1) * h, column * w : (column + 1) * w] = found
        return tokens

    def time_ms(self, scale: FeatureScale) -> float:
        """The shortest time of `tokens`, without resizing and the detector's tokens. Measured at the first call."""
        return scale.tiles**2 * self._networks[scale.file].run_ms

    def self_test(self) -> None:
        """As `zsad_agent.model.Predictor.self_test`, for each network."""
        for network in self._networks.values():
            network.self_test()


def _load(bundle: Bundle, config: InferenceConfig) -> dict[str, "_Network"]:
    """File -> compiled network."""
    weights = bundle.feature_weights()
    files = {scale.file: scale for scale in bundle.manifest.features or ()}
    return {file: _Network(_graph(bundle, weights, scale), scale, config) for file, scale in files.items()}


def _graph(bundle: Bundle, weights: bytes, scale: FeatureScale) -> Graph:
    return Graph(
        xml=bundle.feature_xml(scale),
        weights=weights,
        source=f"{bundle.path}/{scale.file}",
        bundle_sha256=bundle.sha256,
        network=PurePath(scale.file).stem,
    )


class _Network:
    """A compiled network and its inference request."""

    def __init__(self, graph: Graph, scale: FeatureScale, config: InferenceConfig) -> None:
        """Compiles and tests it."""
        self._name = graph.network
        self._image = np.zeros((1, *scale.input_hw, 3), np.uint8)  # the request's own input memory
        self._failed_test: str | None = None
        self._tolerance = tolerance(config)
        ports = {
            IMAGE: ("u8", [1, *scale.input_hw, 3]),
            TOKENS: ("f32", [1, math.prod(scale.grid_hw), scale.width]),
        }
        self._request, self._known = compile_tested(read_graph(graph, ports, 1), graph, config, self._try)

    @cached_property
    def run_ms(self) -> float:
        """The shortest time of a run. Not measured at the start, because few devices have a budget."""
        return min(self._timed_ms() for _ in range(_TIMED_RUNS))

    def run(self, tile_bgr: np.ndarray) -> np.ndarray:
        """float32 [h * w, width], in the request's memory: unit vectors of a uint8 [H, W, 3] tile."""
        if self._failed_test is not None:
            raise DeviceError(self._failed_test)
        np.copyto(self._image[0], tile_bgr)
        return self._infer(self._request)

    def self_test(self) -> None:
        if self._failed_test is None:
            try:
                self._failed_test = answer_fault(self._answer(self._request), self._known, self._tolerance)
            except DeviceError as error:
                self._failed_test = f"{self._name}: no answer to the test picture: {error}"
        if self._failed_test is not None:
            raise DeviceError(self._failed_test)

    def _try(self, compiled: Any) -> Tried:
        request = compiled.create_infer_request()
        request.set_tensor(IMAGE, import_openvino().Tensor(self._image, shared_memory=True))
        return request, self._answer(request)

    def _answer(self, request: Any) -> np.ndarray:
        np.copyto(self._image[0], drawn_picture(self._image.shape[1:3]))
        return self._infer(request).copy()

    def _infer(self, request: Any) -> np.ndarray:
        try:
            request.infer()
            tokens = np.asarray(request.get_tensor(TOKENS).data[0])
        except RuntimeError as error:
            raise DeviceError(f"{self._name}: inference failed: {short(error)}") from error
        _check_lengths(self._name, tokens)
        return tokens

    def _timed_ms(self) -> float:
        started_s = time.perf_counter()
        self._infer(self._request)
        return 1000 * (time.perf_counter() - started_s)


def _check_lengths(name: str, tokens: np.ndarray) -> None:
    """Raises DeviceError if a vector [N, C] is not of unit length; NaN anywhere has no length."""
    squares = np.einsum("nc,nc->n", tokens, tokens)
    low, high = float(squares.min()), float(squares.max())
    if not (low >= 1 - 2 * LENGTH_SLACK and high <= 1 + 2 * LENGTH_SLACK):
        raise DeviceError(f"{name}: no valid tokens: squared lengths from {low} to {high}, expected 1")
