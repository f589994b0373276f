"""A compiled model whose file or memory changes while it is in use."""

import ctypes
import dataclasses
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from mqtt_listener import wait_until
from tiny_bundle_maker import make_tiny_bundle
from weight_flipper import flip_weights

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector, Model, ModelGuard, ModelInUse, load_again
from zsad_agent.model.compiled_cache import seal_cache
from zsad_agent.model.self_test import MIXED_TOLERANCE, TOLERANCE, answer_fault, drawn_picture
from zsad_core.bundle import Bundle, load_bundle
from zsad_core.errors import BundleError, DeviceError
from zsad_core.types import Prediction

TESTS = Path(__file__).parents[2]
SHIPPED = TESTS.parent / "agent" / "bundles"

CHANGED_IN_MEMORY = """
import sys
from pathlib import Path
import numpy as np
from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector
from zsad_core.bundle import load_bundle
from zsad_core.errors import DeviceError

bundle = load_bundle(Path(sys.argv[1]))
detector = Detector(bundle, InferenceConfig(cache_dir=Path(sys.argv[2]), threads=1))
detector.self_test()
print("ready", flush=True)
sys.stdin.readline()
for ask in (detector.self_test, lambda: detector.predict(np.zeros((64, 64, 3), np.uint8)), detector.self_test):
    try:
        ask()
    except DeviceError as error:
        print(error)
"""

CHANGE_THE_FILE = """
import os, sys
from pathlib import Path
import cv2
from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector
from zsad_core.bundle import load_bundle

detector = Detector(load_bundle(Path(sys.argv[1])), InferenceConfig(cache_dir=Path(sys.argv[2]), threads=1))
pictures = [cv2.imread(str(path)) for path in sorted(Path(sys.argv[3]).glob("*.jpg"))[:4]]
before = [detector.predict(picture).anomaly_score for picture in pictures]
(blob,) = Path(sys.argv[2]).rglob("*.blob")
size = blob.stat().st_size
with blob.open("r+b") as file:
    file.seek(size // 4)
    file.write(bytes(size // 2))
assert [detector.predict(picture).anomaly_score for picture in pictures] == before
os.truncate(blob, 4096)
assert [detector.predict(picture).anomaly_score for picture in pictures] == before
detector.self_test()
print("the same")
"""


@pytest.fixture
def config(tmp_path: Path) -> InferenceConfig:
    return InferenceConfig(cache_dir=tmp_path / "cache", threads=1)


