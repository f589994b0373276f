"""The payloads, against protobuf's own library."""

import random

import pytest
from sparkplug_host import decode, payload_type, value_of

from zsad_agent.dashboards import DataType, Metric, asks_for_rebirth, encode_payload


def test_every_value_is_decoded_as_it_was_given() -> None:
    metrics = [
        Metric("score", DataType.DOUBLE, 0.731, 1_764_000_000_123),
        Metric("whole score", DataType.DOUBLE, 1, 1),
        Metric("none", DataType.DOUBLE, None, 1),
        Metric("product", DataType.STRING, "Ventilgehäuse ✓" * 50, 1),
        Metric("empty", DataType.STRING, "", 1),
        Metric("no", DataType.BOOLEAN, False, 1),
        Metric("yes", DataType.BOOLEAN, True, 1),
        Metric("bdSeq", DataType.INT64, 255, 1),
        *(Metric(f"count {count}", DataType.UINT64, count, 1) for count in (0, 127, 128, 2**32, 2**64 - 1)),
    ]
    payload = decode(encode_payload(metrics, at_ms=1_764_000_000_456, seq=200))
    assert (payload.timestamp, payload.seq) == (1_764_000_000_456, 200)
    found = [(one.name, one.datatype, value_of(one), one.timestamp) for one in payload.metrics]
    assert found == [(metric.name, metric.type, metric.value, metric.at_ms) for metric in metrics]
    fields = {metric.name: metric.WhichOneof("value") for metric in payload.metrics}
    assert fields["whole score"] == "double_value" and fields["no"] == "boolean_value"
    assert fields["bdSeq"] == fields["count 0"] == "long_value"


def test_seq_0_is_there_and_a_death_has_none() -> None:
    assert decode(encode_payload([], at_ms=1, seq=0)).HasField("seq")
    assert not decode(encode_payload([], at_ms=1, seq=None)).HasField("seq")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("Node Control/Rebirth", True, True),
        ("Node Control/Rebirth", False, False),
        ("Node Control/Reboot", True, False),
    ],
)
def test_a_request_for_births_is_found_among_other_fields(name: str, value: bool, expected: bool) -> None:
    payload = payload_type()(timestamp=2**63, seq=3, uuid="abc", body=b"\0\1")
    payload.metrics.add(name="first", float_value=1.5, timestamp=9)
    payload.metrics.add(name="second", double_value=1.5, alias=7)
    payload.metrics.add(name=name, datatype=11, boolean_value=value, is_transient=True)
    assert asks_for_rebirth(payload.SerializeToString()) is expected


def test_nonsense_asks_for_nothing() -> None:
    payload = payload_type()()
    payload.metrics.add(name="Node Control/Rebirth", datatype=11, boolean_value=True)
    valid = payload.SerializeToString()
    assert asks_for_rebirth(valid)
    assert not any(asks_for_rebirth(valid[:size]) for size in range(len(valid)))
    for one in (b"\xff" * 20, b"\x12\xff\xff\xff\xff\x0f", b"\x13", b"{}", b"\x09\0"):
        assert not asks_for_rebirth(one)
    draw = random.Random(7)
    for _ in range(2000):
        asks_for_rebirth(draw.randbytes(draw.randrange(60)))  # raises nothing
