"""The networks of a bundle whose tokens teach-in compares with those of good parts."""

import hashlib
import math
import time
from dataclasses import dataclass, field
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
_WITH_BODIES = frozenset({"If", "Loop", "TensorIterator"})


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
        if scale.file is None and not strip:
            found = self._detector.tokens(view_bgr)
            if found is not None:
                _check_lengths(scale.name, found)
                return found.reshape(h, w, scale.width).copy()
        network = self._network_of(scale)
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
        return scale.tiles**2 * self._network_of(scale).run_ms

    def self_test(self) -> None:
        """As `zsad_agent.model.Predictor.self_test`, for each network."""
        for network in self._networks.values():
            network.self_test()

    def _network_of(self, scale: FeatureScale) -> "_Network":
        """A scale without a file has a twin with one, see `zsad_core.bundle.FeatureScale`."""
        return next(self._networks[one.file] for one in self.scales if one.file and one.as_network_of(scale))


@dataclass(kw_only=True, eq=False)
class _Read:
    """A network before it is compiled."""

    scale: FeatureScale
    graph: Graph
    model: Any
    values: dict[bytes, Any]  # of `_values`
    states: dict[bytes, str] = field(default_factory=dict)  # values that are outputs too -> their names
    first: "_Read | None" = None  # what it continues; its inputs are states of that


def _load(bundle: Bundle, config: InferenceConfig) -> dict[str, "_Network"]:
    """File -> compiled network. A network whose first layers are all of another one continues from that one's values.

    So these layers are held once. The six blocks of ViT-Ti that both its scales have in common take 40 MB.
    """
    weights = bundle.feature_weights()
    files = {scale.file: scale for scale in bundle.manifest.features or () if scale.file is not None}
    read = [_read(bundle, weights, scale) for scale in files.values()]
    read.sort(key=lambda one: len(one.values))  # of two networks the shorter one can be the beginning
    for place, one in enumerate(read):
        before = [other for other in read[:place] if other.first is None and _begins_as(one, other)]
        if before:
            _continue(before[-1], one)
    networks: dict[str, _Network] = {}
    for one in read:
        one.values.clear()
        first = None if one.first is None else networks[str(one.first.scale.file)]
        networks[str(one.scale.file)] = _Network(one, config, first)
    return networks


def _read(bundle: Bundle, weights: bytes, scale: FeatureScale) -> _Read:
    graph = Graph(
        xml=bundle.feature_xml(scale),
        weights=weights,
        source=f"{bundle.path}/{scale.file}",
        bundle_sha256=bundle.sha256,
        network=PurePath(str(scale.file)).stem,
    )
    ports = {
        IMAGE: ("u8", [1, *scale.input_hw, 3]),
        TOKENS: ("f32", [1, math.prod(scale.grid_hw), scale.width]),
    }
    model = read_graph(graph, ports, 1)
    return _Read(scale=scale, graph=graph, model=model, values=_values(model))


def _values(model: Any) -> dict[bytes, Any]:
    """Hash -> output of a node, for all values that depend on the picture.

    The hash is of all that the value is computed from, so equal values of two graphs have the same one.
    """
    hashes: dict[str, tuple[bytes, bool]] = {}  # name of the node -> hash, and whether it depends on the picture
    found: dict[bytes, Any] = {}
    for node in model.get_ordered_ops():
        kind, digest = node.get_type_name(), hashlib.sha256()
        if kind == "Constant":
            digest.update(f"{node.get_element_type()} {node.get_output_partial_shape(0)}".encode())
            digest.update(node.get_data().tobytes())
        elif kind in _WITH_BODIES:
            digest.update(node.get_name().encode())  # equal to nothing
        else:
            digest.update(repr((kind, sorted((key, str(to)) for key, to in node.get_attributes().items()))).encode())
        varies = kind == "Parameter"
        for source in (port.get_source_output() for port in node.inputs()):
            before, depends = hashes[source.get_node().get_name()]
            digest.update(before + bytes([source.get_index()]))
            varies |= depends
        hashes[node.get_name()] = digest.digest(), varies
        if varies and kind != "Result":
            found |= {digest.digest() + bytes([index]): port for index, port in enumerate(node.outputs())}
    return found


def _begins_as(one: _Read, other: _Read) -> bool:
    """Whether most values of `other` are also values of `one`."""
    return 2 * len(one.values.keys() & other.values.keys()) > len(other.values)


def _continue(first: _Read, one: _Read) -> None:
    """Makes the values that both have and the rest of `one` needs outputs of `first` and inputs of `one`."""
    ops = import_openvino().opset13
    shared = {port.get_node().get_name() for key, port in one.values.items() if key in first.values}
    inputs = []
    for key, port in one.values.items():
        users = [user for user in port.get_target_inputs() if user.get_node().get_name() not in shared]
        if key not in first.values or not users:
            continue
        if key not in first.states:
            name = first.states[key] = f"state-{len(first.states)}"
            names = first.values[key].get_names() | {name}
            output = first.model.add_outputs([first.values[key]])[0]
            # names with a number that differs at each start would be another model for the cache
            output.get_tensor().set_names(names)
            output.get_node().set_friendly_name(name)
        state = ops.parameter([*port.get_shape()], port.get_element_type())
        state.output(0).get_tensor().set_names({first.states[key]})
        state.set_friendly_name(first.states[key])
        for user in users:
            user.replace_source_output(state.output(0))
        inputs.append(state)
    one.model = import_openvino().Model(one.model.get_results(), inputs, one.graph.network)
    one.first = first


class _Network:
    """A compiled network and its inference request."""

    def __init__(self, read: _Read, config: InferenceConfig, first: "_Network | None" = None) -> None:
        """Compiles and tests it. `first`: the network that it continues, if there is one."""
        self._name = read.graph.network
        self._first = first
        # the request's own input memory, or that of the first one
        self._image: np.ndarray = np.zeros((1, *read.scale.input_hw, 3), np.uint8) if first is None else first._image
        self._states = [] if first is None else [name for port in read.model.inputs for name in port.get_names()]
        self._failed_test: str | None = None
        self._tolerance = tolerance(config)
        self._request, self._known = compile_tested(read.model, read.graph, config, self._try)

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
        if self._first is None:
            request.set_tensor(IMAGE, import_openvino().Tensor(self._image, shared_memory=True))
        return request, self._answer(request)

    def _answer(self, request: Any) -> np.ndarray:
        np.copyto(self._image[0], drawn_picture(self._image.shape[1:3]))
        return self._infer(request).copy()

    def _infer(self, request: Any) -> np.ndarray:
        if self._first is not None:
            self._first._infer(self._first._request)
        try:
            if self._first is not None:
                for name in self._states:
                    request.set_tensor(name, self._first._request.get_tensor(name))
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
