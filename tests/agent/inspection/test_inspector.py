"""The inspector of one camera: verdicts, reasons and unknown results."""

import dataclasses
import json
import time
from datetime import UTC, datetime
from typing import Any

import jsonschema
import numpy as np
import pytest
from pipeline_tools import (
    BRIGHT,
    DARK,
    GREY,
    RESULT_SCHEMA,
    FakeLine,
    FakePredictor,
    FakeSource,
    fail_on_dark,
    make_inspector,
    make_model,
)

from zsad_agent.capture import CameraStatus, Captured, Fault, UnknownPace
from zsad_agent.config import CameraConfig, DecisionConfig
from zsad_agent.inspection import Inspector
from zsad_agent.inspection.inspector import MISSES
from zsad_core.errors import DeviceError, ImageError, ProfileError
from zsad_core.judging import Provisional
from zsad_core.part import NoPartError, PartError
from zsad_core.types import Frame, Prediction, ProfileName, Verdict


def test_score_that_is_nan_is_unknown() -> None:
    inspector = make_inspector(FakePredictor())
    inspected = inspector.predict(frame(1))
    nan = Prediction(anomaly_map=np.zeros((8, 8), np.float32), anomaly_score=float("nan"))
    result, _ = inspector.decide(dataclasses.replace(inspected, prediction=nan))
    assert result.verdict is Verdict.UNKNOWN
    assert result.anomaly_score is None
    jsonschema.validate(json.loads(result.encode()), RESULT_SCHEMA)


class TaughtFake(FakePredictor):
    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        return dataclasses.replace(super().predict(image_bgr), threshold=0.2, scale=4.0)


@pytest.mark.parametrize(
    ("predictor", "configured", "threshold", "regions"),
    [(FakePredictor(), None, 0.5, 0), (TaughtFake(), None, 0.2, 1), (TaughtFake(), 0.9, 0.9, 1)],
)
def test_threshold_is_that_of_the_config_else_of_teach_in_else_of_the_bundle(
    predictor: FakePredictor, configured: float | None, threshold: float, regions: int
) -> None:
    camera = CameraConfig(decision=DecisionConfig(threshold=configured))
    inspector = make_inspector(predictor, camera=camera)
    decided = inspector.decide(inspector.predict(frame(1, np.full_like(GREY, 170))))  # a map of 0.33
    assert decided is not None
    assert (decided[0].threshold, len(decided[0].regions)) == (threshold, regions)


class NamedFake(TaughtFake):
    """As taught, with the name of its profile."""

    def is_taught(self, product: str) -> bool:
        return True

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        name = ProfileName(product="object", sha256="ab" * 32)
        return dataclasses.replace(super().predict(image_bgr), profile=name)


@pytest.mark.parametrize(
    ("predictor", "has_frame", "provisional", "profile"),
    [
        (FakePredictor(), True, True, None),
        (FakePredictor(), False, True, None),
        (NamedFake(), True, False, {"product": "object", "sha256": "ab" * 32}),
        (NamedFake(), False, False, None),
    ],
)
def test_result_names_what_was_taught(
    predictor: FakePredictor, has_frame: bool, provisional: bool, profile: dict[str, str] | None
) -> None:
    inspector = make_inspector(predictor)
    decided = inspector.decide(inspector.predict(frame(1) if has_frame else fault(1)))
    assert decided is not None
    message = json.loads(decided[0].encode())
    assert (message["provisional"], message["profile"]) == (provisional, profile)
    jsonschema.validate(message, RESULT_SCHEMA)


def test_profile_that_cannot_be_used_gives_unknown_and_a_degraded_status() -> None:
    def refuse(image: np.ndarray) -> None:
        raise ProfileError("1.profile: the profile was cut")

    line = FakeLine(FakeSource(DARK), predictor=FakePredictor(refuse))
    (result,) = line.run()
    assert (result["verdict"], result["reason"]) == ("unknown", "1.profile: the profile was cut")
    assert [state["state"] for state in line.states] == ["ok", "degraded"]


