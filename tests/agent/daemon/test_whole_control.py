"""The agent as a process, commanded over a real broker: settings and reload."""

import json
import shutil
import ssl
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from agent_process import STOP_S, AgentProcess
from certificate_maker import Authority
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import wait_until
from plant_operator import BASE, PATIENCE_S, PlantOperator, seqs_of, without_gap, write_parts
from tiny_bundle_maker import make_tiny_bundle

from zsad_agent.spool import Spool

ACL = Path(__file__).parents[3] / "systemd" / "mosquitto-acl.example"
SET_THRESHOLD = f"{BASE}/cam0/threshold/set"
Brokers = Callable[..., MosquittoBroker]


def camera(name: str, folder: Path, *more: str) -> str:
    lines = [
        f"  - name: {name}",
        f"    source: {folder}",
        "    loop: true",
        "    fps: 40",
        *(f"    {line}" for line in more),
    ]
    return "\n".join(lines) + "\n"


def broker_with_tls_and_acl(mosquitto: Brokers, folder: Path) -> tuple[MosquittoBroker, ssl.SSLContext, str]:
    """A broker with the example ACL, the operator's TLS settings for it, and the config of an agent for it."""
    authority = Authority(folder)
    pair = authority.sign("server")
    acl = folder / "zsad.acl"
    shutil.copy(ACL, acl)
    acl.chmod(0o600)
    broker = mosquitto(
        users={"line3": "secret-3", "operator": "secret-o"},
        extra=f"cafile {authority.cert}\ncertfile {pair.cert}\nkeyfile {pair.key}\nacl_file {acl}\n",
    )
    password = folder / "password"
    password.touch(0o600)
    password.write_text("secret-3")
    settings = (
        f"mqtt:\n  broker: mqtts://localhost:{broker.port}\n  username: line3\n  password_file: {password}\n"
        f"  tls:\n    ca_file: {authority.cert}\ncontrol:\n  enabled: true\ncameras:\n"
        + camera("cam0", write_parts(folder / "parts", grey=170))  # a score of 1/3
    )
    return broker, ssl.create_default_context(cafile=str(authority.cert)), settings


def check_settings_and_refusals(operator: PlantOperator) -> bytes:
    """Changes threshold and product, and sends invalid commands; gives the payload of the first command."""
    payload = operator.send("cam0/threshold", 0.25)
    state = operator.state_where("cam0/threshold", lambda state: state["id"] == "command-1")
    assert (state["value"], state["source"], state["error"]) == (0.25, "command", None)
    assert operator.result_where(lambda result: result["threshold"] == 0.25)["verdict"] == "anomalous"

    assert operator.command("cam0/product", "bottle")["value"] == "bottle"
    result = operator.result_where(lambda result: result["product"] == "bottle")
    assert 0.2 < result["anomaly_score"] < 0.3  # a gain of 0.8
    refused = operator.command("cam0/product", "screw")
    assert refused["value"] == "bottle" and "'screw' is not in the bundle" in refused["error"]
    assert "from 0 to 1" in operator.command("cam0/threshold", 1.5)["error"]
    operator.publish(SET_THRESHOLD, b'{"value": 0.9, "id": "old", "sent_at": 1000}')
    assert "the clocks" in operator.state_where("cam0/threshold", lambda s: s["id"] == "old")["error"].lower()
    return payload


def send_with_nonce(operator: PlantOperator) -> bytes:
    """Sends a command that has the agent's nonce instead of a time; gives its payload."""
    operator.wait_for(lambda: operator.payloads(f"{BASE}/stats"))
    nonce = json.loads(operator.payloads(f"{BASE}/stats")[-1])["command_nonce"]
    payload = json.dumps({"value": 0.25, "id": "no clock", "nonce": nonce}).encode()
    operator.publish(SET_THRESHOLD, payload)
    assert operator.state_where("cam0/threshold", lambda s: s["id"] == "no clock")["error"] is None
    return payload


def pause(operator: PlantOperator) -> int:
    """Pauses the camera; gives the number of results after the last one has arrived."""
    assert operator.command("cam0/paused", True)["value"] is True
    operator.wait_for(lambda: b'"paused"' in operator.payloads(f"{BASE}/cam0/status")[-1])
    for _ in range(20):
        inspected = len(operator.results_of())
        time.sleep(1.5)  # 60 frames
        if len(operator.results_of()) == inspected:
            return inspected
    raise AssertionError("results still arrive 30 s after the pause")


