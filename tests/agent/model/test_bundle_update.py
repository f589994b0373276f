import gc
import os
import re
import weakref
from pathlib import Path

import numpy as np
import pytest
from bundle_attacks import (
    change_manifest,
    copy_bundle,
    make_key,
    sign_folder,
    with_products,
    write_public_key,
    zip_folder,
)
from tiny_bundle_maker import make_tiny_bundle

from zsad_agent.config import InferenceConfig
from zsad_agent.model import (
    BundleStore,
    BundleUpdater,
    CameraInUse,
    Detector,
    Model,
    ModelInUse,
    find_bundle,
)
from zsad_core.bundle import MODEL_XML, Bundle, load_bundle
from zsad_core.errors import BundleError, DeviceError, ZsadError
from zsad_core.part import PartError
from zsad_core.types import Prediction

WHITE = np.full((64, 64, 3), 255, np.uint8)
BLACK = np.zeros((64, 64, 3), np.uint8)


class FakeDetector:
    """Gives a fixed score or raises an error; each answer advances the clock by a fixed time."""

    def __init__(self, line: "Line", *, score: float = 0.1, seconds: float = 0.01, error: Exception | None = None):
        self.line, self.score, self.seconds, self.error = line, score, seconds, error
        self.asked: list[tuple[int, str | None]] = []  # (first value of the picture, product)

    def prepare(self, product: str) -> None:
        pass

    def is_taught(self, product: str) -> bool:
        return False

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        assert self.line.models.model_lock.locked()
        self.asked.append((int(image_bgr.flat[0]), product))
        self.line.now_s += self.seconds
        if self.error is not None:
            raise self.error
        return Prediction(anomaly_map=np.full((4, 4), self.score, np.float32), anomaly_score=self.score)


class Line:
    """A device that runs the bundle v0, with v1 and v2 in its bundle_dir."""

    def __init__(self, tiny_bundle: Path, folder: Path) -> None:
        self.bundle_dir = folder / "incoming"
        self.config = InferenceConfig(bundle=change_manifest(copy_bundle(tiny_bundle, folder / "v0"), version="0"))
        for number in (1, 2):
            change_manifest(copy_bundle(tiny_bundle, self.bundle_dir / f"v{number}"), version=f"{number}")
        self.now_s = 0.0
        self.cameras = [CameraInUse(name="cam0", product="object", images_bgr=[WHITE, BLACK])]
        self.passed: list[object] = []  # predictors
        self.new: dict[str, object] = {}  # settings of the new FakeDetector, or the error of compiling
        self.old = FakeDetector(self)
        self.folder = folder / "bundles"
        self.renew()

    @property
    def store(self) -> BundleStore:
        return BundleStore(self.folder, self.config)

    def renew(self) -> None:
        """Makes a new updater with the config's bundle."""
        self.models = ModelInUse(Model(bundle=load_bundle(self.config.bundle), predictor=self.old))
        self.updater = BundleUpdater(
            store=self.store,
            models=self.models,
            compile_bundle=self.compile,
            cameras=lambda: self.cameras,
            on_passed=self.passed.append,
            clock=lambda: self.now_s,
        )

    def update(self, name: str) -> None:
        self.updater.update(find_bundle(self.bundle_dir, name))

    def compile(self, bundle: Bundle) -> FakeDetector:
        if "raises" in self.new:
            raise self.new["raises"]
        return FakeDetector(self, **self.new)

    def frames(self, count: int, ok: bool = True) -> None:
        for _ in range(count):
            self.models.on_answer(self.models.current.bundle.sha256, ok, None if ok else "inference failed")

    def after_restart(self) -> str:
        return self.store.start(lambda bundle: bundle).bundle.manifest.version

    def inspects(self) -> str:
        return self.models.current.bundle.manifest.version


@pytest.fixture
def line(tiny_bundle: Path, tmp_path: Path) -> Line:
    return Line(tiny_bundle, tmp_path)


def refused(line: Line, name: str) -> str:
    """The reason of a refused update, which must change nothing."""
    before = line.models.current, line.after_restart()
    with pytest.raises(ZsadError) as caught:
        line.update(name)
    assert (line.models.current, line.after_restart()) == before
    assert not line.updater.on_probation
    assert not line.folder.exists() or not [path for path in line.folder.iterdir() if path.is_dir()]
    return str(caught.value)


