"""A reload as a plant asks for it: a real process, broker and camera."""

from collections.abc import Callable
from pathlib import Path

from agent_process import AgentProcess
from mjpeg_server import MjpegServer
from mosquitto_broker import MosquittoBroker
from mqtt_listener import wait_until
from plant_operator import PlantOperator


def test_reload_beside_a_slow_camera_goes_on_in_the_same_process(
    mosquitto: Callable[..., MosquittoBroker], tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    arguments = ("--broker", broker.url)
    with (
        MjpegServer() as camera,
        PlantOperator(broker.port) as operator,
        AgentProcess(
            tmp_path, tiny_bundle, *arguments, "--source", camera.url, settings="control:\n  enabled: true\n"
        ) as agent,
    ):
        camera.grey = 90
        agent.wait_for_output("inspecting")
        camera.every_s = 2.5  # longer than a stop on a signal may wait for it
        for number in (1, 2):
            reload(agent, operator, number)
        assert "hangs" not in agent.output and "Traceback" not in agent.output


def reload(agent: AgentProcess, operator: PlantOperator, number: int) -> None:
    """Asks for the reload of that number and waits for what follows."""
    operator.wait_until_heard(number)
    assert operator.command("reload")["error"] is None
    wait_until(
        lambda: agent.output.count("restarting with the new config") == number or not agent.running, timeout_s=40
    )
    assert agent.running, agent.output
    wait_until(lambda: agent.output.count("inspecting stream") == number + 1, timeout_s=40)
