import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from agent_process import AgentProcess
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import MqttListener

from zsad_agent.config import AgentConfig
from zsad_agent.dashboards import discovery_messages

TOPIC = "homeassistant/device/zsad_line3/config"
RELEASE = ("homeassistant==2024.3.3", "josepy<2", "paho-mqtt==1.6.1")  # the newest that Python 3.11 can run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    image = np.full((240, 320, 3), 250, np.uint8)
    cv2.circle(image, (160, 120), 100, (200, 200, 200), 5)
    image[60:120, 80:160] = 0
    cv2.imwrite(str(folder / "bad.png"), image)
    return folder


def settings(broker: MosquittoBroker, pictures: Path, home_assistant: str) -> str:
    return (
        f"mqtt:\n  broker: {broker.url}\ncontrol: {{enabled: true}}\nhome_assistant: {home_assistant}\n"
        f"source: {{source: {pictures}, loop: true, fps: 2}}\n"
    )


def test_the_discovery_is_there_repeated_at_a_birth_and_removed_when_switched_off(
    tmp_path: Path, tiny_bundle: Path, pictures: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        with AgentProcess(tmp_path, tiny_bundle, settings=settings(broker, pictures, "{enabled: true}")) as agent:
            listener.wait_for(lambda: listener.payloads(TOPIC))
            listener.wait_for(lambda: listener.results())
            listener.publish("homeassistant/status", b"offline")
            listener.publish("homeassistant/status", b"online")
            listener.wait_for(lambda: len(listener.payloads(TOPIC)) == 2)
            assert agent.terminate()[0] == 0
        first, second = listener.payloads(TOPIC)
        assert first == second and json.loads(first)["components"]["cam0_score"]["platform"] == "sensor"
        with AgentProcess(tmp_path, tiny_bundle, settings=settings(broker, pictures, "{enabled: false}")):
            listener.wait_for(lambda: listener.payloads(TOPIC)[-1] == b"")
    with MqttListener(broker.port) as late:
        late.wait_for(lambda: late.topics)
        assert TOPIC not in late.topics


def test_each_camera_and_each_right_has_its_entities() -> None:
    def of(**sections: object) -> dict[str, dict[str, object]]:
        config = AgentConfig.model_validate({"device_id": "line.3", "home_assistant": {"enabled": True}, **sections})
        (topic, payload), *rest = discovery_messages(config, "1.0").items()
        assert topic == "homeassistant/device/zsad_line_3/config" and not rest
        found: dict[str, dict[str, object]] = json.loads(payload)["components"]
        assert len({str(entity["unique_id"]) for entity in found.values()}) == len(found)
        return found

    plain = of()
    assert {"cam0_score", "cam0_defect", "cam0_heatmap", "cam0_health", "waiting", "faults"} <= plain.keys()
    assert not {"cam0_threshold", "cam0_product", "cam0_paused"} & plain.keys()
    assert {"cam0_threshold", "cam0_product", "cam0_paused"} <= of(control={"enabled": True}).keys()
    assert "cam0_heatmap" not in of(heatmap={"enabled": False})
    two = of(cameras=({"name": "top", "source": "/tmp/a"}, {"name": "side.2", "source": "/tmp/b"}))
    assert {"top_score", "side_2_score"} <= two.keys()
    assert two["side_2_count_ok"]["value_template"] == '{{ value_json.cameras["side.2"].results.ok }}'


@pytest.mark.chaos
def test_a_real_home_assistant_finds_an_agent_that_it_has_never_heard_of(
    tmp_path: Path, tiny_bundle: Path, pictures: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    """Fetches Home Assistant."""
    python = tmp_path / "environment/bin/python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "environment")], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "-q", *RELEASE], check=True, timeout=1200)
    broker = mosquitto()
    text = settings(broker, pictures, "{enabled: true, format: components}")
    with MqttListener(broker.port) as listener, AgentProcess(tmp_path, tiny_bundle, settings=text):
        listener.wait_for(lambda: listener.results())
        command = [
            str(python),
            str(Path(__file__).parents[2] / "home_assistant_run.py"),
            str(tmp_path / "home"),
            str(broker.port),
            str(free_port()),
            "15",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == ["line3"] and found["threshold"] == "0.321"
    states = found["states"]
    assert states["binary_sensor.line3_cam0_defect"] == "on" and states["sensor.line3_cam0_verdict"] == "anomalous"
    assert float(states["sensor.line3_cam0_anomaly_score"]) > 0.5 and states["image.line3_cam0_heatmap"] != "unknown"
    assert states["number.line3_cam0_threshold"] == "0.5" and states["select.line3_cam0_inspection"] == "running"
