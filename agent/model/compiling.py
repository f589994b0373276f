"""Compiles graphs for an OpenVINO device, through the cache of compiled models, and tests them."""

import logging
import re
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from zsad_agent.config import InferenceConfig
from zsad_agent.model.compiled_cache import alone_in, clear_cache, known_file, open_cache, seal_cache
from zsad_agent.model.self_test import DEVICE_TOLERANCE, MIXED_TOLERANCE, TOLERANCE, answer_fault
from zsad_core.errors import BundleError, DeviceError
from zsad_core.openvino_offline import import_openvino, openvino_core

logger = logging.getLogger(__name__)

Tried: TypeAlias = tuple[Any, np.ndarray]  # an inference request, and an answer to the test picture
Try: TypeAlias = Callable[[Any], Tried]  # of a compiled model
# OpenVINO changes the locale of the process while it reads or compiles a model. Two at once left it at "C", and Python
# then reads text as ASCII.
_one_at_a_time = threading.Lock()
_VIRTUAL_DEVICES = frozenset({"AUTO", "MULTI", "HETERO", "BATCH"})


@dataclass(frozen=True, kw_only=True)
class Graph:
    """A graph of a bundle, as in its files."""

    xml: bytes
    weights: bytes
    source: str  # its file, for errors
    bundle_sha256: str
    network: str = ""  # the name of a feature network; empty: the bundle's model


def tolerance(config: InferenceConfig) -> float:
    """The largest difference from the known answer.

    AUTO may compute the first answers on another device than the later ones.
    """
    if config.precision == "auto" and config.device.partition(":")[0] in _VIRTUAL_DEVICES:
        return MIXED_TOLERANCE
    return TOLERANCE if config.device == "CPU" else DEVICE_TOLERANCE


def read_graph(graph: Graph, expected: Mapping[str, tuple[str, list[int]]], inputs: int) -> Any:
    """The OpenVINO model.

    Args:
        expected: (element type, shape) of inputs and outputs, by name.
        inputs: how many inputs the graph has; all are in `expected`.

    Raises:
        BundleError: OpenVINO cannot read it, or an input or output is not as expected.
    """
    try:
        with _one_at_a_time:
            model = openvino_core().read_model(model=graph.xml, weights=graph.weights)
    except RuntimeError as error:
        raise BundleError(f"{graph.source}: OpenVINO cannot read it: {short(error)}") from error
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
    if not faults and len(model.inputs) != inputs:
        faults = [f"{len(model.inputs)} inputs, expected {' and '.join([*expected][:inputs])}"]
    if faults:
        raise BundleError(f"{graph.source}: does not match the manifest: {'; '.join(faults)}")
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


def compile_tested(model: Any, graph: Graph, config: InferenceConfig, try_it: Try) -> Tried:
    """The compiled model's request, and the known answer.

    Args:
        model: of `read_graph`; it may be changed.
        graph: what it was read from.
        config: the device, its arithmetic, and the cache.
        try_it: gives a request of a compiled model and its answer to the test picture.

    Raises:
        DeviceError: the device cannot run the model, or `try_it` raises it.
    """
    with _one_at_a_time:
        return _compile_tested(model, graph, config, try_it)


def _compile_tested(model: Any, graph: Graph, config: InferenceConfig, try_it: Try) -> Tried:
    core = openvino_core()
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if config.precision == "f32":
        options["INFERENCE_PRECISION_HINT"] = "f32"
    # Also for AUTO, which may choose the CPU. 0, the default, resets it: all models of the process share the core.
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": config.threads or 0})
    if config.device == "CPU":
        if graph.network:  # code for chains of small layers: 15 MB for a ViT-Ti, which is no faster; the detector is
            options["SNIPPETS_MODE"] = "DISABLE"
        _expand_weights(model)
    tried = _compile_with_cache(model, graph, config, options, try_it)
    if tried is not None:
        return tried
    try:
        compiled = core.compile_model(model, config.device, options)
    except RuntimeError as error:
        raise DeviceError(
            f"inference device {config.device!r} cannot run the model with precision {config.precision}: "
            f"{short(error)} Present here: {', '.join(core.available_devices)}."
        ) from error
    return try_it(compiled)


def _compile_with_cache(
    model: Any, graph: Graph, config: InferenceConfig, options: dict[str, Any], try_it: Try
) -> Tried | None:
    """As `compile_tested`. None (logged) if the cache or the device fails, or the cached model has another answer.

    The model is compiled from the bundle first, then read back: compiling leaves tens of MB of memory. It is not mapped
    into memory. A change of a mapped file would change the answers, and a cut would end the process by SIGBUS.
    """
    root, core = config.cache_dir, openvino_core()
    with alone_in(root) as alone:
        version = import_openvino().get_version()
        cache = open_cache(root, graph.bundle_sha256, version, graph.network) if alone else None
        if cache is None:
            return None
        device = re.sub(r"[^A-Za-z0-9.]", "_", config.device)
        crc = zlib.crc32(repr(sorted(options.items())).encode(), zlib.crc32(graph.xml))
        variant = f"{crc:08x}-{device}-{config.precision}"
        options = {**options, "CACHE_DIR": str(cache), "ENABLE_MMAP": False}
        try:
            known_path = known_file(cache, variant)
            if not known_path.exists():
                np.save(known_path, try_it(core.compile_model(model, config.device, options))[1])
            known = np.load(known_path, allow_pickle=False)
            request, answer = try_it(core.compile_model(model, config.device, options))
            fault = answer_fault(answer, known, tolerance(config))
            if fault is None:
                seal_cache(cache)
                return request, known
        except (RuntimeError, OSError, ValueError, DeviceError) as error:  # the disk or the device
            fault = short(error)
        logger.warning("compiling with the cache %s failed, compiling without it: %s", cache, fault)
        clear_cache(cache)
        return None


def _expand_weights(model: Any) -> None:
    """Converts half-precision weights to float once, at compile time. Bundles made since 2026-11-30 do not mark them.

    Otherwise the CPU plugin converts those of fully connected layers for every picture. On a CPU without half-precision
    arithmetic this takes 15 to 18 % of the time of a ViT-Ti (AVX2, OpenVINO 2026.4).
    """
    for node in model.get_ops():
        if node.get_type_name() == "Convert":
            marks = node.get_rt_info()
            for mark in [mark for mark in marks if mark.startswith("decompression")]:
                del marks[mark]


def short(error: Exception) -> str:
    """OpenVINO's text without its file names, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    useful = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(useful or [line for line in lines if line])[:300]