def test_good_bundle_passes_its_probation_and_is_kept(line: Line) -> None:
    line.update("v1")
    assert (line.inspects(), line.updater.on_probation) == ("1", True)
    assert line.models.current.bundle.path.parent == line.folder
    assert line.after_restart() == "0"  # after a crash on probation the old bundle runs
    line.frames(19)
    assert line.updater.settle() is None
    line.frames(1)
    confirmed = line.updater.settle()
    assert confirmed is not None and confirmed.passed
    assert line.passed == [line.models.current.predictor]
    assert line.updater.settle() is None
    assert line.after_restart() == "1"


def test_both_models_try_every_frame_with_its_camera_s_product(line: Line) -> None:
    line.cameras.append(CameraInUse(name="cam1", product="bottle", images_bgr=[WHITE]))
    line.update("v1")
    assert line.updater.on_probation
    expected = [(255, "object"), (0, "object"), (255, "bottle")]
    assert line.models.current.predictor.asked == expected
    assert line.old.asked == expected


def test_bundle_without_a_product_in_use_is_refused_before_compiling(line: Line) -> None:
    with_products(line.bundle_dir / "v1", "object")
    line.cameras.append(CameraInUse(name="cam1", product="bottle", images_bgr=[]))
    line.new = {"raises": AssertionError("compiled")}
    assert "camera cam1: product 'bottle' is not in the bundle" in refused(line, "v1")


def test_a_product_that_no_bundle_has_does_not_stop_an_update(line: Line) -> None:
    line.cameras.append(CameraInUse(name="cam1", product="gearbox", images_bgr=[WHITE]))
    line.update("v1")
    assert line.updater.on_probation


def test_bundle_is_refused_without_any_stored_frame(line: Line) -> None:
    line.cameras = [CameraInUse(name="cam0", product="object", images_bgr=[])]
    assert "no camera has had a good picture yet" in refused(line, "v1")


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"error": DeviceError("the model answered no valid anomaly_map")}, "no answer to a stored picture of cam0"),
        ({"error": RuntimeError("engine\nfire")}, "RuntimeError: engine\nfire"),
        ({"seconds": 0.031}, "takes 31.0 ms for a picture, "),
        ({"raises": DeviceError("cannot run the model")}, "cannot run the model"),
        ({"raises": MemoryError()}, "MemoryError"),
    ],
)
def test_a_bundle_that_fails_the_trial_is_refused(line: Line, new: dict[str, object], said: str) -> None:
    line.new = new
    assert said in refused(line, "v1")
    line.new = {"seconds": 0.029}
    line.update("v1")
    assert line.updater.on_probation


def test_bundle_may_replace_one_that_gives_no_answer(line: Line) -> None:
    line.old.error = DeviceError("the model's answer to the test picture differs by 0.8")
    line.old.seconds = 0.0
    line.update("v1")
    assert line.inspects() == "1"


def test_picture_that_shows_no_part_does_not_count_in_the_trial(line: Line) -> None:
    class NeedsPart(FakeDetector):
        def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
            if not image_bgr.any():
                raise PartError("no part")
            return super().predict(image_bgr, product)

    line.old = NeedsPart(line)
    line.compile = lambda bundle: NeedsPart(line)  # type: ignore[method-assign]
    line.renew()
    line.cameras = [CameraInUse(name="cam0", product="object", images_bgr=[BLACK])]
    assert "no camera's last pictures show a part" in refused(line, "v1")
    line.cameras = [CameraInUse(name="cam0", product="object", images_bgr=[BLACK, WHITE])]
    line.update("v1")
    assert line.inspects() == "1"


def test_picture_that_the_new_bundle_alone_cannot_score_refuses_it(line: Line) -> None:
    line.new = {"error": PartError("another part")}
    assert "no answer to a stored picture of cam0: another part" in refused(line, "v1")


def test_fast_model_may_be_a_few_milliseconds_slower(line: Line) -> None:
    line.old.seconds = 0.0005
    line.new = {"seconds": 0.005}
    line.update("v1")
    assert line.updater.on_probation


