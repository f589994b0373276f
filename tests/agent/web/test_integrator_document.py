"""The commands of docs/integrator.md run, in their order, against a real agent."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from agent_process import AgentProcess, write_line_video
from mosquitto_broker import free_port
from mqtt_listener import wait_until
from page_server import PASSWORD, Client, with_passwords

DOCUMENT = Path(__file__).parents[3] / "docs/integrator.md"
ADDRESS = "127.0.0.1:8080"  # in the document


def script(port: int) -> str:
    """All commands; the first that fails ends it and is named."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", DOCUMENT.read_text(), flags=re.MULTILINE | re.DOTALL)
    commands = "".join(blocks)
    assert commands.count("curl") > 15 and ADDRESS in commands
    head = "set -u\ntrap 'echo \"FAILED: $BASH_COMMAND\"; exit 1' ERR\n"
    return head + commands.replace(ADDRESS, f"127.0.0.1:{port}")


def settled(client: Client) -> bool:
    """There is a reject with a picture."""
    found = client.ask("GET", "/results?verdict=anomalous&limit=1").json["results"]
    return bool(found) and found[0]["has_picture"]


def answers(port: int) -> bool:
    try:
        return Client(port).ask("GET", "/session").status == 200
    except OSError:
        return False


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs the package curl")
def test_every_command_of_the_document_works(tiny_bundle: Path, tmp_path: Path) -> None:
    port, video = free_port(), write_line_video(tmp_path / "line.avi", frames=20)
    source = f"source:\n  source: {video}\n  loop: true\n  fps: 10\n"
    config = f"mqtt:\n  broker: mqtt://127.0.0.1:1\n{source}web:\n  listen: 127.0.0.1:{port}\n"
    with AgentProcess(tmp_path, tiny_bundle, settings=config) as agent:
        wait_until(lambda: answers(port))
        admin = with_passwords(port)
        wait_until(lambda: settled(admin))
        (tmp_path / "login.json").write_text(json.dumps({"role": "operator", "password": PASSWORD}))
        ran = subprocess.run(
            ["bash", "-c", script(port)], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False
        )
        assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr
        assert "Traceback" not in agent.output
    for picture in ("overlay.jpg", "live.jpg"):
        assert (tmp_path / picture).read_bytes().startswith(b"\xff\xd8")
    assert "event: result" in ran.stdout and "zsad_results_total" in ran.stdout
    assert len((tmp_path / "results.csv").read_text().splitlines()) > 1
    assert "/api/v1/results" in json.loads((tmp_path / "openapi.json").read_text())["paths"]
