"""The methods of `teach.py`: how each is taught good parts, and how it judges a picture afterwards.

All of this runs in child processes (`teach_worker.py`), so a missing library or too little memory affects one row.

Anomalib's PatchCore and PaDiM run on EfficientNet-Lite0, the backbone of zsad-tiny, with the same weights, at 256 px
and with the mean and deviation that these weights expect. PatchCore takes strides 8 and 16 (its layers 2 and 3 of a
ResNet) and a coreset of 0.1; PaDiM strides 4, 8 and 16 (its layers 1 to 3) and 100 features, as for a ResNet-18. All
else is as Anomalib sets it. They are fitted by its `Engine`, exported in FP32 by its `to_openvino`, and run by its
`OpenVINOInferencer`. Scores and maps are the raw ones: its normalisation needs defective parts.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from speed_contenders import ANOMALIB_SIDE, Contender, Predict, load, prepare_for_anomalib

BACKBONE = "tf_efficientnet_lite0"
LAYERS = {"Patchcore": ("blocks.2", "blocks.4"), "Padim": ("blocks.1", "blocks.2", "blocks.4")}
OPTIONS: dict[str, dict[str, Any]] = {"Patchcore": {"coreset_sampling_ratio": 0.1}, "Padim": {"n_features": 100}}


@dataclass(frozen=True, kw_only=True)
class Method:
    name: str
    kind: Literal["zero-shot", "anomalib"]
    what: str  # the bundle's path, or Anomalib's class

    def as_json(self) -> str:
        return json.dumps(asdict(self))


ANOMALIB = (
    Method(name="Anomalib PatchCore", kind="anomalib", what="Patchcore"),
    Method(name="Anomalib PaDiM", kind="anomalib", what="Padim"),
)


def teach(method: Method, goods: Sequence[Path], folder: Path, *, seed: int, weights: Path | None) -> dict[str, Any]:
    """Learns the goods, and writes what `load_taught` needs to `folder`. Returns the seconds from files to a model.

    Libraries are imported and the network is built before the time starts; the export is not part of it.
    """
    if method.kind == "zero-shot":
        return {"teach_s": None, "promises_by_scores": True}
    assert weights is not None
    fit = _anomalib_fit(method.what, weights, folder, seed)
    started_s = time.perf_counter()
    model = fit(goods)
    teach_s = time.perf_counter() - started_s
    # Batch size 1, as in `speed_contenders`.
    model.to_openvino(folder, input_size=(ANOMALIB_SIDE, ANOMALIB_SIDE), onnx_kwargs={"dynamic_axes": {}})
    return {"teach_s": round(teach_s, 3)}


def load_taught(method: Method, folder: Path, threads: int) -> Predict:
    """Loads what `teach` made, for `threads` CPU threads, in float32."""
    if method.kind == "zero-shot":
        return load(Contender(name=method.name, kind="bundle", what=method.what), folder, threads)
    predict = load(Contender(name=method.name, kind="anomalib", what=method.what), folder, threads)

    def predict_flat(picture: np.ndarray) -> tuple[float, np.ndarray]:
        score, anomaly_map = predict(picture)
        return score, anomaly_map.reshape(anomaly_map.shape[-2:])

    return predict_flat


def _anomalib_fit(class_name: str, weights: Path, folder: Path, seed: int) -> Callable[[Sequence[Path]], Any]:
    """A function that fits Anomalib's model to pictures, and returns it."""
    prepare_for_anomalib()
    from anomalib import models
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import seed_everything
    from torchvision.transforms.v2 import Normalize

    from zsad_core.picture import read_image, resize_to_input

    seed_everything(seed, verbose=False)
    backbone = _backbone(weights)
    normalise = Normalize(backbone.pretrained_cfg["mean"], backbone.pretrained_cfg["std"])
    model = getattr(models, class_name)(
        backbone=BACKBONE,
        layers=list(LAYERS[class_name]),
        pre_trained=False,
        pre_processor=PreProcessor(transform=normalise),
        **OPTIONS[class_name],
        **dict.fromkeys(("post_processor", "evaluator", "visualizer"), False),
    )
    extractor, state = model.model.feature_extractor.feature_extractor, backbone.state_dict()
    extractor.load_state_dict({key: state[key] for key in extractor.state_dict()})

    def fit(goods: Sequence[Path]) -> Any:
        (folder / "good").mkdir(parents=True)
        for index, path in enumerate(goods):  # resized as for inference, so that both see the same pixels
            small = resize_to_input(read_image(path), (ANOMALIB_SIDE, ANOMALIB_SIDE))
            cv2.imwrite(str(folder / "good" / f"{index}.png"), small)
        none = {"test_split_mode": "none", "val_split_mode": "none"}
        data = Folder(name="goods", root=folder, normal_dir="good", num_workers=0, **none)
        data.setup()
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        engine = Engine(accelerator="cpu", default_root_dir=folder / "run", **quiet)
        engine.fit(model, train_dataloaders=data.train_dataloader())  # as a whole, it would ask for validation pictures
        return model

    return fit


def _backbone(weights: Path) -> Any:
    import timm

    from zsad_core.weights import load_weights

    model = timm.create_model(BACKBONE, num_classes=0)
    load_weights(model, BACKBONE, weights=weights, pretrained=False)
    return model.eval()
