"""The flows of docs/dashboards in a real Node-RED, with a real broker and a real agent."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener, wait_until
from node_red_process import NodeRed, install_node_red
from plain_pictures import textured

FLOWS = Path(__file__).parents[3] / "docs/dashboards"


def read_flows(name: str) -> list[dict[str, Any]]:
    flows: list[dict[str, Any]] = json.loads((FLOWS / name).read_text(encoding="utf-8"))
    return flows


@pytest.mark.parametrize("file", sorted(FLOWS.glob("node-red*.json")), ids=lambda path: path.name)
def test_flows_are_wired_to_nodes_that_exist(file: Path) -> None:
    flows = read_flows(file.name)
    ids = [node["id"] for node in flows]
    assert len(ids) == len(set(ids)) > 5
    wired = {target for node in flows for output in node.get("wires", []) for target in output}
    assert wired <= set(ids)
    assert {node["z"] for node in flows if "z" in node} == {node["id"] for node in flows if node["type"] == "tab"}


