"""The page of a real agent: what it costs when it is off, restarts, a taken port, and the end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from agent_process import STOP_S, AgentProcess, write_line_video
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import MqttListener, wait_until
from page_server import PASSWORD, Client

BROKER = "mqtt://127.0.0.1:1"  # nobody answers there
PAGE_ONLY = {
    "fastapi",
    "starlette",
    "uvicorn",
    "asyncio",
    "ruamel",
    "zsad_agent.web",
    "zsad_agent.daemon.web",
    "zsad_agent.history",
}


def arguments(folder: Path) -> list[str]:
    video = write_line_video(folder / "line.avi", frames=20)
    return ["--broker", BROKER, "--source", str(video), "--loop", "--fps", "10", "--print-results"]


def opened(pid: int) -> set[tuple[str, int]]:
    """Addresses that a process listens on."""
    found = psutil.Process(pid).net_connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


def ready(client: Client) -> bool:
    try:
        return client.ask("GET", "/session").status == 200
    except OSError:
        return False


def faults(listener: MqttListener) -> list[str]:
    """In the newest statistics."""
    found = [json.loads(payload)["faults"] for payload in listener.payloads("zsad/line3/stats")]
    return list(found[-1]) if found else []


@pytest.mark.parametrize("listen", ["", "web:\n  listen: off\n"])
def test_page_that_is_off_opens_no_port_and_imports_nothing(listen: str, tiny_bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    settings = f"http:\n  listen: 127.0.0.1:{port}\n{listen}"
    with AgentProcess(tmp_path, tiny_bundle, *arguments(tmp_path), settings=settings) as agent:
        agent.wait_for_output(" #3 ")
        assert opened(agent.pid) == {("127.0.0.1", port)}
        assert not {"history.sqlite3", "evidence", "audit.jsonl"} & {
            path.name for path in (tmp_path / "state").iterdir()
        }
    script = (
        "import sys\n"
        "from zsad_agent.cli.main import main\n"
        f"code = main(['--config', {str(tmp_path / 'agent.yaml')!r}, *{arguments(tmp_path)!r}, '--max-frames', '3'])\n"
        f"print('imported', sorted({PAGE_ONLY!r} & sys.modules.keys()), code)\n"
    )
    environment = {"STATE_DIRECTORY": str(tmp_path / "state"), "CACHE_DIRECTORY": str(tmp_path / "cache")}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert "imported [] 0" in ran.stdout, ran.stdout + ran.stderr


def test_session_outlives_a_reload_and_open_connections_do_not_delay_the_end(tiny_bundle: Path, tmp_path: Path) -> None:
    port = free_port()
    settings = f"web:\n  listen: 127.0.0.1:{port}\n"
    with AgentProcess(tmp_path, tiny_bundle, *arguments(tmp_path), settings=settings) as agent:
        agent.wait_for_output(" #1 ")
        client = Client(port)
        wait_until(lambda: ready(client))
        assert opened(agent.pid) == {("127.0.0.1", port)}
        client.open().ask("PUT", "/passwords", {"role": "admin", "password": PASSWORD})
        assert client.log_in().status == 200
        assert client.ask("GET", "/readyz", raw=True).json["reasons"][0].startswith("broker: ")
        counter = b'zsad_results_total{camera="cam0",verdict="ok"}'
        wait_until(lambda: counter in client.ask("GET", "/metrics", raw=True).body)
        wait_until(lambda: {"history.sqlite3", "evidence"} <= {path.name for path in (tmp_path / "state").iterdir()})
        agent.signal(signal.SIGHUP)
        agent.wait_for_output("restarting with the new config")
        wait_until(lambda: agent.output.count("page at http://") == 2 and ready(client))
        assert client.ask("GET", "/session").json["role"] == "admin"
        idle = socket.create_connection(("127.0.0.1", port), timeout=30)
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        kept.request("GET", "/")
        kept.getresponse().read()
        code, spent_s = agent.terminate()
        idle.close()
    assert code == 0 and spent_s < STOP_S and "Traceback" not in agent.output, agent.output
    assert PASSWORD not in agent.output


def test_inspection_goes_on_while_the_port_is_taken(tiny_bundle: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = f"web:\n  listen: 127.0.0.1:{port}\n"
        with AgentProcess(tmp_path, tiny_bundle, *arguments(tmp_path), settings=settings) as agent:
            agent.wait_for_output(f"page: cannot listen on 127.0.0.1:{port}: Address already in use. It is tried again")
            agent.wait_for_output(" #5 ")
            other.close()
            wait_until(lambda: ready(Client(port)))
            before = len(agent.printed)
            wait_until(lambda: len(agent.printed) > before + 3)


def test_page_for_the_network_says_what_is_missing(
    tiny_bundle: Path, tmp_path: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    port, broker = free_port(), mosquitto()
    settings = f"web:\n  listen: 0.0.0.0:{port}\n"
    options = ["--broker", broker.url, *arguments(tmp_path)[2:]]
    with (
        MqttListener(broker.port) as listener,
        AgentProcess(tmp_path, tiny_bundle, *options, settings=settings) as agent,
    ):
        agent.wait_for_output("passwords cross the network unencrypted")
        agent.wait_for_output("no password is set, so it answers on this machine only")
        agent.wait_for_output(" #1 ")
        assert opened(agent.pid) == {("127.0.0.1", port)}
        wait_until(lambda: any("no password is set" in fault for fault in faults(listener)))
        visitor = Client(port)
        wait_until(lambda: ready(visitor))
        visitor.open().ask("PUT", "/passwords", {"role": "admin", "password": PASSWORD})
        wait_until(lambda: opened(agent.pid) == {("0.0.0.0", port)})
        wait_until(lambda: not faults(listener))