def test_only_fresh_commands_change_settings_and_settings_survive_a_kill(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker, tls, settings = broker_with_tls_and_acl(mosquitto, tmp_path)
    with PlantOperator(broker.port, tls=tls, credentials=("operator", "secret-o")) as operator:
        with AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
            operator.state_where("reload", lambda state: state["error"] is None)
            assert operator.result_where(lambda result: True)["verdict"] == "ok"
            first = check_settings_and_refusals(operator)
            with_nonce = send_with_nonce(operator)
            assert operator.command("cam0/snapshot")["error"] is None
            operator.wait_for(lambda: operator.payloads(f"{BASE}/cam0/image"))
            assert operator.payloads(f"{BASE}/cam0/image")[0].startswith(b"\xff\xd8")
            inspected = pause(operator)
            agent.kill()
        operator.send("cam0/paused", False, retain=True)  # the broker keeps this command; the agent must ignore it
        states = len(operator.payloads(f"{BASE}/cam0/paused/state"))
        with AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
            operator.wait_for(lambda: len(operator.payloads(f"{BASE}/cam0/paused/state")) > states, PATIENCE_S)
            operator.publish(SET_THRESHOLD, with_nonce)
            operator.state_where("cam0/threshold", lambda s: s["id"] == "no clock" and s["error"])
            operator.publish(SET_THRESHOLD, first)
            operator.state_where("cam0/threshold", lambda state: "a replay" in (state["error"] or ""))
            assert json.loads(operator.payloads(f"{BASE}/cam0/paused/state")[-1])["value"] is True
            assert len(operator.results_of()) == inspected
            assert operator.command("cam0/paused", None)["value"] is False
            (result,) = operator.next_results(1)[:1]
            assert (result["threshold"], result["product"]) == (0.25, "bottle")
            code, spent_s = agent.terminate()
            assert (code, spent_s < STOP_S) == (0, True), agent.output
        assert "secret" not in agent.output and "Traceback" not in agent.output
        assert without_gap(operator.results_of())
    with PlantOperator(broker.port, tls=tls, credentials=("operator", "secret-o")) as late:
        assert late.state_where("cam0/threshold", lambda state: True)["value"] == 0.25
        assert late.state_where("cam0/product", lambda state: True)["source"] == "command"


def test_agent_without_control_accepts_no_command(mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path) -> None:
    broker = mosquitto()
    settings = f"mqtt:\n  broker: {broker.url}\ncameras:\n" + camera("cam0", write_parts(tmp_path / "parts"))
    with PlantOperator(broker.port) as operator, AgentProcess(tmp_path, tiny_bundle, settings=settings) as agent:
        operator.next_results(1)
        for setting, value in (("cam0/threshold", 0.0), ("cam0/paused", True), ("reload", None), ("bundle", "x")):
            operator.send(setting, value)
        assert {result["verdict"] for result in operator.next_results(20)} == {"ok"}
        assert not any(topic.endswith("/state") for topic in operator.topics)
        agent.terminate()
    subscribed = [line for line in broker.log.splitlines() if "/set (QoS" in line]
    assert subscribed == []


def test_retained_topics_of_an_earlier_config_are_removed_at_the_start(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    parts = write_parts(tmp_path / "parts")

    def kept() -> set[str]:
        latest = dict(operator.messages)
        return {topic for topic, payload in latest.items() if payload and topic.endswith(("/status", "/state"))}

    with PlantOperator(broker.port) as operator:
        for name, enabled in (("cam0", "true"), ("cam1", "false")):
            settings = f"mqtt:\n  broker: {broker.url}\ncontrol:\n  enabled: {enabled}\ncameras:\n" + camera(
                name, parts
            )
            with AgentProcess(tmp_path, tiny_bundle, settings=settings):  # ended by SIGKILL
                operator.next_results(1, name)
                if name == "cam0":
                    operator.state_where("cam0/threshold", lambda state: True)
                    operator.state_where("bundle", lambda state: True)
                else:
                    operator.wait_for(lambda: operator.payloads(f"{BASE}/cam0/status")[-1] == b"")
                    operator.wait_for(lambda: operator.payloads(f"{BASE}/bundle/state")[-1] == b"")
                    operator.wait_for(lambda: f"{BASE}/stats" in operator.topics)
                    wait_until(lambda: (tmp_path / "state/published.json").exists())
                    operator.wait_for(lambda: kept() == {f"{BASE}/cam1/status"})
        settings = settings.replace("mqtt:\n", "mqtt:\n  topic_prefix: hall2\n")
        with AgentProcess(tmp_path, tiny_bundle, settings=settings):
            operator.wait_for(lambda: "hall2/line3/cam1/status" in operator.topics)
            for suffix in ("cam1/status", "stats", "available"):
                operator.wait_for(lambda suffix=suffix: operator.payloads(f"{BASE}/{suffix}")[-1] == b"")


def test_reload_uses_the_new_file_in_the_same_process_and_refuses_an_invalid_one(
    mosquitto: Brokers, tiny_bundle: Path, tmp_path: Path
) -> None:
    broker = mosquitto()
    address = f"127.0.0.1:{free_port()}"
    first = (
        f"mqtt:\n  broker: {broker.url}\ncontrol:\n  enabled: true\nhttp:\n  listen: {address}\ncameras:\n"
    ) + camera("cam0", write_parts(tmp_path / "parts", grey=170))
    with PlantOperator(broker.port) as operator, AgentProcess(tmp_path, tiny_bundle, settings=first) as agent:
        operator.next_results(1)
        config = tmp_path / "agent.yaml"
        good = config.read_text()
        config.write_text(good + camera("cam1", tmp_path / "parts") + "decision:\n  threshold: 0.2\n")
        operator.reload()
        for name in ("cam0", "cam1"):
            assert {result["verdict"] for result in operator.next_results(5, name)} == {"anomalous"}
            assert operator.command(f"{name}/threshold", None)["value"] == 0.2

        config.write_text(good.replace("fps: 40", "fps: fast") + "hue: red\n")
        refused = operator.command("reload")
        assert "agent.yaml:" in refused["error"] and "fps" in refused["error"] and "hue" in refused["error"]
        config.write_text(good.replace(str(tmp_path / "parts"), "/nowhere"))
        assert "/nowhere: no such" in operator.command("reload")["error"]
        config.write_text(good.replace(str(tiny_bundle), "/nowhere/bundle"))
        assert "/nowhere/bundle: no such bundle" in operator.command("reload")["error"]
        assert {result["threshold"] for result in operator.next_results(10)} == {0.2}

        mad = make_tiny_bundle(tmp_path / "mad", output_scale=float("nan"))  # a valid file whose model gives NaN
        config.write_text(good.replace(str(tiny_bundle), str(mad)) + "log_level: ERROR\n")
        begun = agent.output.count("INFO inspecting")
        operator.reload()
        wait_until(lambda: agent.output.count("INFO inspecting") > begun)  # the log level of the earlier config
        state = json.loads(operator.payloads(f"{BASE}/reload/state")[-1])
        assert "the earlier one is used again" in state["error"] and "no valid anomaly_map" in state["error"]
        for name in ("cam0", "cam1"):
            assert {result["verdict"] for result in operator.next_results(5, name)} == {"anomalous"}

        config.write_text(good)  # back to one camera
        operator.reload()
        operator.result_where(lambda result: result["threshold"] == 0.5)
        for topic in ("status", "threshold/state"):
            removed = f"{BASE}/cam1/{topic}"  # a retained topic
            operator.wait_for(lambda removed=removed: operator.payloads(removed)[-1] == b"")
        ended = len(operator.results_of("cam1"))
        operator.next_results(10)
        assert len(operator.results_of("cam1")) == ended
        assert agent.running
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=60) as answer:  # on the same port again
            assert answer.status == 200
        assert operator.payloads(f"{BASE}/available")[-1] == b"online"
        agent.terminate()
        operator.wait_for(lambda: operator.payloads(f"{BASE}/available")[-1] == b"offline")  # after all results
        with Spool(agent.spool, max_results=100_000) as spool:  # what was not sent before the end
            unsent = [json.loads(entry.body) for entry in spool.read(0, spool.last_id, 100_000)]
    results = operator.results()
    assert len({result["id"] for result in results}) == len(results)
    seqs = seqs_of(results + unsent)
    missing = {boot: sorted({*range(1, max(found))} - {*found}) for boot, found in seqs.items()}
    # A picture of one camera that was taken and not inspected before the reload, when the other's next one was.
    assert all(max(seqs[boot]) - number < 12 for boot in seqs for number in missing[boot]), (missing, seqs)
    assert len(seqs) == 4
    assert "Traceback" not in agent.output