def test_old_bundle_that_fails_can_be_replaced(line: Line) -> None:
    line.old.error = DeviceError("nan")
    line.update("v1")
    assert line.updater.on_probation


def test_three_failures_on_probation_roll_back(line: Line) -> None:
    line.update("v1")
    line.frames(5)
    line.frames(2, ok=False)
    assert line.inspects() == "1"
    line.frames(1, ok=False)
    assert line.inspects() == "0"
    assert line.models.current.predictor is line.old
    outcome = line.updater.settle()
    assert outcome is not None and not outcome.passed and line.passed == []
    assert "gave no answer to 3 of its first 8 pictures (inference failed)" in outcome.text
    assert line.updater.settle() is None
    assert line.after_restart() == "0"
    assert [path for path in line.folder.iterdir() if path.is_dir()] == []
    line.update("v2")
    assert line.updater.on_probation


def test_the_third_failure_on_the_last_frame_of_the_probation_counts(line: Line) -> None:
    line.update("v1")
    line.frames(2, ok=False)
    line.frames(17)
    line.frames(1, ok=False)
    assert line.inspects() == "0"


def test_frames_of_the_old_bundle_and_after_the_probation_do_not_count(line: Line) -> None:
    old = line.models.current.bundle.sha256
    line.update("v1")
    for _ in range(30):
        line.models.on_answer(old, False, "on its way when the bundle was switched")
    assert (line.inspects(), line.updater.settle()) == ("1", None)
    line.frames(20)
    line.frames(10, ok=False)
    assert line.inspects() == "1"
    assert line.updater.settle().passed  # type: ignore[union-attr]
    line.frames(10, ok=False)
    assert (line.inspects(), line.updater.settle()) == ("1", None)


def test_no_update_during_a_probation(line: Line) -> None:
    line.update("v1")
    with pytest.raises(BundleError, match="still on probation"):
        line.update("v2")
    assert line.inspects() == "1"
    line.frames(20)
    line.updater.settle()
    assert line.after_restart() == "1"


def test_current_bundle_is_only_selected(line: Line) -> None:
    copy_bundle(line.config.bundle, line.bundle_dir / "same")
    before = line.models.current
    line.update("same")
    assert line.models.current is before and not line.updater.on_probation
    assert line.after_restart() == "0"


def test_updates_in_a_row_keep_the_last_good_one(line: Line) -> None:
    for name in ("v1", "v2"):
        line.update(name)
        line.frames(20)
        line.updater.settle()
    newest = load_bundle(line.bundle_dir / "v2").sha256
    (line.folder / newest / MODEL_XML).unlink()
    assert line.after_restart() == "1"


def test_bundle_whose_selection_cannot_be_written_inspects_and_reports_it(line: Line) -> None:
    line.update("v1")
    line.frames(20)
    (line.folder / "selected.json").mkdir()
    outcome = line.updater.settle()
    assert outcome is not None and outcome.passed
    assert "the next start will run bundle darkness 0" in outcome.text
    assert line.inspects() == "1"


def test_old_model_is_in_memory_only_during_the_probation(line: Line) -> None:
    line.update("v1")
    first = weakref.ref(line.models.current.predictor)
    line.frames(3, ok=False)
    line.updater.settle()
    gc.collect()
    assert first() is None  # rolled back
    line.new = {"error": DeviceError("nan")}
    refused(line, "v1")
    old = weakref.ref(line.old)
    line.old = FakeDetector(line)
    line.new = {}
    line.update("v2")
    gc.collect()
    assert old() is not None
    line.frames(20)
    line.updater.settle()
    gc.collect()
    assert old() is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../v0",
        "v1/../../v0",
        "/etc",
        "//etc",
        "v1\\..\\..\\v0",
        "v1\0",
        "v1\n",
        "x" * 300,
        "x" * 256,
        "link-out",
        "link-out/v0",
        "circle",
        "nothing",
        "~",
        "file:///etc",
    ],
)
def test_name_outside_the_folder_or_without_a_bundle_is_refused(line: Line, name: str) -> None:
    (line.bundle_dir / "link-out").symlink_to(line.bundle_dir.parent)
    (line.bundle_dir / "circle").symlink_to("circle")
    assert "control.bundle_dir" in refused(line, name)