def refuse_dark(error: PartError) -> Any:
    def refuse(image: np.ndarray) -> None:
        if image.mean() < 100:
            raise error

    return refuse


@pytest.mark.parametrize(
    ("error", "lossless", "degraded"),
    [
        (PartError("another part: it is round"), True, True),
        (PartError("another part: it is round"), False, True),
        (NoPartError("no part: nothing stands out"), True, True),
        (NoPartError("no part: nothing stands out"), False, False),  # a free-running camera waits for a part
    ],
)
def test_a_camera_that_does_not_see_the_taught_part_for_long_is_degraded_until_it_does(
    error: PartError, lossless: bool, degraded: bool
) -> None:
    states: list[dict[str, Any]] = []
    status = CameraStatus("cam0", lambda camera, state: states.append(state))
    inspector = make_inspector(FakePredictor(refuse_dark(error)), status, lossless=lossless)
    for seq in range(3):
        for _ in range(MISSES - 1):
            inspector.predict(frame(seq, DARK))
        assert states == []
        inspector.predict(frame(seq))
    for _ in range(MISSES):
        inspector.predict(frame(9, DARK))
    assert [state["state"] for state in states] == (["degraded"] if degraded else [])
    assert status.up is False  # nothing was published, or it is degraded
    if degraded:
        assert f"{MISSES} pictures in a row do not show object as taught ({error})" in states[0]["reason"]
        assert "Choose the right product" in states[0]["reason"]
        inspector.predict(frame(10))
        assert states[-1]["state"] == "ok" and status.up


class OtherFake(NamedFake):
    """Sees no place that stands out in another part."""

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        return dataclasses.replace(super().predict(image_bgr), other="another part: as a whole")


@pytest.mark.parametrize(("threshold", "verdict"), [(None, "anomalous"), (0.3, "anomalous"), (0.4, "unknown")])
def test_a_part_that_differs_as_a_whole_does_not_pass_at_any_threshold(threshold: float | None, verdict: str) -> None:
    states: list[dict[str, Any]] = []
    status = CameraStatus("cam0", lambda camera, state: states.append(state))
    camera = CameraConfig(product="object", decision=DecisionConfig(threshold=threshold))
    inspector = make_inspector(OtherFake(), status, camera=camera)
    for seq in range(MISSES):
        inspected = inspector.predict(frame(seq, np.full_like(GREY, 170)))  # a score of 0.33
        decided = inspector.decide(inspected)
        assert decided is not None and inspected.prediction is not None  # it can be marked as good
        message = json.loads(decided[0].encode())
        jsonschema.validate(message, RESULT_SCHEMA)
        assert message["verdict"] == verdict
        if verdict == "unknown":
            assert (message["reason"], message["anomaly_score"]) == ("another part: as a whole", None)
            assert message["regions"] == [] and message["profile"] is not None
    assert [state["state"] for state in states] == (["degraded"] if verdict == "unknown" else [])


def test_another_product_is_counted_from_its_first_picture() -> None:
    states: list[dict[str, Any]] = []
    status = CameraStatus("cam0", lambda camera, state: states.append(state))
    inspector = make_inspector(FakePredictor(refuse_dark(PartError("another part"))), status)
    for _ in range(MISSES):
        inspector.predict(frame(1, DARK))
    inspector.product = "cap"
    inspector.predict(frame(2, DARK))
    assert [state["state"] for state in states] == ["degraded", "ok"]
    for _ in range(MISSES - 1):
        inspector.predict(frame(3, DARK))
    assert states[-1]["state"] == "degraded" and "do not show cap as taught" in states[-1]["reason"]


