import threading
import time
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from result_maker import make_result

from zsad_agent.messages import (
    AgentSnapshot,
    BrokerSnapshot,
    BundleSnapshot,
    CameraSnapshot,
    EvidenceStats,
    Latency,
    Result,
    SpoolSnapshot,
    what_is_missing,
)
from zsad_agent.monitoring import Metrics
from zsad_core.types import Verdict

AGENT = AgentSnapshot(
    device_id="line3",
    version="0.1.0",
    uptime_s=61.5,
    bundle=BundleSnapshot(name="zsad-tiny", version="1.0.0", sha256="9c" * 32, device="CPU"),
    cameras={
        "cam0": CameraSnapshot(up=True, reason=None, dropped=3),
        "cam1": CameraSnapshot(up=False, reason="no frame for 5 s", dropped=0),
    },
    spool=SpoolSnapshot(entries=4, bytes=8192, oldest_age_s=12.5),
    broker=BrokerSnapshot(
        connected=True,
        reason=None,
        connections=2,
        acknowledged=100,
        replayed=5,
        given_up={"age": 0, "count": 7},
        attached_images_given_up={"disk": 6},
    ),
    evidence=EvidenceStats(kept=9, dropped=1, pruned=2, bytes=1000),
)


def result(camera: str = "cam0", verdict: Verdict = Verdict.OK, latency: float | None = 41.2) -> Result:
    latency_ms = Latency(capture_to_result=latency, inference=latency)
    return make_result(camera=camera, verdict=verdict, latency_ms=latency_ms)


def values(metrics: Metrics) -> dict[str, float]:
    """`name{label="value"}` -> value, as Prometheus would read it."""
    read = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            read[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return read


def test_every_count_is_there_from_the_start() -> None:
    found = values(Metrics(["cam0", "cam1"], lambda: AGENT))
    assert {
        name: value for name, value in found.items() if not name.startswith("process_") and "_bucket" not in name
    } == {
        **{
            f'zsad_results_total{{camera="{camera}",verdict="{verdict}"}}': 0
            for camera in ("cam0", "cam1")
            for verdict in ("ok", "anomalous", "unknown")
        },
        **{
            f'zsad_{name}_seconds_{part}{{camera="{camera}"}}': 0
            for name in ("capture_to_result", "inference")
            for part in ("count", "sum")
            for camera in ("cam0", "cam1")
        },
        'zsad_frames_dropped_total{camera="cam0"}': 3,
        'zsad_frames_dropped_total{camera="cam1"}': 0,
        'zsad_camera_up{camera="cam0"}': 1,
        'zsad_camera_up{camera="cam1"}': 0,
        "zsad_spool_entries": 4,
        "zsad_spool_bytes": 8192,
        "zsad_spool_oldest_age_seconds": 12.5,
        "zsad_broker_connected": 1,
        "zsad_broker_connections_total": 2,
        "zsad_results_acknowledged_total": 100,
        "zsad_results_replayed_total": 5,
        'zsad_results_given_up_total{cause="age"}': 0,
        'zsad_results_given_up_total{cause="count"}': 7,
        'zsad_attached_images_given_up_total{cause="disk"}': 6,
        "zsad_evidence_kept_total": 9,
        "zsad_evidence_dropped_total": 1,
        "zsad_evidence_pruned_total": 2,
        "zsad_evidence_bytes": 1000,
        "zsad_uptime_seconds": 61.5,
        'zsad_build_info{bundle="zsad-tiny",bundle_sha256="' + "9c" * 32 + '",bundle_version="1.0.0",device="CPU",'
        'version="0.1.0"}': 1,
    }
    assert found["process_resident_memory_bytes"] > 1e6
    assert found["process_threads"] >= 1 and found["process_open_fds"] >= 3


def test_results_are_counted_by_camera_and_verdict_with_their_latency() -> None:
    metrics = Metrics(["cam0"], lambda: AGENT)
    metrics.accept(result(), None)
    metrics.accept(result(latency=300.0, verdict=Verdict.ANOMALOUS), None)
    metrics.accept(result("new", Verdict.UNKNOWN, None), None)
    found = values(metrics)
    assert found['zsad_results_total{camera="cam0",verdict="ok"}'] == 1
    assert found['zsad_results_total{camera="new",verdict="unknown"}'] == 1
    assert found['zsad_capture_to_result_seconds_sum{camera="cam0"}'] == pytest.approx(0.3412)
    assert found['zsad_capture_to_result_seconds_bucket{camera="cam0",le="0.05"}'] == 1
    assert found['zsad_inference_seconds_bucket{camera="cam0",le="0.5"}'] == 2


def test_agent_without_model_and_evidence_is_answered() -> None:
    found = values(Metrics([], lambda: replace(AGENT, bundle=None, evidence=None)))
    assert 'zsad_build_info{bundle="",bundle_sha256="",bundle_version="",device="",version="0.1.0"}' in found
    assert "zsad_evidence_bytes" not in found


def test_reading_that_fails_leaves_the_others(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> AgentSnapshot:
        raise OSError("gone")

    metrics = Metrics(["cam0"], fail)
    metrics.render()
    assert 'zsad_results_total{camera="cam0",verdict="ok"}' in values(metrics)
    assert [record.message for record in caplog.records] == ["a metric cannot be read: OSError: gone"]


def test_label_values_of_any_text_are_read_at_each_scrape() -> None:
    given_up = {"count": 1}
    metrics = Metrics([], lambda: replace(AGENT, broker=replace(AGENT.broker, given_up=given_up)))
    given_up['quo"te\n'] = 2
    found = values(metrics)
    assert found['zsad_results_given_up_total{cause="count"}'] == 1
    assert found['zsad_results_given_up_total{cause="quo"te\n"}'] == 2


def test_names_follow_the_conventions_of_prometheus() -> None:
    for family in text_string_to_metric_families(Metrics(["cam0"], lambda: AGENT).render().decode()):
        assert family.documentation, family.name
        assert family.name.startswith(("zsad_", "process_"))
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name
        assert not family.name.endswith(("_ms", "_created", "_kb"))


def test_counting_costs_microseconds_and_scrapes_meanwhile_are_whole() -> None:
    metrics = Metrics(["cam0"], lambda: AGENT)
    done = threading.Event()
    scrapes: list[dict[str, float]] = []

    def scrape() -> None:
        while not done.is_set():
            scrapes.append(values(metrics))

    thread = threading.Thread(target=scrape)
    thread.start()
    started_s = time.thread_time()
    for _ in range(2000):
        metrics.accept(result(), None)
    spent_s = time.thread_time() - started_s
    done.set()
    thread.join()
    assert spent_s / 2000 < 0.001
    counts = [scrape['zsad_results_total{camera="cam0",verdict="ok"}'] for scrape in scrapes]
    assert counts == sorted(counts)


def test_ready_names_every_reason() -> None:
    cam1 = "camera cam1: no frame for 5 s"
    assert what_is_missing(AGENT) == [cam1]
    assert what_is_missing(replace(AGENT, cameras={"cam0": AGENT.cameras["cam0"]})) == []
    lost = replace(AGENT.broker, connected=False, reason="no answer")
    refusing = replace(AGENT, cameras={"cam0": AGENT.cameras["cam0"]}, broker=replace(AGENT.broker, reason="refused"))
    assert what_is_missing(refusing) == ["broker: refused"]
    assert what_is_missing(replace(AGENT, bundle=None, broker=lost)) == [
        "the model is not loaded",
        cam1,
        "broker: no answer",
    ]
