"""Reloads with a real process, broker and camera."""

import json
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from agent_process import AgentProcess
from mjpeg_server import MjpegServer
from mosquitto_broker import MosquittoBroker
from mqtt_listener import wait_until
from plant_operator import BASE, PlantOperator, write_parts


def test_reload_with_a_slow_camera_continues_in_the_same_process(
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
        camera.every_s = 2.5  # longer than the stop after a signal may take
        for number in (1, 2):
            reload(agent, operator, number)
        assert "hangs" not in agent.output and "Traceback" not in agent.output


def test_reload_does_not_wait_for_a_silent_camera_and_leaves_no_process(
    mosquitto: Callable[..., MosquittoBroker], tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    with socket.create_server(("127.0.0.1", 0)) as silent, PlantOperator(broker.port) as operator:
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/line"
        source = f"source:\n  source: {url}\n  stale_after_s: 60\n"
        settings = f"mqtt:\n  broker: {broker.url}\ncontrol:\n  enabled: true\n{source}"
        with AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
            agent.wait_for_output("inspecting")
            camera, _ = silent.accept()  # and says nothing
            operator.wait_until_heard(1)
            assert operator.command("reload")["error"] is None
            asked_s = time.monotonic()
            agent.wait_for_output("restarting with the new config")
            assert time.monotonic() - asked_s < 40  # 1 s on a machine without other work; the camera may take 70 s
            wait_until(lambda: agent.output.count("inspecting stream") == 2)
            wait_until(lambda: len(psutil.Process(agent.pid).children(recursive=True)) == 1)
            assert agent.terminate()[0] == 0
        camera.close()


def reload(agent: AgentProcess, operator: PlantOperator, number: int) -> None:
    """Sends reload `number` and waits for its end."""
    operator.wait_until_heard(number)
    assert operator.command("reload")["error"] is None
    wait_until(lambda: agent.output.count("restarting with the new config") == number or not agent.running)
    assert agent.running, agent.output
    wait_until(lambda: agent.output.count("inspecting stream") == number + 1)


def test_sighup_reloads_and_never_ends_the_agent(
    mosquitto: Callable[..., MosquittoBroker], tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    parts = write_parts(tmp_path / "parts", grey=170)
    source = f"source:\n  source: {parts}\n  loop: true\n  fps: 20\n"
    settings = f"mqtt:\n  broker: {broker.url}\n{source}"

    def restarts(agent: AgentProcess) -> int:
        return agent.output.count("restarting with the new config")

    with PlantOperator(broker.port) as operator, AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
        wait_until(lambda: handles_sighup(agent))  # from then on, also while the model is compiled
        agent.signal(signal.SIGHUP)
        wait_until(lambda: restarts(agent) == 1 or not agent.running)
        operator.next_results(3)

        config = tmp_path / "agent.yaml"
        good = config.read_text()
        for broken in (good + "hue: red\n", "\x00", ""):
            config.write_text(broken)
            if not broken:
                config.unlink()
            before = agent.output.count("not reloaded")
            agent.signal(signal.SIGHUP)
            wait_until(lambda before=before: agent.output.count("not reloaded") > before or not agent.running)
        assert restarts(agent) == 1 and "hue" in agent.output
        operator.next_results(3)

        config.write_text(good + "decision:\n  threshold: 0.2\ncontrol:\n  enabled: true\n")
        for _ in range(50):  # while a reload runs, the camera stops and everything starts again
            agent.signal(signal.SIGHUP)
            time.sleep(0.02)
        assert operator.result_where(lambda result: result["threshold"] == 0.2)["verdict"] == "anomalous"
        operator.state_where("reload", lambda state: state["error"] is None)

        config.write_text("hue: red\n")
        agent.signal(signal.SIGHUP)
        assert "hue" in operator.state_where("reload", lambda state: state["error"])["error"]
        operator.next_results(3)
        agent.signal(signal.SIGTERM)
        for _ in range(100):
            agent.signal(signal.SIGHUP)
            time.sleep(0.02)
        assert agent.wait() == 0, agent.output
    assert json.loads(operator.payloads(f"{BASE}/stats")[-1])["command_nonce"] is not None
    assert "Traceback" not in agent.output


def handles_sighup(agent: AgentProcess) -> bool:
    status = Path(f"/proc/{agent.pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) & 1 << signal.SIGHUP - 1)