def test_picture_that_was_predicted_before_its_product_was_taught_has_the_bundles_threshold() -> None:
    class TaughtMeanwhile(FakePredictor):
        def is_taught(self, product: str) -> bool:
            return True

    inspector = make_inspector(TaughtMeanwhile())
    inspector._models.current = make_model(TaughtMeanwhile(), threshold=0.9)
    decided = inspector.decide(inspector.predict(frame(1)))
    assert decided is not None
    assert (decided[0].threshold, decided[0].provisional, decided[0].profile) == (0.9, True, None)
    unknown = inspector.decide(inspector.predict(fault(2)))
    assert unknown is not None
    assert (unknown[0].threshold, unknown[0].provisional) == (0.5, False)


def test_verdict_is_debounced_over_frames_and_a_lost_camera_is_unknown() -> None:
    camera = CameraConfig(decision=DecisionConfig(debounce_k=2, debounce_n=3))
    inspector = make_inspector(FakePredictor(), camera=camera)
    captured: list[Captured] = [frame(1, DARK), fault(2), frame(3, DARK), frame(4), frame(5)]
    verdicts = [inspector.decide(inspector.predict(item))[0].verdict for item in captured]
    assert verdicts == ["ok", "unknown", "anomalous", "anomalous", "ok"]


def test_reason_of_any_length_is_kept_short() -> None:
    inspector = make_inspector(FakePredictor())
    result, _ = inspector.decide(inspector.predict(fault(1, "x" * 100_000)))
    assert result.reason is not None and len(result.reason) == 500


def frame(seq: int, image: np.ndarray = BRIGHT) -> Frame:
    return Frame(
        image_bgr=image,
        camera="cam0",
        seq=seq,
        captured_at=datetime.now(UTC),
        captured_monotonic_s=time.monotonic(),
    )


def fault(seq: int, reason: str = "camera lost") -> Fault:
    return Fault(
        camera="cam0",
        seq=seq,
        captured_at=datetime.now(UTC),
        captured_monotonic_s=time.monotonic(),
        reason=reason,
        is_part=False,
    )


def reported(inspector: Inspector, images: list[np.ndarray]) -> list[int]:
    """The numbers, from 1, of the pictures that give a result."""
    decided = [inspector.decide(inspector.predict(frame(seq, image))) for seq, image in enumerate(images, start=1)]
    return [result[0].seq for result in decided if result is not None]


def test_pictures_without_a_score_are_reported_once_a_minute_until_one_has_a_score() -> None:
    now_s = 0.0
    inspector = make_inspector(FakePredictor(fail_on_dark), lossless=False)
    inspector._unknown_pace = UnknownPace(lambda: now_s)
    assert reported(inspector, [DARK, DARK, DARK]) == [1]
    now_s = 59.9
    assert reported(inspector, [DARK]) == []
    now_s = 60.0
    assert reported(inspector, [DARK, DARK]) == [1]
    assert reported(inspector, [DARK, BRIGHT, DARK, DARK]) == [2, 3]


@pytest.mark.parametrize(
    ("trigger", "lossless", "expected"),
    [("free", False, [1]), ("free", True, [1, 2, 3]), ("mqtt", False, [1, 2, 3]), ("mqtt", True, [1, 2, 3])],
)
def test_only_a_free_running_camera_omits_unknown_results(trigger: Any, lossless: bool, expected: list[int]) -> None:
    camera = CameraConfig(trigger=trigger, source="rtsp://camera")
    inspector = make_inspector(FakePredictor(fail_on_dark), camera=camera, lossless=lossless)
    assert reported(inspector, [DARK, DARK, DARK]) == expected


def test_every_part_of_a_hardware_trigger_has_a_result() -> None:
    camera = CameraConfig(aravis="a", aravis_trigger="hardware Line1")
    inspector = make_inspector(FakePredictor(fail_on_dark), camera=camera, lossless=False)
    assert reported(inspector, [DARK, DARK, DARK]) == [1, 2, 3]


