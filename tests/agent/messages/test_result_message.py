import json
import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

from zsad_agent.messages import Topics, build_result, encode
from zsad_agent.messages.result import result_json_schema
from zsad_core.types import Region, Verdict

MESSAGE: dict[str, Any] = {
    "result_id": "line3-b1-7",
    "device_id": "line3",
    "camera": "cam0",
    "seq": 7,
    "captured_at": datetime(2026, 11, 22, 10, 28, 3, 123_456, tzinfo=UTC),
    "product": "bottle",
    "prediction_score": 0.731,
    "threshold": 0.5,
    "verdict": Verdict.ANOMALOUS,
    "reason": None,
    "regions": [Region(bbox_xywh=(120, 44, 61, 30), peak=0.93)],
    "frame_wh": (1280, 720),
    "bundle_name": "zsad-tiny",
    "bundle_version": "1.0.0",
    "bundle_sha256": "9c" * 32,
    "capture_to_result_ms": 41.23456,
    "inference_ms": 28.9,
}
UNKNOWN = {"prediction_score": None, "verdict": Verdict.UNKNOWN, "reason": "no frame for 5 s", "regions": []}
SCHEMA = Draft202012Validator(result_json_schema(), format_checker=FormatChecker())


def build(**changes: Any) -> dict[str, Any]:
    return build_result(**(MESSAGE | changes))


def test_schema_is_valid_json_schema() -> None:
    Draft202012Validator.check_schema(result_json_schema())


def test_result_holds_exactly_what_the_contract_says() -> None:
    message = build()
    SCHEMA.validate(message)
    assert message == {
        "schema": "zsad.result/1",
        "id": "line3-b1-7",
        "device_id": "line3",
        "camera": "cam0",
        "seq": 7,
        "captured_at": "2026-11-22T10:28:03.123Z",
        "product": "bottle",
        "anomaly_score": 0.731,
        "threshold": 0.5,
        "verdict": "anomalous",
        "reason": None,
        "regions": [{"bbox_xywh": [120, 44, 61, 30], "peak": 0.93}],
        "frame_wh": [1280, 720],
        "bundle": {"name": "zsad-tiny", "version": "1.0.0", "sha256": "9c" * 32},
        "latency_ms": {"capture_to_result": 41.235, "inference": 28.9},
        "replayed": False,
    }


def test_unknown_with_everything_null_is_valid() -> None:
    message = build(**UNKNOWN, frame_wh=None, capture_to_result_ms=None, inference_ms=None)
    SCHEMA.validate(json.loads(encode(message)))
    assert message["anomaly_score"] is None
    assert message["reason"] == "no frame for 5 s"


def test_answer_to_a_trigger_names_it_and_no_other_message_does() -> None:
    message = build(trigger_id="part-4711")
    SCHEMA.validate(message)
    assert message == build() | {"trigger_id": "part-4711"}
    with pytest.raises(ValidationError):
        SCHEMA.validate(build() | {"trigger_id": None})


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -0.01, 1.01])
@pytest.mark.parametrize("verdict", [Verdict.OK, Verdict.ANOMALOUS])
def test_score_that_is_no_score_becomes_unknown_and_never_a_pass(score: float, verdict: Verdict) -> None:
    message = build(prediction_score=score, verdict=verdict)
    SCHEMA.validate(json.loads(encode(message)))
    assert (message["verdict"], message["anomaly_score"], message["regions"]) == ("unknown", None, [])
    assert "score" in message["reason"]


def test_unknown_keeps_its_own_reason_when_the_score_is_not_finite() -> None:
    message = build(prediction_score=math.nan, verdict=Verdict.UNKNOWN, reason="frame frozen")
    assert message["reason"] == "frame frozen"


def test_time_of_another_zone_is_sent_as_utc() -> None:
    moment = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert build(captured_at=moment)["captured_at"] == "2025-12-31T23:30:00.000Z"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captured_at": datetime(2026, 1, 1)}, "no time zone"),
        ({"verdict": Verdict.UNKNOWN}, "needs a reason"),
        ({"verdict": Verdict.UNKNOWN, "reason": ""}, "needs a reason"),
        ({"verdict": Verdict.OK, "reason": "fine"}, "takes no reason"),
        ({"verdict": Verdict.OK, "prediction_score": None}, "without a score"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"inference_ms": -1.0}, "latency"),
        ({"capture_to_result_ms": math.nan}, "latency"),
        ({"regions": [Region(bbox_xywh=(0, 0, 0, 5), peak=0.5)]}, "region"),
        ({"regions": [Region(bbox_xywh=(0, 0, 5, 5), peak=math.nan)]}, "region"),
    ],
)
def test_mistake_of_the_caller_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "unknown"},
        {"verdict": "unknown", "reason": ""},
        {"verdict": "ok", "anomaly_score": None},
        {"verdict": "ok", "reason": "because"},
        {"verdict": "pass"},
        {"anomaly_score": 1.2},
        {"captured_at": "2026-11-22T10:28:03Z"},
        {"captured_at": "2026-11-22T10:28:03.123+00:00"},
        {"extra": 1},
        {"regions": [{"bbox_xywh": [1, 2, 3], "peak": 0.5}]},
        {"regions": [{"bbox_xywh": [1, 2, 3, 4, 5], "peak": 0.5}]},
        {"camera": "a/b"},
    ],
)
def test_schema_refuses_what_the_contract_does_not_allow(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SCHEMA.validate(build() | changes)


@pytest.mark.parametrize("key", sorted(build()))
def test_schema_refuses_a_message_with_a_key_missing(key: str) -> None:
    message = build()
    del message[key]
    with pytest.raises(ValidationError):
        SCHEMA.validate(message)


REGIONS = st.builds(
    Region,
    bbox_xywh=st.tuples(st.integers(0, 9000), st.integers(0, 9000), st.integers(1, 9000), st.integers(1, 9000)),
    peak=st.floats(0, 1),
)


@given(
    score=st.one_of(st.floats(), st.floats(width=32), st.floats(0, 1)),
    verdict=st.sampled_from(Verdict),
    regions=st.lists(REGIONS, max_size=32),
    captured_at=st.datetimes(timezones=st.just(UTC)),
)
def test_every_score_verdict_and_region_gives_a_valid_message(
    score: float, verdict: Verdict, regions: list[Region], captured_at: datetime
) -> None:
    reason = "said so" if verdict is Verdict.UNKNOWN else None
    message = build(prediction_score=score, verdict=verdict, reason=reason, regions=regions, captured_at=captured_at)
    SCHEMA.validate(json.loads(encode(message)))
    assert message["verdict"] == (verdict if 0 <= score <= 1 else Verdict.UNKNOWN)


def test_topics_lie_under_prefix_and_device() -> None:
    topics = Topics("zsad", "line3")
    assert topics.available == "zsad/line3/available"
    assert topics.status("cam0") == "zsad/line3/cam0/status"
    assert topics.result("cam0") == "zsad/line3/cam0/result"
    assert topics.heatmap("cam0") == "zsad/line3/cam0/heatmap"


def test_text_that_is_no_utf_8_is_sent_all_the_same() -> None:
    """A file's name, or half a surrogate pair in somebody's JSON, must not end the agent."""
    assert json.loads(encode({"reason": "caf\udce9 \ud800"})) == {"reason": "caf? ?"}