def run_apart(script: str, *arguments: Path) -> str:
    """Runs in its own process, because the fault may end it."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_cache_file_that_is_changed_and_cut_in_use_changes_no_answer(tmp_path: Path) -> None:
    Detector(load_bundle(SHIPPED / "zsad-tiny"), InferenceConfig(cache_dir=tmp_path / "cache", threads=1))
    said = run_apart(CHANGE_THE_FILE, SHIPPED / "zsad-tiny", tmp_path / "cache", TESTS.parent / "demo" / "stream")
    assert said == "the same\n"


@pytest.mark.skipif(sys.platform != "linux", reason="writes /proc/PID/mem")
def test_weights_that_change_in_memory_fail_the_self_test_and_end_all_predictions(tmp_path: Path) -> None:
    """The other process waits meanwhile: else it would use freed blocks for something else, and crash."""
    command = [sys.executable, "-c", CHANGED_IN_MEMORY, str(SHIPPED / "zsad-tiny"), str(tmp_path / "cache")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert flip_weights(process.pid, load_bundle(SHIPPED / "zsad-tiny").model_bin) > 20
        lines = process.communicate("\n", timeout=180)[0].splitlines()
    assert process.returncode == 0
    assert len(lines) == 3 and len(set(lines)) == 1
    assert lines[0].startswith("the model") and "the test picture" in lines[0]


def test_a_zeroed_block_of_weights_anywhere_changes_the_answer_to_the_test_picture(tmp_path: Path) -> None:
    whole = load_bundle(SHIPPED / "zsad-small")
    random = np.random.default_rng(5)
    good = Detector(whole, InferenceConfig(cache_dir=tmp_path / "good", threads=1))
    own_bytes = max(int(offset) for offset in re.findall(rb'offset="([0-9]+)"', whole.model_xml))  # features follow
    for position in random.integers(0, own_bytes - 8192, 4):
        weights = bytearray(whole.model_bin)
        weights[position : position + 8192] = bytes(8192)
        changed = dataclasses.replace(whole, model_bin=bytes(weights))
        detector = Detector(changed, InferenceConfig(cache_dir=tmp_path / f"cache-{position}", threads=1))
        assert answer_fault(detector._known, good._known, TOLERANCE) is not None


@pytest.mark.parametrize("name", ["zsad-tiny", "zsad-small"])
def test_known_answer_is_exact_when_compiled_cached_or_with_more_threads(tmp_path: Path, name: str) -> None:
    bundle = load_bundle(SHIPPED / name)
    detectors = [
        Detector(bundle, InferenceConfig(cache_dir=tmp_path / folder, threads=threads))
        for folder, threads in (("a", 1), ("a", 1), ("b", 2))
    ]
    for detector in detectors:
        detector.self_test()
        assert answer_fault(detector._known, detectors[0]._known, 1e-6) is None


@pytest.mark.parametrize("name", ["zsad-tiny", "zsad-small"])
def test_answers_of_another_precision_stay_far_below_the_tolerance(tmp_path: Path, name: str) -> None:
    """On a CPU without half precision both are the same."""
    bundle = load_bundle(SHIPPED / name)
    single, half = (
        Detector(bundle, InferenceConfig(cache_dir=tmp_path / precision, precision=precision, threads=1))
        for precision in ("f32", "auto")
    )
    assert answer_fault(half._known, single._known, MIXED_TOLERANCE / 3) is None


def test_self_test_leaves_the_product_as_it_was(tmp_path: Path, tiny_bundle: Path) -> None:
    detector = Detector(load_bundle(tiny_bundle), InferenceConfig(cache_dir=tmp_path, threads=1, product="object"))
    black = np.zeros((64, 64, 3), np.uint8)
    before = detector.predict(black).anomaly_score
    detector.self_test()
    assert detector.predict(black).anomaly_score == before


def test_cached_model_with_another_answer_is_compiled_again(
    tmp_path: Path, tiny_bundle: Path, config: InferenceConfig, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, black = load_bundle(tiny_bundle), np.zeros((64, 64, 3), np.uint8)
    other = load_bundle(make_tiny_bundle(tmp_path / "other", output_scale=0.5))
    Detector(bundle, config)
    Detector(other, InferenceConfig(cache_dir=tmp_path / "elsewhere", threads=1))
    (blob,), (wrong,) = config.cache_dir.rglob("*.blob"), (tmp_path / "elsewhere").rglob("*.blob")
    shutil.copyfile(wrong, blob)
    seal_cache(blob.parent)
    assert Detector(bundle, config).predict(black).anomaly_score == pytest.approx(1.0, abs=1e-6)
    assert "the model's answer to the test picture differs by" in caplog.text
    assert not list(config.cache_dir.rglob("*.blob"))  # the next start compiles it again
    assert Detector(bundle, config).predict(black).anomaly_score == pytest.approx(1.0, abs=1e-6)
    assert len(list(config.cache_dir.rglob("*.blob"))) == 1


def test_cache_without_a_known_answer_is_compiled_again(tiny_bundle: Path, config: InferenceConfig) -> None:
    Detector(load_bundle(tiny_bundle), config)
    (blob,) = config.cache_dir.rglob("*.blob")
    written = blob.stat().st_mtime_ns
    for file in (*blob.parent.glob("*.npy"), blob.with_name("seal.json")):
        file.unlink()
    seal_cache(blob.parent)
    Detector(load_bundle(tiny_bundle), config)
    assert blob.stat().st_mtime_ns > written and list(blob.parent.glob("answer-*.npy"))


def test_each_model_of_a_bundle_has_its_own_known_answer(
    tmp_path: Path, config: InferenceConfig, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = load_bundle(make_tiny_bundle(tmp_path / "two", int8_scale=0.5))
    for model, score in [("fp", 1.0), ("int8", 0.5)] * 2:
        detector = Detector(bundle, config.model_copy(update={"model": model}))
        assert detector.predict(np.zeros((64, 64, 3), np.uint8)).anomaly_score == pytest.approx(score, abs=1e-6)
        detector.self_test()
    assert len(list(config.cache_dir.rglob("*.blob"))) == len(list(config.cache_dir.rglob("answer-*.npy"))) == 2
    assert "failed" not in caplog.text


def test_prompts_that_change_in_memory_fail_the_self_test(tiny_bundle: Path, config: InferenceConfig) -> None:
    bundle = load_bundle(tiny_bundle)
    detector = Detector(bundle, config)
    prompt = bundle.prompt("object")
    assert prompt is not None
    ctypes.c_uint32.from_address(prompt.ctypes.data).value ^= 1 << 22
    with pytest.raises(DeviceError, match="prompts of the bundle have changed"):
        detector.self_test()


def test_bundle_is_opened_again_only_if_it_is_the_same(tmp_path: Path, config: InferenceConfig) -> None:
    bundle = load_bundle(make_tiny_bundle(tmp_path / "bundle"))
    detector = load_again(bundle.without_model(), config, lambda found: Detector(found, config))
    assert detector.predict(np.zeros((64, 64, 3), np.uint8)).anomaly_score == pytest.approx(1.0, abs=1e-6)
    make_tiny_bundle(tmp_path / "bundle", output_scale=0.5)
    with pytest.raises(BundleError, match=r"holds another bundle now, .*Restart the agent"):
        load_again(bundle, config, lambda found: Detector(found, config))


@pytest.mark.parametrize("found", [[0.1, 0.2, 0.3 + 2 * TOLERANCE], [0.1, np.nan, 0.3], [0.1, 0.2]])
def test_answer_that_differs_anywhere_or_is_no_number_is_a_fault(found: list[float]) -> None:
    known = np.float32([0.1, 0.2, 0.3])
    assert answer_fault(known, known, TOLERANCE) is None
    assert answer_fault(known + np.float32(TOLERANCE / 2), known, TOLERANCE) is None
    assert answer_fault(np.float32(found), known, TOLERANCE) is not None


def test_test_picture_is_the_same_every_time_and_has_the_size_of_the_input() -> None:
    picture = drawn_picture((48, 96))
    assert picture.shape == (48, 96, 3) and picture.dtype == np.uint8 and picture.std() > 30
    drawn_picture.cache_clear()
    assert np.array_equal(drawn_picture((48, 96)), picture)


class FakePredictor:
    """`broken`: the state after a failed self-test."""

    def __init__(self) -> None:
        self.broken = False
        self.tests = 0

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        raise NotImplementedError

    def self_test(self) -> None:
        self.tests += 1
        if self.broken:
            raise DeviceError("the answer is wrong")


class Line:
    """A guard with fake models, and its log."""

    def __init__(self, bundle: Bundle) -> None:
        self.model = FakePredictor()
        self.models = ModelInUse(Model(bundle=bundle, predictor=self.model))
        self.said: list[str | None] = []
        self.loads: list[FakePredictor | Exception] = []  # results of loads; a load waits until there is one
        self.asked = 0

    def load(self, bundle: Bundle) -> FakePredictor:
        assert bundle is self.models.current.bundle
        self.asked += 1
        wait_until(lambda: bool(self.loads))
        outcome = self.loads.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @contextmanager
    def guarded(self, every_s: float = 0.01) -> Iterator[ModelGuard]:
        guard = ModelGuard(
            self.models, load_again=self.load, on_fault=self.said.append, every_s=every_s, first_pause_s=0.01
        )
        with guard:
            yield guard


@pytest.fixture
def line(tiny_bundle: Path) -> Line:
    return Line(load_bundle(tiny_bundle))


def test_guard_repeats_the_self_test_and_reports_no_fault_of_a_good_model(line: Line) -> None:
    with line.guarded() as guard:
        wait_until(lambda: line.model.tests >= 5)
        assert guard.alive and not guard.busy
    assert line.said == [] and line.asked == 0


def test_model_with_a_wrong_answer_is_a_fault_and_is_loaded_again_until_that_succeeds(line: Line) -> None:
    new = FakePredictor()
    line.loads = [BundleError("the disk is gone"), MemoryError(), RuntimeError("the compiler failed"), new]
    with line.guarded():
        line.model.broken = True
        wait_until(lambda: line.said[-1:] == [None])
        assert line.models.current.predictor is new
        wait_until(lambda: new.tests >= 2)
    assert re.match(r"the answer is wrong; the last test passed \d+ s ago", line.said[0] or "")
    endings = ["the disk is gone", "MemoryError", "the compiler failed"]
    assert [str(said).partition("loading it again failed: ")[2] for said in line.said[1:-1]] == endings
    assert line.asked == 4


def test_guard_does_not_undo_a_bundle_update_that_came_while_it_loaded(line: Line) -> None:
    updated = FakePredictor()
    with line.guarded():
        line.model.broken = True
        wait_until(lambda: line.asked == 1)
        line.models.replace(Model(bundle=line.models.current.bundle, predictor=updated))
        line.loads = [FakePredictor()]
        wait_until(lambda: line.said[-1:] == [None])
        assert line.models.current.predictor is updated


def test_another_model_in_use_is_tested_at_once(line: Line) -> None:
    rolled_back = FakePredictor()
    rolled_back.broken = True
    line.loads = [FakePredictor()]
    with line.guarded(every_s=1000):
        line.models.replace(Model(bundle=line.models.current.bundle, predictor=rolled_back))
        wait_until(lambda: line.said[-1:] == [None])
    assert rolled_back.tests == 1 and line.model.tests == 0


def test_guard_waits_until_the_picture_in_the_model_is_done(line: Line) -> None:
    with line.models.model_lock, line.guarded():
        threading.Event().wait(0.2)
        assert line.model.tests == 0


def test_stop_does_not_wait_for_the_compiler(line: Line) -> None:
    with line.guarded() as guard:
        line.model.broken = True
        wait_until(lambda: line.asked == 1)
    assert guard.busy
    line.loads = [FakePredictor()]
    wait_until(lambda: not guard.busy)


def test_faults_end_with_a_stop(line: Line, tiny_bundle: Path) -> None:
    line.loads = [BundleError("gone")] * 10_000
    with line.guarded() as guard:
        line.model.broken = True
        wait_until(lambda: line.asked >= 2)
    assert not guard.alive and None not in line.said
