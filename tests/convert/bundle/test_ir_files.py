"""Which constants of an IR are stored in half precision."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

ov = pytest.importorskip("openvino")

from openvino import opset13

from zsad_convert.bundle import serialise

SIDE = 100  # SIDE * SIDE numbers are no small constant


def model_of(weights: np.ndarray, offset: np.ndarray):
    picture = opset13.parameter([1, SIDE], np.float32)
    product = opset13.matmul(picture, opset13.constant(weights), False, False)
    return ov.Model([opset13.add(product, opset13.constant(offset))], [picture], "plain")


def stored(ir: tuple[bytes, bytes]) -> list[tuple[str, str]]:
    """(element type, shape) of each constant."""
    data = [layer.find("data") for layer in ElementTree.fromstring(ir[0]).iter("layer") if layer.get("type") == "Const"]
    return sorted((one.get("element_type"), one.get("shape")) for one in data)


def answer(ir: tuple[bytes, bytes], folder: Path) -> np.ndarray:
    xml = folder / "model.xml"
    xml.write_bytes(ir[0])
    xml.with_suffix(".bin").write_bytes(ir[1])
    picture = np.linspace(-1, 1, SIDE, dtype=np.float32)[None]
    return ov.Core().compile_model(xml, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(picture)[0]


def test_large_constants_are_halved_and_small_ones_keep_their_digits(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    model = model_of(weights, np.full((1, SIDE), 1.0001, np.float32))
    whole, half = serialise(model, "fp32"), serialise(model, "fp16")
    assert stored(whole) == [("f32", "1, 100"), ("f32", "100, 100")]
    assert stored(half) == [("f16", "100, 100"), ("f32", "1, 100")]
    assert len(half[1]) < 0.6 * len(whole[1])
    assert stored(serialise(model, "fp32")) == stored(whole)  # the model itself has not changed
    np.testing.assert_allclose(answer(half, tmp_path), answer(whole, tmp_path), atol=0.005)
    assert serialise(model, "fp16") == half


def test_a_value_beyond_half_precision_stays(tmp_path: Path) -> None:
    weights = np.zeros((SIDE, SIDE), np.float32)
    weights[50] = 1e6
    ir = serialise(model_of(weights, np.zeros((1, SIDE), np.float32)), "fp16")
    assert stored(ir) == [("f32", "1, 100"), ("f32", "100, 100")]
    assert np.isfinite(answer(ir, tmp_path)).all()
