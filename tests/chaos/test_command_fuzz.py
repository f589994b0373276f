"""Random payloads on command topics: the controller stays alive, answers in time, and executes only valid commands."""

import json
import math
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from chaos_record import record
from fake_controls import CONFIG_PRODUCT, CONFIG_THRESHOLD, FakeControls, FakePublisher
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zsad_agent.config import AgentConfig, ControlConfig
from zsad_agent.control import Controller, Nonces, StoredSettings
from zsad_agent.control.command import MAX_PAYLOAD_BYTES
from zsad_agent.control.controller import MAX_ERROR_CHARACTERS
from zsad_agent.spool import SpoolClock

NOW_S = 1_800_000_000.0
TARGETS = ["cam0/threshold", "cam0/product", "cam0/paused", "cam0/snapshot", "bundle", "reload", "update"]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300)
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=9), inner))
likely_values = st.sampled_from([0, 1, 0.5, 0.25, None, "", True, False, "bottle", "screw", "object", "v2", "../v2"])
likely_times = st.sampled_from([NOW_S, NOW_S - 29, NOW_S - 31, NOW_S + 31, "2027-01-15T08:00:00Z", "2027-01-15", "now"])
commands = st.fixed_dictionaries(
    {},
    optional={
        "value": likely_values | json_values,
        "id": st.text(max_size=70) | json_values,
        "sent_at": likely_times | json_values,
        "extra": scalars,
    },
).map(lambda fields: json.dumps(fields).encode())


@st.composite
def fresh_commands(draw: st.DrawFn) -> bytes:
    sent_at = draw(st.just(NOW_S) | likely_times)
    return json.dumps({"value": draw(likely_values), "id": str(draw(st.uuids())), "sent_at": sent_at}).encode()


@st.composite
def mutated_commands(draw: st.DrawFn) -> bytes:
    """A valid command with bytes replaced, removed, inserted or repeated."""
    payload = bytearray(draw(fresh_commands()))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(payload) - 1)))
        length = draw(st.integers(0, 6))
        splice = st.binary(max_size=6) | st.sampled_from([b"NaN", b"1e999", b"{", b'"', b"\\u"])
        payload[at : at + length] = draw(splice)
    return bytes(payload) * draw(st.sampled_from([1, 1, 1, 2, 60]))


payloads = (
    st.binary(max_size=300)
    | commands
    | fresh_commands()
    | fresh_commands()
    | mutated_commands()
    | json_values.map(lambda value: json.dumps(value).encode())
)


def may_change(payload: bytes) -> dict[str, Any] | None:
    """The fields of a payload that may be a command, by the test's own parser; None if it cannot be one."""
    try:
        fields = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not {"id", "sent_at"} <= fields.keys() <= {"value", "id", "sent_at"}:
        return None
    sent_at = fields["sent_at"]
    if isinstance(sent_at, int | float) and not (math.isfinite(sent_at) and abs(sent_at - NOW_S) <= 30):
        return None
    return fields if isinstance(fields["id"], str) and len(payload) <= MAX_PAYLOAD_BYTES else None


def expected(before: dict[str, Any], target: str, value: Any) -> dict[str, Any]:
    """The settings after the command `value`."""
    after: dict[str, Any] = json.loads(json.dumps(before))
    key = target.rpartition("/")[2]
    if key == "reload":
        after["reloads"] += 1
    elif key == "bundle":
        after["bundle"] = value or "v1"
        for camera, product in after["product"].items():
            if product == "screw" and after["bundle"] != "v2":
                after["product"][camera] = CONFIG_PRODUCT
    elif key not in ("snapshot", "update"):
        default = {"threshold": CONFIG_THRESHOLD, "product": CONFIG_PRODUCT, "paused": False}[key]
        after[key]["cam0"] = default if value is None or value == "" else value
    return after


def fuzz(folder: Path, examples: int, *, derandomize: bool, caplog: pytest.LogCaptureFixture) -> Counter[str]:
    (folder / "v2").mkdir()
    controls, publisher, counts = FakeControls(), FakePublisher(), Counter[str]()
    steps = iter(range(10**9))
    wall_s = iter([NOW_S - 1000])  # the start
    clock = SpoolClock(wall_s=lambda: next(wall_s, NOW_S), boot_s=lambda: 0.0, boot_id="boot")
    controller = Controller(
        controls,
        publisher,
        AgentConfig(device_id="line3", control=ControlConfig(enabled=True, bundle_dir=folder)),
        StoredSettings(folder / "settings.json", clock=clock),
        nonces=Nonces(),
        clock=clock,
        monotonic=lambda: float(next(steps)),
    )

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )
    @given(target=st.sampled_from(TARGETS), payload=payloads)
    def run(target: str, payload: bytes) -> None:
        before = controls.settings
        caplog.clear()
        del publisher.answers[:]
        answer = publisher.ask(target, payload)
        publisher.ask("cam1/paused", b"barrier")  # the work after a bundle switch is done
        after = controls.settings
        assert len(json.dumps(answer)) < 6 * MAX_ERROR_CHARACTERS
        if answer["error"] is None:
            counts["executed"] += 1
            fields = may_change(payload)
            assert fields is not None, "executed an invalid command"
            stored_product = after["product"] if target == "bundle" else None  # set again from the stored settings
            assert after == expected(before, target, fields.get("value")) | (
                {"product": stored_product} if stored_product else {}
            )
        else:
            counts["refused"] += 1
            assert "internal error" not in answer["error"]
            assert len(answer["error"]) < 700
            assert after == before
            assert any("command refused" in record.message for record in caplog.records)
        assert not any(record.exc_info for record in caplog.records)
        assert all(len(record.getMessage()) < 1000 and "\n" not in record.getMessage() for record in caplog.records)

    with controller:
        run()
        assert any(thread.name == "zsad-control" for thread in threading.enumerate())
    return counts


def test_an_invalid_payload_neither_ends_the_controller_nor_changes_a_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = fuzz(tmp_path, 400, derandomize=True, caplog=caplog)
    assert counts["executed"] > 5 and counts["refused"] > 100


@pytest.mark.chaos
def test_many_invalid_payloads_neither_end_the_controller_nor_change_a_setting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    counts = fuzz(tmp_path, 20_000, derandomize=False, caplog=caplog)
    print(f"commands: {dict(counts)}")
    record(
        "fuzzed command payloads",
        tried=counts.total(),
        lost=0,
        doubled=0,
        recover_s=None,
        note=f"{counts['executed']} valid ones executed, {counts['refused']} refused with a reason; no other effect",
    )
