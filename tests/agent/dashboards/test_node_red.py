"""The flows of docs/dashboards in a real Node-RED, with a real broker and a real agent."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess, write_line_video
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import MqttListener, wait_until
from node_red_process import NodeRed, install_node_red

FLOWS = Path(__file__).parents[3] / "docs/dashboards"
PLC_NODES = ("node-red-contrib-modbus@5.45.2", "node-red-contrib-opcua@0.2.354")
# Its own copy of this library is outside npm's registry.
OVERRIDES = {"@openp4nr/modbus-serial": "npm:modbus-serial@8.0.25"}


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


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def at_port(flows: list[dict[str, Any]], port: int) -> list[dict[str, Any]]:
    """The flows with another port of the broker, and nothing else."""
    (broker,) = [node for node in flows if node["type"] == "mqtt-broker"]
    broker["port"] = str(port)
    return flows


@pytest.mark.chaos
def test_a_real_node_red_shows_the_last_verdict_the_scores_and_the_rejects(
    tmp_path: Path, tiny_bundle: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    """Fetches Node-RED."""
    installed = install_node_red(tmp_path / "installed")
    broker = mosquitto()
    video = write_line_video(tmp_path / "line.avi", 20)
    settings = f"mqtt:\n  broker: {broker.url}\nsource: {{source: {video}, loop: true, fps: 5}}\n"

    with NodeRed(installed, tmp_path / "red", at_port(read_flows("node-red.json"), broker.port)) as red:

        def state() -> dict[str, Any]:
            found: dict[str, Any] = json.loads(red.get("/zsad/state"))
            return found

        wait_until(lambda: "Connected to broker" in red.log)
        assert state() == {"devices": {}, "cameras": {}, "rejects": []} and "No result yet" in red.get("/zsad")
        with MqttListener(broker.port) as listener:
            with AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
                listener.wait_for(lambda: len(listener.results()) >= 12, 120)
                wait_until(lambda: state()["devices"] == {"line3": "online"})
                assert agent.terminate()[0] == 0
            results = listener.results()
            again = json.dumps(results[0]).encode()
            listener.publish("zsad/line3/cam0/result", again)
            wait_until(lambda: state()["devices"] == {"line3": "offline"})
            other = {**results[-1], "id": "other", "camera": "side", "product": "<b>nut</b>"}
            listener.publish("zsad/line3/side/result", json.dumps(other).encode())
            wait_until(lambda: "line3/side" in state()["cameras"])

        shown = state()
        camera = shown["cameras"]["line3/cam0"]
        assert camera["last"] == results[-1]
        assert camera["scores"] == [result["anomaly_score"] for result in results]  # the double is not among them
        verdicts = [result["verdict"] for result in results]
        assert {name: camera[name] for name in ("ok", "anomalous", "unknown")} == {
            name: verdicts.count(name) for name in ("ok", "anomalous", "unknown")
        }
        rejected = [result["id"] for result in results if result["verdict"] != "ok"]
        assert [result["id"] for result in shown["rejects"] if result["camera"] == "cam0"] == rejected[::-1]
        assert 0 < len(rejected) < len(results)
        page = red.get("/zsad").replace("&#x2F;", "/")
        assert f"line3/cam0: {results[-1]['verdict']}" in page and "Device offline" in page
        assert rejected[0] in page and "&lt;b&gt;nut" in page and "<b>nut" not in page
        points = page.split('polyline points="')[1].split('"')[0].split()
        assert len(points) == len([score for score in camera["scores"] if score is not None])


@pytest.mark.chaos
def test_node_reds_modbus_and_opcua_nodes_are_clients_of_one_agent(
    tmp_path: Path, tiny_bundle: Path, mosquitto: Callable[..., MosquittoBroker]
) -> None:
    """Fetches Node-RED and both nodes. OPC UA with certificates. Every second part of the video is bad."""
    installed = install_node_red(tmp_path / "installed", *PLC_NODES, overrides=OVERRIDES)
    video = write_line_video(tmp_path / "line.avi", 20, defect_every=2)
    modbus, opcua = free_port(), free_port()
    flows = [*read_flows("node-red-modbus.json"), *read_flows("node-red-opcua.json")]
    for node in flows:
        if node["type"] == "modbus-client":
            node["tcpPort"] = str(modbus)
        if node["type"] == "OpcUa-Endpoint":
            node["endpoint"] = f"opc.tcp://127.0.0.1:{opcua}/zsad"
    settings = (
        f"mqtt: {{broker: {mosquitto().url}}}\nsource: {{source: {video}, loop: true, trigger: mqtt}}\n"
        f"plant:\n  modbus: {{listen: 127.0.0.1:{modbus}}}\n"
        f"  opcua: {{listen: 127.0.0.1:{opcua}}}\n"
    )

    with AgentProcess(tmp_path, tiny_bundle, settings=settings):
        wait_until(lambda: listens(modbus) and listens(opcua))
        keys = tmp_path / "state/opcua"
        with NodeRed(installed, tmp_path / "red", flows) as red:
            wait_until(lambda: [*(keys / "rejected").iterdir()])  # the one that Node-RED has made
            assert json.loads(red.get("/zsad/opcua")) == {}
        for certificate in (keys / "rejected").iterdir():
            certificate.rename(keys / "trusted" / certificate.name)
        with NodeRed(installed, tmp_path / "red", flows) as red:

            def ask(path: str) -> dict[str, Any]:
                found: dict[str, Any] = json.loads(red.get(path))
                return found

            wait_until(lambda: ask("/zsad/opcua").get("TriggerReady") is True)
            for number in range(1, 7):
                assert json.loads(red.get("/zsad/plc/part", b"")) == {"accepted": True}
                wait_until(lambda number=number: len(ask("/zsad/plc")["parts"]) == number)  # type: ignore[misc]
            parts = ask("/zsad/plc")["parts"]
            assert [part["part"] for part in parts] == [1, 2, 3, 4, 5, 6]
            assert [part["why"] for part in parts] == ["ng", "ok"] * 3
            assert [part["pass"] for part in parts] == [False, True] * 3
            wait_until(lambda: ask("/zsad/plc")["control"] == 0)
            wait_until(lambda: ask("/zsad/opcua")["ResultsReady"] is False)
            assert ask("/zsad/plc")["errorCode"] == 0 and ask("/zsad/opcua")["Error"] is False
