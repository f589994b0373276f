"""The agent as a process with several cameras: triggers, folders, statuses, evidence, crashes."""

import json
import os
import random
import re
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import psutil
import pytest
from agent_process import STOP_S, AgentProcess
from bundle_attacks import change_manifest, copy_bundle
from mjpeg_server import MjpegServer
from mosquitto_broker import MosquittoBroker
from mqtt_listener import wait_until
from plant_operator import BASE, PATIENCE_S, PlantOperator, write_part, write_parts

from zsad_agent.messages import Result, Stats, schema_text
from zsad_core.bundle import read_manifest

Brokers = Callable[..., MosquittoBroker]
TRIGGERS = 30


def trigger_ids(results: list[dict[str, Any]]) -> list[str | None]:
    return [result.get("trigger_id") for result in results]


def scores(operator: PlantOperator) -> set[int]:
    """Of all results, as grey levels."""
    return {round(result["anomaly_score"] * 255) for result in operator.results_of() if result["anomaly_score"]}


def test_every_trigger_has_a_result_also_during_camera_faults(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    folder = write_parts(tmp_path / "parts", blot=0)
    with MjpegServer() as server, PlantOperator(broker.port) as operator:
        server.grey = 200
        settings = (
            f"mqtt:\n  broker: {broker.url}\ncameras:\n"
            f"  - {{name: live, source: '{server.url}', trigger: mqtt, stale_after_s: 3, reopen_max_s: 0.5,"
            " health: {frozen_after_s: 0}}\n"
            f"  - {{name: folder, source: {folder}, trigger: mqtt, loop: true}}\n"
        )
        with AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
            operator.wait_for(lambda: operator.payloads(f"{BASE}/live/status"), PATIENCE_S)
            wanted = [f"part-{number}" for number in range(TRIGGERS)]
            for trigger_id in wanted:
                operator.publish(f"{BASE}/live/trigger", json.dumps({"id": trigger_id}).encode())
                operator.publish(f"{BASE}/folder/trigger", trigger_id.encode())
                time.sleep(0.03)
            for camera, verdict in (("live", "ok"), ("folder", "anomalous")):
                operator.wait_for(lambda camera=camera: len(operator.results_of(camera)) == TRIGGERS, PATIENCE_S)
                assert trigger_ids(operator.results_of(camera)) == wanted
                assert {result["verdict"] for result in operator.results_of(camera)} == {verdict}

            server.stalled = True
            time.sleep(1.0)  # the last frames arrive
            operator.publish(f"{BASE}/live/trigger", b"amid")
            operator.wait_for(lambda: "amid" in trigger_ids(operator.results_of("live")), PATIENCE_S)
            operator.publish(f"{BASE}/live/trigger", b"after")
            operator.wait_for(lambda: "after" in trigger_ids(operator.results_of("live")), PATIENCE_S)
            lost = [result for result in operator.results_of("live") if result.get("trigger_id") in ("amid", "after")]
            assert [result["verdict"] for result in lost] == ["unknown", "unknown"] and lost[1]["reason"]
            server.stalled = False
            operator.wait_for(lambda: b'"ok"' in operator.payloads(f"{BASE}/live/status")[-1], PATIENCE_S)
            operator.publish(f"{BASE}/live/trigger", b"back")
            operator.wait_for(lambda: "back" in trigger_ids(operator.results_of("live")), PATIENCE_S)
            assert operator.results_of("live")[-1]["verdict"] == "ok"

            for trigger_id in wanted:  # all at once
                operator.publish(f"{BASE}/folder/trigger", f"burst-{trigger_id}".encode())
            operator.wait_for(lambda: len(operator.results_of("folder")) == 2 * TRIGGERS, PATIENCE_S)
            assert trigger_ids(operator.results_of("folder"))[TRIGGERS:] == [f"burst-{name}" for name in wanted]
            code, spent_s = agent.terminate()
            assert (code, spent_s < STOP_S) == (0, True), agent.output
    assert "Traceback" not in agent.output


@pytest.mark.parametrize(("kills", "files"), [(1, 25), pytest.param(3, 40, marks=pytest.mark.chaos)])
def test_every_file_of_a_watched_folder_has_a_result_after_kills_of_the_agent(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, kills: int, files: int
) -> None:
    broker = mosquitto()
    folder = tmp_path / "dropped"
    folder.mkdir()
    settings = (
        f"mqtt:\n  broker: {broker.url}\nsource:\n  source: {folder}\n  trigger: folder\nevidence:\n  enabled: true\n"
    )
    (folder / "broken.png").write_bytes(write_part(tmp_path / "whole.png").read_bytes()[:-40])

    def drop() -> None:
        for number in range(files):
            write_part(folder / f"{number:03}.png", grey=20 + 3 * number)
            time.sleep(0.08)

    chance, dropping = random.Random(5), threading.Thread(target=drop)
    with PlantOperator(broker.port) as operator:
        dropping.start()
        for kill in [True] * kills + [False]:
            with AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
                if kill:
                    agent.wait_for_output("inspecting folder", PATIENCE_S)
                    time.sleep(chance.uniform(0.2, 0.8))
                    agent.kill()
                    continue
                dropping.join()
                wait_until(lambda: not list(folder.glob("*.png")), PATIENCE_S)
                operator.wait_for(lambda: "unknown" in {result["verdict"] for result in operator.results_of()})
                operator.wait_for(lambda: scores(operator) == {255 - 20 - 3 * number for number in range(files)})
                agent.terminate()
        results = {result["id"]: result for result in operator.results_of()}
    assert len(list((folder / "inspected").iterdir())) == files
    assert [path.name for path in (folder / "unreadable").iterdir()] == ["broken.png"]
    assert sum(result["verdict"] == "unknown" for result in results.values()) == 1
    assert "Traceback" not in agent.output


HANGING_SHARE = """
import os, time
name, share, hangs = (os.environ["SHARE_" + word] for word in ("CALL", "PATH", "HANGS"))
real = getattr(os, name)
def call(path, *values, **named):
    while str(path).startswith(share) and os.path.exists(hangs):
        time.sleep(0.05)
    return real(path, *values, **named)
setattr(os, name, call)
"""


@pytest.mark.parametrize(("call", "stale_after_s"), [("rename", 60.0), ("scandir", 0.5)])
def test_signal_ends_an_agent_whose_watched_share_hangs_and_every_file_has_a_result(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path, call: str, stale_after_s: float
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGING_SHARE)
    broker, share, hangs = mosquitto(), tmp_path / "share", tmp_path / "hangs"
    share.mkdir()
    environment = {"SHARE_CALL": call, "SHARE_PATH": str(share), "SHARE_HANGS": str(hangs)}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    settings = (
        f"mqtt:\n  broker: {broker.url}\n"
        f"source: {{source: {share}, trigger: folder, stale_after_s: {stale_after_s}, reopen_max_s: 0.5}}\n"
    )
    with PlantOperator(broker.port) as operator:
        with AgentProcess(tmp_path, tiny_bundle, environment=environment, settings=settings) as agent:
            write_part(share / "a.png", grey=50)
            wait_until(lambda: (share / "inspected" / "a.png").exists(), PATIENCE_S)
            hangs.touch()
            if call == "rename":
                write_part(share / "b.png", grey=80)
                operator.wait_for(lambda: len(operator.results_of()) == 2, PATIENCE_S)
                time.sleep(0.5)  # the move has begun
            else:
                agent.wait_for_output("no answer for 0.5 s", PATIENCE_S)
                write_part(share / "b.png", grey=80)
            code, spent_s = agent.terminate()
            assert (code, spent_s < STOP_S) == (0, True), (spent_s, agent.output)
            assert "LOST" not in agent.output and "Traceback" not in agent.output
        assert (share / "b.png").exists()
        hangs.unlink()
        with AgentProcess(tmp_path, tiny_bundle, environment=environment, settings=settings):
            wait_until(lambda: (share / "inspected" / "b.png").exists(), PATIENCE_S)
            operator.wait_for(lambda: scores(operator) == {255 - 50, 255 - 80})


def fetch(agent: AgentProcess, path: str) -> tuple[int, str]:
    found = re.findall(r"metrics and health at (http://[0-9.:]+)", agent.output)
    try:
        with urllib.request.urlopen(found[-1] + path, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def five_cameras(folder: Path, server: MjpegServer, broker: MosquittoBroker) -> str:
    mask = np.zeros((48, 64), np.uint8)
    mask[:, :32] = 255
    cv2.imwrite(str(folder / "mask.png"), mask)
    parts = write_parts(folder / "parts", blot=0)
    calm = "loop: true, fps: 20"
    return (
        f"mqtt:\n  broker: {broker.url}\ncontrol:\n  enabled: true\n  bundle_dir: {folder}\n"
        "http:\n  listen: 127.0.0.1:0\nevidence:\n  enabled: true\n  passes_every: 3\n  min_free_bytes: 0\n"
        "spool:\n  pictures: rejects\nlog_format: json\ncameras:\n"
        f"  - {{name: whole, source: {parts}, {calm}, product: bottle, decision: {{threshold: 0.3}}}}\n"
        f"  - {{name: right, source: {parts}, {calm}, region_xywh: [32, 0, 32, 48]}}\n"
        f"  - {{name: masked, source: {parts}, {calm}, ignore_mask: {folder / 'mask.png'}}}\n"
        f"  - {{name: net, source: '{server.url}', fps: 20, stale_after_s: 3, health: {{frozen_after_s: 0}}}}\n"
        "  - {name: gone, camera: 250}\n"
    )


def test_each_camera_of_an_agent_has_its_own_settings_and_correct_reports(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    bundle = copy_bundle(tiny_bundle, tmp_path / "scored")
    model = json.loads(read_manifest(bundle))["model"] | {"score": {"top_fraction": 0.0, "pool": 1}}
    change_manifest(bundle, model=model)
    with MjpegServer() as server, PlantOperator(broker.port) as operator:
        server.grey, server.left_grey = 250, 60
        settings = five_cameras(tmp_path, server, broker)
        with AgentProcess(tmp_path, bundle, settings=settings) as agent:
            names = ("whole", "right", "masked", "net", "gone")
            operator.wait_for(lambda: operator.results_of("gone"), PATIENCE_S)
            last = {name: operator.next_results(4, name)[-1] for name in names[:-1]}
            assert {name: result["verdict"] for name, result in last.items()} == {
                "whole": "anomalous",
                "right": "ok",
                "masked": "ok",
                "net": "anomalous",
            }
            assert (last["whole"]["product"], last["whole"]["threshold"]) == ("bottle", 0.3)
            assert (last["net"]["product"], last["net"]["threshold"]) == ("object", 0.5)
            assert last["whole"]["anomaly_score"] == pytest.approx(0.8, abs=0.02)
            assert operator.results_of("gone")[0]["verdict"] == "unknown"
            assert operator.command("right/threshold", 0.01)["error"] is None
            assert operator.result_where(lambda r: r["threshold"] == 0.01, "right")["verdict"] == "anomalous"
            assert operator.next_results(1, "masked")[0]["threshold"] == 0.5

            status, body = fetch(agent, "/readyz")
            assert (status, "camera gone: camera /dev/video250: does not exist" in body) == (503, True)
            assert not any(f"camera {name}" in body for name in names[:-1])
            assert fetch(agent, "/healthz")[0] == 200
            server.stalled = True
            wait_until(lambda: "camera net: " in fetch(agent, "/readyz")[1], PATIENCE_S)
            server.stalled = False
            wait_until(lambda: "camera net: " not in fetch(agent, "/readyz")[1], PATIENCE_S)
            _, metrics = fetch(agent, "/metrics")
            for line in (
                'zsad_camera_up{camera="gone"} 0',
                'zsad_camera_up{camera="whole"} 1',
                "zsad_broker_connected 1",
            ):
                assert line in metrics
            counted = re.search(r'zsad_results_total\{camera="whole",verdict="anomalous"\} (\d+)', metrics)
            assert counted is not None and int(counted[1]) >= 4

            readers = psutil.Process(agent.pid).children()
            assert readers
            agent.signal(signal.SIGSEGV)
            assert agent.wait() == -signal.SIGSEGV
            assert psutil.wait_procs(readers, 60)[1] == []  # no command pauses a camera
        check_messages(operator, names)
        with AgentProcess(tmp_path, bundle, settings=settings) as agent:
            agent.wait_for_output("the last run ended with Fatal Python error: Segmentation fault", PATIENCE_S)
            operator.next_results(3, "whole")
            assert operator.next_results(3, "right")[-1]["threshold"] == 0.01
            code, spent_s = agent.terminate()
            assert (code, spent_s < STOP_S) == (0, True), agent.output
        operator.wait_for(lambda: operator.payloads(f"{BASE}/available")[-1] == b"offline")
        assert all(json.loads(line)["level"] for line in agent.output.splitlines())
    check_evidence(tmp_path / "state" / "evidence", names)


def check_messages(operator: PlantOperator, names: tuple[str, ...]) -> None:
    valid = jsonschema.Draft202012Validator(json.loads(schema_text(Result)))
    for result in operator.results():
        valid.validate(result)
    assert operator.payloads(f"{BASE}/stats")
    for payload in operator.payloads(f"{BASE}/stats"):
        stats = json.loads(payload)
        jsonschema.validate(stats, json.loads(schema_text(Stats)))
        assert list(stats["cameras"]) == list(names)


def check_evidence(folder: Path, names: tuple[str, ...]) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    for path in folder.glob("*/*/*.json"):  # the last file of a set
        if json.loads(path.read_text())["verdict"] != "unknown":  # a lost camera gives no picture
            assert path.with_suffix(".jpg").is_file() and path.with_suffix(".overlay.jpg").is_file()
    assert any(folder.glob("whole/*/*.json"))
    assert any(json.loads(path.read_text())["verdict"] == "ok" for path in folder.glob("masked/*/*.json"))