def test_a_score_that_is_nan_is_reported_once_and_every_fault_of_the_camera_is_a_result() -> None:
    inspector = make_inspector(FakePredictor(), lossless=False)
    nan = Prediction(anomaly_map=np.zeros((8, 8), np.float32), anomaly_score=float("nan"))
    inspected = dataclasses.replace(inspector.predict(frame(1)), prediction=nan)
    assert inspector.decide(inspected) is not None
    assert inspector.decide(inspected) is None
    for seq in (2, 3):
        assert inspector.decide(inspector.predict(fault(seq))) is not None


def test_picture_is_scored_and_described_by_one_model_while_it_is_replaced() -> None:
    inspector = make_inspector(FakePredictor())
    models = inspector._models
    frame = Frame(
        image_bgr=DARK, camera="cam0", seq=1, captured_at=datetime.now(UTC), captured_monotonic_s=time.monotonic()
    )
    inspected = inspector.predict(frame)
    models.current = make_model(FakePredictor(), "next", 1.0)
    before, _ = inspector.decide(inspected)
    assert (before.bundle.name, before.threshold, before.verdict) == ("darkness", 0.5, "anomalous")
    after, _ = inspector.decide(inspector.predict(frame))
    assert (after.bundle.name, after.threshold) == ("next", 1.0)


def test_device_failures_are_counted_and_bad_pictures_are_not() -> None:
    def fail(image: np.ndarray) -> None:
        if not image.any():
            raise DeviceError("no answer")
        if image.shape[0] == 1:
            raise ImageError("too small")

    inspector = make_inspector(FakePredictor(fail))
    noted: list[tuple[bool, str | None]] = []
    inspector._models.on_answer = lambda sha256, answered, reason: noted.append((answered, reason))
    for image in (BRIGHT, DARK, BRIGHT[:1]):
        frame = Frame(
            image_bgr=image, camera="cam0", seq=1, captured_at=datetime.now(UTC), captured_monotonic_s=time.monotonic()
        )
        inspector.predict(frame)
    assert noted == [(True, None), (False, "no answer")]


@pytest.mark.parametrize(
    ("predictor", "configured", "found", "threshold", "frames"),
    [
        (FakePredictor(), None, Provisional(threshold=0.3, frames=50), 0.3, 50),
        (FakePredictor(), None, None, 0.5, 0),
        (FakePredictor(), 0.9, Provisional(threshold=0.3, frames=50), 0.9, None),
        (NamedFake(), None, Provisional(threshold=0.3, frames=50), 0.2, None),
    ],
)
def test_provisional_threshold_gives_way_to_what_people_set_or_taught(
    predictor: FakePredictor, configured: float | None, found: Provisional | None, threshold: float, frames: int | None
) -> None:
    inspector = make_inspector(predictor, camera=CameraConfig(decision=DecisionConfig(threshold=configured)))
    inspector.provisional = lambda product, bundle: found
    decided = inspector.decide(inspector.predict(frame(1, np.full_like(GREY, 170))))  # a map of 0.33
    assert decided is not None
    message = json.loads(decided[0].encode())
    assert (message["threshold"], message["provisional_frames"]) == (threshold, frames)
    assert message["verdict"] == ("anomalous" if threshold <= 0.33 else "ok")
    jsonschema.validate(message, RESULT_SCHEMA)


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_the_bundles_level_of_regions_is_coloured_as_the_threshold_of_a_taught_product(threshold: float | None) -> None:
    shown = []
    for level, darkness in ((0.5, 0.5), (0.05, 0.05), (0.5, 0.05)):
        inspector = make_inspector(FakePredictor())
        inspected = inspector.predict(frame(1))
        inspected.model.bundle.manifest.region_level = level  # type: ignore[misc]
        prediction = Prediction(
            anomaly_map=np.full((8, 8), darkness, np.float32), anomaly_score=0.1, threshold=threshold
        )
        decided = inspector.decide(dataclasses.replace(inspected, prediction=prediction))
        assert decided is not None
        shown.append(decided[1])
    as_taught = threshold is not None
    assert (shown[0] == shown[1]) != as_taught
    assert shown[1] != shown[2] or as_taught
