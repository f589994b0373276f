"""The methods of `teach.py`: how each is taught good parts, and how it judges a picture afterwards.

All of this runs in child processes (`worker.py`), so a missing library or too little memory affects one row.

A stream has defective pictures among the good ones. zsad learns it by `learn_from_stream`, the others take all pictures
as good.

A bundle is taught once for all its levels. Level n uses the first n scales of its profile, or all
if there are fewer.

Anomalib's PatchCore and PaDiM run on EfficientNet-Lite0, the backbone of zsad-tiny, with the same weights, at 256 px
and with the mean and deviation that these weights expect. PatchCore takes strides 8 and 16 (its layers 2 and 3 of a
ResNet) and a coreset of 0.1; PaDiM strides 4, 8 and 16 (its layers 1 to 3) and 100 features, as for a ResNet-18. All
else is as Anomalib sets it. They are fitted by its `Engine`, exported in FP32 by its `to_openvino`, and run by its
`OpenVINOInferencer`. Scores and maps are the raw ones: its normalisation needs defective parts.
"""

import functools
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from speed_parts.contenders import ANOMALIB_SIDE, Contender, Predict, load, prepare_for_anomalib

from zsad_agent.system import status_mb
from zsad_core.bundle import load_bundle, parse_manifest, read_manifest
from zsad_core.memory import promise, to_unit
from zsad_core.picture import read_image, resize_to_input

PROFILE = "taught.profile"
THRESHOLD = 0.5  # of the score of every taught product, at the rate of its profile
BACKBONE = "tf_efficientnet_lite0"
LAYERS = {"Patchcore": ("blocks.2", "blocks.4"), "Padim": ("blocks.1", "blocks.2", "blocks.4")}
OPTIONS: dict[str, dict[str, Any]] = {"Patchcore": {"coreset_sampling_ratio": 0.1}, "Padim": {"n_features": 100}}


@dataclass(frozen=True, kw_only=True)
class Method:
    name: str
    kind: Literal["zero-shot", "taught", "anomalib"]
    what: str  # the bundle's path, or Anomalib's class
    level: int = 0  # of a taught bundle

    def as_json(self) -> str:
        return json.dumps(asdict(self))


ANOMALIB = (
    Method(name="Anomalib PatchCore", kind="anomalib", what="Patchcore"),
    Method(name="Anomalib PaDiM", kind="anomalib", what="Padim"),
)