def test_names_inside_the_folder_are_found(line: Line, tmp_path: Path) -> None:
    zip_folder(line.bundle_dir / "v1", line.bundle_dir / "v1.zip")
    (line.bundle_dir / "newest").symlink_to("v1")
    (tmp_path / "dir").symlink_to(line.bundle_dir)
    for name in ("v1", "v1.zip", "newest", "./v1", "v1/"):
        assert load_bundle(find_bundle(tmp_path / "dir", name)).manifest.version == "1"


def test_without_a_folder_every_update_is_refused() -> None:
    with pytest.raises(BundleError, match=r"control\.bundle_dir is not set"):
        find_bundle(None, "v1")


def test_with_keys_only_a_signed_bundle_is_switched_to(line: Line, tmp_path: Path) -> None:
    key = make_key(1)
    keys = (write_public_key(tmp_path / "line.pub", key),)
    sign_folder(line.config.bundle, key)
    line.config = line.config.model_copy(update={"trusted_keys": keys})
    line.renew()
    assert "not signed" in refused(line, "v1")
    sign_folder(line.bundle_dir / "v1", key)
    line.update("v1")
    assert line.updater.on_probation


def test_a_pipe_in_the_folder_is_refused_without_waiting(line: Line) -> None:
    os.mkfifo(line.bundle_dir / "pipe")
    assert "no such bundle" in refused(line, "pipe")


class RealLine(Line):
    """The same with compiled models."""

    def __init__(self, tiny_bundle: Path, folder: Path) -> None:
        super().__init__(tiny_bundle, folder)
        self.config = self.config.model_copy(update={"cache_dir": folder / "cache", "threads": 1})
        self.old = Detector(load_bundle(self.config.bundle), self.config)  # type: ignore[assignment]
        self.renew()

    def compile(self, bundle: Bundle) -> Detector:  # type: ignore[override]
        return Detector(bundle, self.config)

    def update_to(self, **model: object) -> None:
        make_tiny_bundle(self.bundle_dir / "made", **model)  # type: ignore[arg-type]
        self.update("made")


def test_compiled_models_are_tried_switched_and_rolled_back(tiny_bundle: Path, tmp_path: Path) -> None:
    line = RealLine(tiny_bundle, tmp_path)
    for model, said in (
        ({"output_scale": float("nan")}, "no valid anomaly_map"),
        ({"nan_on_black": True}, "no answer to a stored picture of cam0"),
        ({"map_name": "heat"}, "does not match the manifest"),
    ):
        with pytest.raises(ZsadError, match=re.escape(said)):
            line.update_to(**model)
    line.cameras = [CameraInUse(name="cam0", product="bottle", images_bgr=[WHITE])]
    line.update_to(nan_on_black=True)  # no black frame was there to try
    new = line.models.current
    for _ in range(3):
        with pytest.raises(DeviceError) as caught:
            new.predictor.predict(BLACK, "bottle")
        line.models.on_answer(new.bundle.sha256, False, str(caught.value))
    assert line.models.current.predictor is line.old
    assert line.old.predict(BLACK, "bottle").anomaly_score == pytest.approx(0.8, abs=1e-3)
    outcome = line.updater.settle()
    assert outcome is not None and not outcome.passed
    line.update("v1")
    assert line.updater.on_probation
    line.frames(20)
    line.updater.settle()
    assert line.after_restart() == "1"


def test_bundle_before_is_known_and_a_probation_can_be_ended(line: Line) -> None:
    assert line.store.previous is None
    for name in ("v1", "v2"):
        line.update(name)
        line.frames(20)
        assert line.updater.settle() is not None
    assert line.store.previous == line.folder / load_bundle(line.bundle_dir / "v1").sha256
    line.updater.update(line.store.previous)
    assert line.inspects() == "1"
    line.updater.revert()
    assert (line.inspects(), line.updater.on_probation) == ("2", False)
    ended = line.updater.settle()
    assert ended is not None and not ended.passed and "was ended by a command: bundle darkness 2" in ended.text
    line.updater.revert()  # without a probation: nothing
    assert line.updater.settle() is None and line.after_restart() == "2"
