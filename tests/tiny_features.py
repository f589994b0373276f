"""Adds a feature network of a few OpenVINO operations to a bundle: each cell's mean colour, as a unit vector."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np

from zsad_convert.bundle import manifest_bytes
from zsad_convert.features.shared_constants import SharedConstants
from zsad_core.bundle import MANIFEST, MODEL_BIN, MODEL_XML, FeatureScale, parse_manifest
from zsad_core.openvino_offline import import_openvino

FILE = "features-colour.xml"
SIDE, CELLS = 64, 4
SCALES = tuple(
    FeatureScale(
        name=f"colour-{name}",
        file=FILE,
        input_hw=(SIDE, SIDE),
        grid_hw=(CELLS, CELLS),
        width=3,
        tiles=tiles,  # type: ignore[arg-type]
        memory=100,
    )
    for name, tiles in (("whole", 1), ("tiles", 2))
)


def add_tiny_features(folder: Path, *, length: float = 1.0, nan_on_black: bool = False) -> Path:
    """Changes the bundle in `folder` and returns it.

    Args:
        folder: from `make_tiny_bundle`.
        length: of the vectors.
        nan_on_black: a black cell has no direction; otherwise its vector is grey.
    """
    ops = import_openvino().opset13
    image = ops.parameter([1, SIDE, SIDE, 3], np.uint8, name="image")
    planes = ops.transpose(ops.convert(image, "f32"), np.array([0, 3, 1, 2]))
    cell = [SIDE // CELLS] * 2
    cells = ops.avg_pool(planes, cell, [0, 0], [0, 0], cell, exclude_pad=True)
    cells = ops.add(cells, np.float32(0 if nan_on_black else 1))
    flat = ops.transpose(ops.reshape(cells, np.array([1, 3, CELLS**2]), False), np.array([0, 2, 1]))
    norms = ops.sqrt(ops.reduce_sum(ops.multiply(flat, flat), np.array([2]), keep_dims=True))
    tokens = ops.multiply(ops.divide(flat, norms), np.float32(length))
    image.output(0).set_names({"image"})
    tokens.output(0).set_names({"tokens"})
    shared = SharedConstants(((folder / MODEL_XML).read_bytes(), (folder / MODEL_BIN).read_bytes()))
    with tempfile.TemporaryDirectory() as made:
        xml = Path(made) / FILE
        ov = import_openvino()
        ov.save_model(ov.Model([tokens], [image], "colour"), xml, compress_to_fp16=False)
        (folder / FILE).write_bytes(shared.add((xml.read_bytes(), xml.with_suffix(".bin").read_bytes())))
    (folder / MODEL_BIN).write_bytes(shared.content)
    old = parse_manifest((folder / MANIFEST).read_bytes(), str(folder))
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (*old.files, FILE)}
    (folder / MANIFEST).write_bytes(manifest_bytes(old.model_copy(update={"files": files, "features": SCALES})))
    return folder
