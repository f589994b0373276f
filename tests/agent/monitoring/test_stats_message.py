import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from stats_maker import make_stats
from test_metrics_scrape import result

from zsad_agent.messages import AgentSnapshot, RecentResults, SpoolStats, Stats, schema_text
from zsad_agent.monitoring import StatsReporter, stats_reporter
from zsad_core.types import Verdict

SCHEMA = Draft202012Validator(json.loads(schema_text(Stats)), format_checker=FormatChecker())


class Clock:
    now_s = 0.0


def stats(recent: RecentResults | None = None, **changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(make_stats(recent, **changes).encode())
    SCHEMA.validate(message)
    return message


def test_schema_is_valid_json_schema_and_strict() -> None:
    Draft202012Validator.check_schema(SCHEMA.schema)
    with pytest.raises(ValidationError):
        SCHEMA.validate(stats() | {"more": 1})


def test_message_has_the_fields_of_the_schema() -> None:
    recent = RecentResults()
    for latency in (10.0, 20.0, 30.0, None):
        recent.accept(result("cam0", Verdict.OK if latency else Verdict.UNKNOWN, latency), None)
    assert stats(recent) == {
        "schema": "zsad.stats/1",
        "device_id": "line3",
        "instance": "5a01c2ee",
        "at": "2026-11-25T10:28:03.123Z",
        "uptime_s": 61.5,
        "version": "0.1.0",
        "bundle": {"name": "zsad-tiny", "version": "1.0.0", "sha256": "9c" * 32, "device": "CPU"},
        "cameras": {
            "cam0": {
                "up": True,
                "reason": None,
                "results": {"ok": 3, "anomalous": 0, "unknown": 1},
                "dropped": 3,
                "latency_ms": {
                    "capture_to_result": {"p50": 20.0, "p95": 29.0},
                    "inference": {"p50": 20.0, "p95": 29.0},
                },
                "provisional_frames": None,
                "drift": None,
            },
            "cam1": {
                "up": False,
                "reason": "no frame for 5 s",
                "results": {"ok": 0, "anomalous": 0, "unknown": 0},
                "dropped": 0,
                "latency_ms": {"capture_to_result": None, "inference": None},
                "provisional_frames": None,
                "drift": None,
            },
        },
        "spool": {"entries": 4, "bytes": 8192, "oldest_age_s": 12.5},
        "broker": {
            "connections": 2,
            "acknowledged": 100,
            "replayed": 5,
            "given_up": {"age": 0, "count": 7},
            "attached_images_given_up": {"disk": 6},
        },
        "evidence": {"kept": 9, "dropped": 1, "pruned": 2, "bytes": 1000},
        "faults": ["the disk is full"],
        "command_nonce": "5f2c",
    }


def test_the_published_bytes_are_those_of_the_contract() -> None:
    recent = RecentResults()
    recent.accept(result("cam0", Verdict.OK, 10.1234), None)
    reasons = {"cam0": None, "cam1": "caf\udce9 \u00e9"}
    spool = SpoolStats(entries=4, bytes=8192, oldest_age_s=3.2e-05)
    assert make_stats(recent, reasons, spool=spool).encode() == (
        b'{"schema":"zsad.stats/1","device_id":"line3","instance":"5a01c2ee","at":"2026-11-25T10:28:03.123Z","uptime_s":61.5,'
        b'"version":"0.1.0","bundle":{"name":"zsad-tiny","version":"1.0.0","sha256":"' + b"9c" * 32 + b'",'
        b'"device":"CPU"},"cameras":{"cam0":{"up":true,"reason":null,"results":{"ok":1,"anomalous":0,"unknown":0},'
        b'"dropped":3,"latency_ms":{"capture_to_result":{"p50":10.123,"p95":10.123},'
        b'"inference":{"p50":10.123,"p95":10.123}},"provisional_frames":null,'
        b'"drift":null},"cam1":{"up":false,"reason":"caf? \xc3\xa9",'
        b'"results":{"ok":0,"anomalous":0,"unknown":0},"dropped":0,'
        b'"latency_ms":{"capture_to_result":null,"inference":null},"provisional_frames":null,"drift":null}},'
        b'"spool":{"entries":4,"bytes":8192,"oldest_age_s":3.2e-05},'
        b'"broker":{"connections":2,"acknowledged":100,"replayed":5,"given_up":{"age":0,"count":7},'
        b'"attached_images_given_up":{"disk":6}},"evidence":{"kept":9,"dropped":1,"pruned":2,"bytes":1000},'
        b'"faults":["the disk is full"],"command_nonce":"5f2c"}'
    )


def test_message_of_an_agent_without_results_is_valid() -> None:
    none = {"evidence": None, "cameras": {}, "faults": (), "command_nonce": None}
    message = stats(**none, spool=SpoolStats(entries=0, bytes=0, oldest_age_s=None))
    assert (message["cameras"], message["evidence"], message["faults"]) == ({}, None, [])


def test_statistics_are_published_at_once_when_a_fault_begins_or_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_reporter, "FAULTS_EVERY_S", 0.0)
    faults: list[str] = []
    published: list[str] = []
    snapshot = AgentSnapshot(
        stats=make_stats(),
        connected=True,
        broker_fault=None,
        spool_fault=None,
        model_fault=None,
        service_faults={},
        live_images_dropped={},
    )
    reporter = StatsReporter(lambda: snapshot, lambda: list(faults), lambda topic, payload: published.append(topic))
    for said, change in ((1, None), (1, None), (2, faults.append), (2, None), (3, faults.remove), (3, None)):
        if change is not None:
            change("the disk is full")
        reporter.tend()
        assert published == ["stats"] * said


def test_percentiles_use_the_last_five_minutes_and_counts_use_all_results() -> None:
    clock = Clock()
    recent = RecentResults(lambda: clock.now_s)
    recent.accept(result(latency=1000.0), None)
    clock.now_s = 299
    recent.accept(result(latency=10.0), None)
    assert stats(recent)["cameras"]["cam0"]["latency_ms"]["inference"]["p95"] > 900
    clock.now_s = 301
    assert stats(recent)["cameras"]["cam0"]["latency_ms"]["inference"] == {"p50": 10.0, "p95": 10.0}
    clock.now_s = 1000
    assert stats(recent)["cameras"]["cam0"]["latency_ms"]["inference"] is None
    assert stats(recent)["cameras"]["cam0"]["results"]["ok"] == 2


def test_memory_is_bounded_for_any_number_of_results() -> None:
    recent = RecentResults(lambda: 0.0)
    for latency in range(5000):
        recent.accept(result(latency=float(latency)), None)
    assert stats(recent)["cameras"]["cam0"]["latency_ms"]["inference"] == {"p50": 3999.5, "p95": 4899.05}
