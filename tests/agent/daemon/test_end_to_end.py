"""The agent as a process, on a video file, against a real broker."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest
from agent_process import DEVICE, STOP_S, AgentProcess, write_line_video
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener
from plant_operator import write_parts

from zsad_agent.messages import Result, schema_text
from zsad_agent.spool import Spool

AVAILABLE, RESULT, HEATMAP, STATUS = (
    f"zsad/{DEVICE}/{level}" for level in ("available", "cam0/result", "cam0/heatmap", "cam0/status")
)
Brokers = Callable[..., MosquittoBroker]
NO_BROKER = "mqtt://127.0.0.1:1"


def spooled_ids(agent: AgentProcess) -> list[str]:
    with Spool(agent.spool, max_results=1000) as spool:
        return [json.loads(entry.body)["id"] for entry in spool.read(0, spool.last_id, 1000)]


def test_every_frame_of_a_video_becomes_one_result_in_order(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    video = write_line_video(tmp_path / "line.avi", frames=60)
    with (
        MqttListener(broker.port) as listener,
        AgentProcess(tmp_path, tiny_bundle, "--source", str(video), "--broker", broker.url) as agent,
    ):
        assert agent.wait() == 0, agent.output
        listener.wait_for(lambda: listener.payloads(AVAILABLE) == [b"online", b"offline"])
    results = listener.results()
    assert [result["seq"] for result in results] == list(range(1, 61))
    assert len({result["id"] for result in results}) == 60
    assert [result["verdict"] for result in results] == ["anomalous" if i % 5 == 0 else "ok" for i in range(60)]
    assert not any(result["replayed"] for result in results)
    for result in results:
        jsonschema.validate(result, json.loads(schema_text(Result)))
    x, y, w, h = results[0]["regions"][0]["bbox_xywh"]
    assert abs(x - 80) < 8 and abs(y - 60) < 8 and abs(w - 80) < 16 and abs(h - 60) < 16

    heatmaps = listener.payloads(HEATMAP)
    assert len(heatmaps) == 60
    assert all(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR).shape[1] == 320 for jpeg in heatmaps)
    assert listener.topics.index(AVAILABLE) < listener.topics.index(RESULT)
    assert listener.topics[-1] == AVAILABLE
    assert json.loads(listener.payloads(STATUS)[0])["state"] == "ok"
    assert spooled_ids(agent) == []


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_within_two_seconds_with_everything_published(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, how: signal.Signals
) -> None:
    broker = mosquitto()
    video = write_line_video(tmp_path / "line.avi", frames=20)
    arguments = ("--source", str(video), "--loop", "--broker", broker.url)
    with MqttListener(broker.port) as listener, AgentProcess(tmp_path, tiny_bundle, *arguments) as agent:
        listener.wait_for(lambda: len(listener.results()) > 30)
        code, spent_s = agent.terminate(how)
        assert code == 0, agent.output
        assert spent_s < STOP_S
        listener.wait_for(lambda: listener.payloads(AVAILABLE)[-1:] == [b"offline"])
    kept = spooled_ids(agent)
    sequence = [result["seq"] for result in listener.results()]
    assert sequence == list(range(1, len(sequence) + 1))
    assert [int(result_id.rpartition("-")[2]) for result_id in kept] == list(
        range(len(sequence) + 1, len(sequence) + 1 + len(kept))
    )
    assert "Traceback" not in agent.output


def test_broker_publishes_offline_after_the_agent_was_killed(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    video = write_line_video(tmp_path / "line.avi", frames=20)
    arguments = ("--source", str(video), "--loop", "--fps", "20", "--broker", broker.url)
    with MqttListener(broker.port) as listener, AgentProcess(tmp_path, tiny_bundle, *arguments) as agent:
        listener.wait_for(lambda: len(listener.results()) > 3)
        agent.terminate(signal.SIGKILL)
        listener.wait_for(lambda: listener.payloads(AVAILABLE) == [b"online", b"offline"])


def test_results_without_a_broker_are_kept_and_sent_by_the_next_start(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    video = write_line_video(tmp_path / "line.avi", frames=12)
    with AgentProcess(tmp_path, tiny_bundle, "--source", str(video), "--broker", NO_BROKER) as away:
        assert away.wait() == 0, away.output
    assert f"12 results stay in the spool {away.spool}" in away.output
    kept = spooled_ids(away)
    assert len(set(kept)) == 12

    broker = mosquitto()
    more = ("--source", str(video), "--max-frames", "3", "--broker", broker.url)
    with MqttListener(broker.port) as listener, AgentProcess(tmp_path, tiny_bundle, *more) as agent:
        assert agent.wait() == 0, agent.output
        listener.wait_for(lambda: len(listener.results()) >= 15)
    results = listener.results()
    assert [result["id"] for result in results[:12]] == kept
    assert [result["replayed"] for result in results] == [True] * 12 + [False] * 3
    assert len({result["id"] for result in results}) == 15
    for result in results:
        jsonschema.validate(result, json.loads(schema_text(Result)))


def test_missing_camera_is_a_degraded_state_and_does_not_end_the_agent(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    arguments = ("--camera", "250", "--broker", broker.url)
    with MqttListener(broker.port) as listener, AgentProcess(tmp_path, tiny_bundle, *arguments) as agent:
        listener.wait_for(lambda: listener.results() and listener.payloads(STATUS))
        time.sleep(2)  # several attempts to open it
        code, spent_s = agent.terminate()
        assert (code, spent_s < STOP_S) == (0, True), agent.output
    (result,) = listener.results()
    assert result["verdict"] == "unknown"
    assert "/dev/video250: does not exist. Cameras: " in result["reason"]
    (status,) = listener.payloads(STATUS)
    assert json.loads(status)["state"] == "degraded"
    assert agent.output.count("lost: ") == 1


def test_video_cut_short_ends_with_an_unknown_result_and_exit_one(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    whole = write_line_video(tmp_path / "line.avi", frames=60).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    arguments = ("--source", str(tmp_path / "cut.avi"), "--broker", broker.url)
    with MqttListener(broker.port) as listener, AgentProcess(tmp_path, tiny_bundle, *arguments) as agent:
        assert agent.wait() == 1
        listener.wait_for(lambda: listener.payloads(AVAILABLE)[-1:] == [b"offline"])
    last = listener.results()[-1]
    assert last["verdict"] == "unknown"
    assert "of 60 frames: it is cut short" in last["reason"]
    assert "of 60 frames: it is cut short" in agent.output
    assert "Traceback" not in agent.output


def test_evidence_without_disk_space_is_a_fault_over_mqtt_until_there_is_space(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, tiny_disk: Path
) -> None:
    broker = mosquitto()
    parts = write_parts(tmp_path / "parts", blot=0)
    settings = (
        f"mqtt:\n  broker: {broker.url}\nsource:\n  source: {parts}\n  loop: true\n  fps: 20\nevidence:\n"
        f"  enabled: true\n  path: {tiny_disk}/evidence\n  min_free_bytes: 500000\n"
    )

    def faults() -> list[str]:
        said: list[list[str]] = [json.loads(stats)["faults"] for stats in listener.payloads(f"zsad/{DEVICE}/stats")]
        return said[-1] if said else ["nothing said yet"]

    with MqttListener(broker.port) as listener, AgentProcess(tmp_path, tiny_bundle, settings=settings):
        listener.wait_for(lambda: faults() == [])
        listener.wait_for(lambda: list(tiny_disk.glob("evidence/*/*/*.json")))
        (tiny_disk / "other").write_bytes(bytes(700_000))
        listener.wait_for(lambda: any("other programs fill the disk" in fault for fault in faults()))
        assert list(tiny_disk.glob("evidence/*/*/*.json"))
        (tiny_disk / "other").unlink()
        listener.wait_for(lambda: faults() == [])
