"""A reload as a plant asks for it: a real process, broker and camera."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from agent_process import DEVICE, AgentProcess
from mjpeg_server import MjpegServer
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener, wait_until

RELOAD = f"zsad/{DEVICE}/reload"


def test_reload_beside_a_slow_camera_goes_on_in_the_same_process(
    mosquitto: Callable[..., MosquittoBroker], tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    arguments = ("--broker", broker.url)
    with (
        MjpegServer() as camera,
        MqttListener(broker.port) as listener,
        AgentProcess(
            tmp_path, tiny_bundle, *arguments, "--source", camera.url, settings="control:\n  enabled: true\n"
        ) as agent,
    ):
        camera.grey = 90
        agent.wait_for_output("inspecting")
        camera.every_s = 2.5  # longer than a stop on a signal may wait for it
        for number in (1, 2):
            reload(agent, listener, number)
        assert "hangs" not in agent.output and "Traceback" not in agent.output


def reload(agent: AgentProcess, listener: MqttListener, number: int) -> None:
    """Asks for the reload of that number and waits for what follows."""
    listener.wait_for(lambda: bool(listener.payloads(f"{RELOAD}/state")))
    command = {"value": None, "id": f"r{number}", "sent_at": time.time()}
    listener.publish(f"{RELOAD}/set", json.dumps(command).encode())
    wait_until(lambda: agent.output.count("starting anew") == number or not agent.running, timeout_s=40)
    assert agent.running, agent.output
    wait_until(lambda: agent.output.count("inspecting stream") == number + 1, timeout_s=40)
