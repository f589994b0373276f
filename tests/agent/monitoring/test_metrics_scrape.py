import threading
import time
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from result_maker import make_result
from stats_maker import AGENT, BROKER, make_stats

from zsad_agent.messages import AgentSnapshot, BrokerStats, Latency, Result, what_is_missing
from zsad_agent.monitoring import Metrics
from zsad_core.types import Verdict


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
            f'zsad_{name}_{part}{{camera="{camera}"}}': 0
            for name in ("anomaly_score", "capture_to_result_seconds", "inference_seconds")
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
        'zsad_live_images_dropped_total{kind="heatmap"}': 8,
        'zsad_live_images_dropped_total{kind="image"}': 1,
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
    assert found['zsad_anomaly_score_bucket{camera="cam0",le="0.5"}'] == 1
    assert found['zsad_anomaly_score_count{camera="cam0"}'] == 2
    assert 'zsad_anomaly_score_count{camera="new"}' not in found  # an unknown part has no score


def test_agent_without_evidence_has_no_metrics_of_it() -> None:
    found = values(Metrics([], lambda: replace(AGENT, stats=make_stats(evidence=None))))
    assert "zsad_evidence_bytes" not in found and found["zsad_uptime_seconds"] == 61.5


def test_failed_reading_does_not_remove_other_metrics(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> AgentSnapshot:
        raise OSError("gone")

    metrics = Metrics(["cam0"], fail)
    metrics.render()
    assert 'zsad_results_total{camera="cam0",verdict="ok"}' in values(metrics)
    assert [record.message for record in caplog.records] == ["a metric cannot be read: OSError: gone"]


def broker_with(given_up: dict[str, int]) -> BrokerStats:
    return BrokerStats(**(dict(BROKER) | {"given_up": given_up}))


def test_label_values_of_any_text_are_read_at_each_scrape() -> None:
    given_up = {"count": 1}
    metrics = Metrics([], lambda: replace(AGENT, stats=make_stats(broker=broker_with(given_up))))
    given_up['quo"te\n'] = 2
    found = values(metrics)
    assert found['zsad_results_given_up_total{cause="count"}'] == 1
    assert found['zsad_results_given_up_total{cause="quo"te\n"}'] == 2


def test_names_follow_the_conventions_of_prometheus() -> None:
    families = list(text_string_to_metric_families(Metrics(["cam0"], lambda: AGENT).render().decode()))
    assert len(families) > 10
    for family in families:
        assert family.documentation, family.name
        assert family.name.startswith(("zsad_", "process_"))
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples), family.name
        assert not family.name.endswith(("_ms", "_created", "_kb"))


def test_counting_takes_microseconds_and_concurrent_scrapes_are_complete() -> None:
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
    whole = replace(AGENT, stats=make_stats(reasons={"cam0": None}))
    assert what_is_missing(AGENT) == [cam1]
    assert what_is_missing(whole) == []
    assert what_is_missing(replace(whole, broker_fault="refused")) == ["broker: refused"]
    assert what_is_missing(replace(whole, spool_fault="the disk is full")) == ["disk: the disk is full"]
    assert what_is_missing(replace(whole, connected=False)) == ["broker: not connected"]
    assert what_is_missing(replace(AGENT, connected=False, broker_fault="no answer")) == [cam1, "broker: no answer"]