def bundle_methods(path: Path) -> list[Method]:
    """The bundle without teaching, and at each level.

    Raises:
        BundleError: it cannot be read.
    """
    manifest = parse_manifest(read_manifest(path), str(path))
    what, levels = str(path.absolute()), range(1, len(manifest.features or ()) + 1)
    taught = [Method(name=f"{manifest.name} level {level}", kind="taught", what=what, level=level) for level in levels]
    return [Method(name=f"{manifest.name} zero-shot", kind="zero-shot", what=what), *taught]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What a method is taught, and how."""

    goods: Sequence[Path]
    stream: bool  # some of the goods are defective
    rates: Sequence[float]  # asked rates of false rejects
    seed: int
    threads: int
    weights: Path | None  # of EfficientNet-Lite0


def teach(method: Method, lesson: Lesson, folder: Path) -> dict[str, Any]:
    """Learns the goods, and writes what `load_taught` needs to `folder`, unless another level did.

    Networks are loaded before the time starts, and Anomalib's export is not part of it.

    Returns:
        teach_s, teach_cpu_s: seconds from files to a model in memory, and those of all cores.
        promises: of each asked rate; `promises_by_scores` instead if the scores of the goods give them.

    Raises:
        ZsadError: the product refuses these goods.
    """
    if method.kind == "zero-shot":
        return {"teach_s": None, "teach_cpu_s": None, "promises_by_scores": True}
    if method.kind == "taught":
        return _teach_bundle(method, lesson, folder)
    fit = _anomalib_fit(method.what, lesson, folder)
    clock = _Clock()
    model = fit()
    times = clock.read()
    # Batch size 1, as in `speed_parts.contenders`.
    model.to_openvino(folder, input_size=(ANOMALIB_SIDE, ANOMALIB_SIDE), onnx_kwargs={"dynamic_axes": {}})
    return times


class _Clock:
    """Measures time and CPU time of this process since it was made."""

    def __init__(self) -> None:
        self._started_s, self._cpu_started_s = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        took_s, cpu_s = time.perf_counter() - self._started_s, time.process_time() - self._cpu_started_s
        return {"teach_s": round(took_s, 3), "teach_cpu_s": round(cpu_s, 3)}


def load_taught(method: Method, folder: Path, threads: int) -> Predict:
    """Loads what `teach` made, for `threads` CPU threads, in float32."""
    if method.kind == "zero-shot":
        return load(Contender(name=method.name, kind="bundle", what=method.what), folder, threads)
    if method.kind == "taught":
        return _load_bundle(method, folder, threads)
    predict = load(Contender(name=method.name, kind="anomalib", what=method.what), folder, threads)

    def predict_flat(picture: np.ndarray) -> tuple[float, np.ndarray]:
        score, anomaly_map = predict(picture)
        return score, anomaly_map.reshape(anomaly_map.shape[-2:])

    return predict_flat


def _networks(path: str, threads: int) -> tuple[Any, Any, Any]:
    """(detector, feature networks, config) of a bundle, as the agent loads them."""
    from zsad_agent.config import InferenceConfig
    from zsad_agent.model import Detector, FeatureNetworks

    cv2.setNumThreads(1)
    bundle = load_bundle(Path(path))
    config = InferenceConfig(bundle=Path(path), threads=threads, cache_dir=Path("compiled"))
    detector = Detector(bundle, config)
    return detector, FeatureNetworks(bundle, config, detector), config


def _teach_bundle(method: Method, lesson: Lesson, folder: Path) -> dict[str, Any]:
    from zsad_agent.learning import learn_from_stream
    from zsad_agent.teaching import read_profile, teach, write_profile

    facts = folder / "facts.json"
    if not facts.exists():
        detector, networks, config = _networks(method.what, lesson.threads)
        clock = _Clock()
        pictures = [(str(path), functools.partial(read_image, path)) for path in lesson.goods]
        learn: Callable[..., Any] = learn_from_stream if lesson.stream else teach
        asked = {"product": config.product, "rate": min(lesson.rates), "seed": lesson.seed}
        taught = learn(pictures, networks=networks, detector=detector, **asked)
        times = clock.read()
        write_profile(taught.profile, folder / PROFILE)
        left_out = [f"{Path(one.name).name}: {one.reason}" for one in taught.left_out]
        noted = {"part": taught.profile.part.mode, "left_out": left_out}
        facts.write_text(json.dumps(times | {"teach_rss_mb": status_mb("VmHWM")} | noted))
    profile = read_profile(folder / PROFILE)
    level = min(method.level, len(profile.levels))
    return json.loads(facts.read_text()) | {"level": level, "promises": _promises(profile, level, lesson.rates)}


def _promises(profile: Any, level: int, rates: Sequence[float]) -> list[dict[str, float]]:
    """The promise of the rate that was asked; at the highest level, whose scores the profile keeps, of every rate."""
    own = profile.levels[level - 1]
    own_rates = {"promised": own.false_reject_rate, "promised_90": own.false_reject_rate_90}
    made = [{"asked": profile.asked_rate, "threshold": THRESHOLD} | own_rates]
    if level == len(profile.levels):
        for rate in sorted(set(rates) - {profile.asked_rate}):
            one = promise(profile.goods_scores, rate, apart=len(profile.apart))
            threshold = float(to_unit(one.threshold, own.scale))
            made.append({"asked": rate, "threshold": threshold, "promised": one.rate, "promised_90": one.rate_90})
    return made


def _load_bundle(method: Method, folder: Path, threads: int) -> Predict:
    from zsad_agent.system import give_back_memory
    from zsad_agent.teaching import TaughtPredictor, read_profile

    detector, networks, config = _networks(method.what, threads)
    profile = read_profile(folder / PROFILE)
    profile = replace(profile, levels=profile.levels[: method.level])
    predictor = TaughtPredictor(detector, networks, lambda product: profile, config)
    predictor.prepare(config.product)
    give_back_memory()

    def predict(picture: np.ndarray) -> tuple[float, np.ndarray]:
        prediction = predictor.predict(picture)
        return prediction.anomaly_score, prediction.anomaly_map

    return predict


def _anomalib_fit(class_name: str, lesson: Lesson, folder: Path) -> Callable[[], Any]:
    """A function that fits Anomalib's model to the goods, and returns it."""
    prepare_for_anomalib()
    import torch
    from anomalib import models
    from anomalib.data import Folder
    from anomalib.engine import Engine
    from anomalib.pre_processing import PreProcessor
    from lightning.pytorch import seed_everything
    from torchvision.transforms.v2 import Normalize

    torch.set_num_threads(lesson.threads)
    seed_everything(lesson.seed, verbose=False)
    backbone = _backbone(lesson.weights)
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

    def fit() -> Any:
        (folder / "good").mkdir(parents=True)
        for index, path in enumerate(lesson.goods):  # resized as for inference, so that both see the same pixels
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


def _backbone(weights: Path | None) -> Any:
    import timm

    from zsad_core.weights import load_weights

    model = timm.create_model(BACKBONE, num_classes=0)
    load_weights(model, BACKBONE, weights=weights, pretrained=False)
    return model.eval()
