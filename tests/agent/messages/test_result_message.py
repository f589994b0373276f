import json
import math
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker, ValidationError

import zsad_agent.messages
from zsad_agent.messages import BundleName, FoundRegion, Latency, Result, Topics, UsedProfile, encode, schema_text
from zsad_agent.messages.json_schema import SCHEMA_FILES
from zsad_core.types import Verdict

FIELDS: dict[str, Any] = {
    "id": "line3-b1-7",
    "device_id": "line3",
    "camera": "cam0",
    "seq": 7,
    "captured_at": datetime(2026, 11, 22, 10, 28, 3, 123_456, tzinfo=UTC),
    "product": "bottle",
    "anomaly_score": 0.731,
    "threshold": 0.5,
    "verdict": Verdict.ANOMALOUS,
    "reason": None,
    "regions": (FoundRegion(bbox_xywh=(120, 44, 61, 30), peak=0.93),),
    "frame_wh": (1280, 720),
    "bundle": BundleName(name="zsad-tiny", version="1.0.0", sha256="9c" * 32),
    "latency_ms": Latency(capture_to_result=41.23456, inference=28.9),
}
UNKNOWN = {"anomaly_score": None, "verdict": Verdict.UNKNOWN, "reason": "no frame for 5 s", "regions": ()}
COMMITTED = Path(zsad_agent.messages.__file__).with_name("result.schema.json").read_text()
SCHEMA = Draft202012Validator(json.loads(COMMITTED), format_checker=FormatChecker())


def build(**changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(Result(**(FIELDS | changes)).encode())
    return message


@pytest.mark.parametrize("name", SCHEMA_FILES)
def test_the_committed_schema_is_that_of_the_code(name: str) -> None:
    committed = Path(zsad_agent.messages.__file__).with_name(name).read_text()
    assert committed == schema_text(SCHEMA_FILES[name]), "run python -m zsad_agent.messages.json_schema to update it"
    Draft202012Validator.check_schema(json.loads(committed))


def test_the_published_bytes_are_those_of_the_contract() -> None:
    assert Result(**FIELDS, trigger_id="gate \u00e9").encode() == (
        b'{"schema":"zsad.result/1","id":"line3-b1-7","device_id":"line3","camera":"cam0","seq":7,'
        b'"captured_at":"2026-11-22T10:28:03.123Z","product":"bottle","anomaly_score":0.731,"threshold":0.5,'
        b'"verdict":"anomalous","reason":null,"regions":[{"bbox_xywh":[120,44,61,30],"peak":0.93}],'
        b'"frame_wh":[1280,720],"bundle":{"name":"zsad-tiny","version":"1.0.0","sha256":"' + b"9c" * 32 + b'"},'
        b'"latency_ms":{"capture_to_result":41.235,"inference":28.9},"replayed":false,'
        b'"source_name":null,"provisional":false,"provisional_frames":null,"profile":null,"trigger_id":"gate \xc3\xa9"}'
    )


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
        "source_name": None,
        "provisional": False,
        "provisional_frames": None,
        "profile": None,
    }


def test_unknown_with_everything_null_is_valid() -> None:
    message = build(**UNKNOWN, frame_wh=None, latency_ms=Latency(capture_to_result=None, inference=None))
    SCHEMA.validate(message)
    assert message["anomaly_score"] is None
    assert message["reason"] == "no frame for 5 s"


def test_only_the_result_of_a_trigger_has_a_trigger_id() -> None:
    message = build(trigger_id="part-4711")
    SCHEMA.validate(message)
    assert message == build() | {"trigger_id": "part-4711"}
    with pytest.raises(ValidationError):
        SCHEMA.validate(build() | {"trigger_id": None})


def test_result_of_a_file_names_it_and_one_of_an_older_version_is_valid_without() -> None:
    SCHEMA.validate(build(source_name="SN-4711.png"))
    old = build()
    for key in ("source_name", "provisional", "provisional_frames", "profile"):
        del old[key]
    SCHEMA.validate(old)


def test_result_names_the_profile_that_it_used() -> None:
    message = build(profile=UsedProfile(product="bottle", sha256="ab" * 32))
    SCHEMA.validate(message)
    assert message["profile"] == {"product": "bottle", "sha256": "ab" * 32}


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf, -0.01, 1.01])
@pytest.mark.parametrize("verdict", [Verdict.OK, Verdict.ANOMALOUS])
def test_invalid_score_becomes_unknown_and_is_not_a_pass(score: float, verdict: Verdict) -> None:
    message = build(anomaly_score=score, verdict=verdict)
    SCHEMA.validate(message)
    assert (message["verdict"], message["anomaly_score"], message["regions"]) == ("unknown", None, [])
    assert "score" in message["reason"]


def test_unknown_keeps_its_own_reason_when_the_score_is_not_finite() -> None:
    message = build(anomaly_score=math.nan, verdict=Verdict.UNKNOWN, reason="frame frozen")
    assert message["reason"] == "frame frozen"


def test_time_in_another_zone_is_sent_as_utc() -> None:
    moment = datetime(2026, 1, 1, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert build(captured_at=moment)["captured_at"] == "2025-12-31T23:30:00.000Z"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"captured_at": datetime(2026, 1, 1)}, "timezone"),
        ({"verdict": Verdict.UNKNOWN}, "needs a reason"),
        ({"verdict": Verdict.UNKNOWN, "reason": ""}, "reason"),
        ({"verdict": Verdict.OK, "reason": "fine"}, "must have no reason"),
        ({"verdict": Verdict.OK, "anomaly_score": None}, "without a score"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"latency_ms": {"capture_to_result": 1.0, "inference": -1.0}}, "latency_ms.inference"),
        ({"latency_ms": {"capture_to_result": math.nan, "inference": 1.0}}, "latency_ms.capture_to_result"),
        ({"regions": ({"bbox_xywh": (0, 0, 0, 5), "peak": 0.5},)}, "regions.0.bbox_xywh.2"),
        ({"regions": ({"bbox_xywh": (0, 0, 5, 5), "peak": math.nan},)}, "regions.0.peak"),
    ],
)
def test_invalid_argument_is_refused(changes: dict[str, Any], said: str) -> None:
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


@pytest.mark.parametrize(
    "key", sorted(build().keys() - {"source_name", "provisional", "provisional_frames", "profile"})
)
def test_schema_refuses_a_message_with_a_key_missing(key: str) -> None:
    message = build()
    del message[key]
    with pytest.raises(ValidationError):
        SCHEMA.validate(message)


REGIONS = st.builds(
    FoundRegion,
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
    score: float, verdict: Verdict, regions: list[FoundRegion], captured_at: datetime
) -> None:
    reason = "said so" if verdict is Verdict.UNKNOWN else None
    message = build(
        anomaly_score=score, verdict=verdict, reason=reason, regions=tuple(regions), captured_at=captured_at
    )
    SCHEMA.validate(message)
    assert message["verdict"] == (verdict if 0 <= score <= 1 else Verdict.UNKNOWN)


def test_topics_start_with_prefix_and_device() -> None:
    topics = Topics("zsad", "line3")
    assert topics.available == "zsad/line3/available"
    assert topics.below("stats") == "zsad/line3/stats"
    assert topics.result("cam0") == "zsad/line3/cam0/result"
    assert topics.heatmap("cam0") == "zsad/line3/cam0/heatmap"


def test_text_that_is_not_utf_8_is_sent_with_question_marks() -> None:
    """A file name, or half a surrogate pair in received JSON, must not end the agent."""
    assert json.loads(encode({"reason": "caf\udce9 \ud800"})) == {"reason": "caf? ?"}
