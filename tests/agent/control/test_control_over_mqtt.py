"""Commands over a real broker and the real publisher, with files on a disk."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_controls import FakeControls
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener, wait_until

from zsad_agent.config import AgentConfig, ControlConfig, MqttConfig
from zsad_agent.control import Controller, Nonces, StoredSettings
from zsad_agent.mqtt import Publisher
from zsad_agent.spool import Spool


def command(value: object, command_id: str) -> bytes:
    return json.dumps({"value": value, "id": command_id, "sent_at": time.time()}).encode()


def answer(listener: MqttListener, setting: str, command_id: str | None) -> dict[str, Any]:
    """The state that answers the command."""
    found: list[dict[str, Any]] = []

    def arrived() -> bool:
        states = [json.loads(payload) for payload in listener.payloads(f"zsad/line3/{setting}/state")]
        found[:] = [state for state in states if state["id"] == command_id]
        return bool(found)

    listener.wait_for(arrived)
    return found[-1]


def test_commands_are_carried_out_once_and_their_retained_states_survive_a_restart(
    mosquitto: Callable[..., MosquittoBroker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto()
    config = AgentConfig(
        device_id="line3",
        mqtt=MqttConfig(broker=broker.url),
        control=ControlConfig(enabled=True, bundle_dir=tmp_path),
    )
    replayed = b""
    for start in (1, 2):
        controls = FakeControls()
        with (
            MqttListener(broker.port) as listener,
            Spool(tmp_path / "spool.sqlite3", max_results=100) as spool,
            Publisher(config.mqtt, "line3", spool) as publisher,
            Controller(controls, publisher, config, StoredSettings(tmp_path / "settings.json"), nonces=Nonces()),
        ):
            answer(listener, "reload", None)
            wait_until(lambda: publisher.connected)
            wait_until(lambda start=start: broker.log.count("zsad/line3/cam0/threshold/set (QoS 1)") == start)
            if start == 1:
                replayed = command(0.25, "first")
                listener.publish("zsad/line3/cam0/threshold/set", replayed)
                state = answer(listener, "cam0/threshold", "first")
                assert (state["value"], state["source"], state["error"]) == (0.25, "command", None)
                listener.publish("zsad/line3/cam1/snapshot/set", command(None, "picture"))
                assert answer(listener, "cam1/snapshot", "picture")["error"] is None
                listener.wait_for(lambda: listener.payloads("zsad/line3/cam1/image"))
                listener.publish("zsad/line3/cam9/threshold/set", command(0.9, "unknown camera"))
                listener.publish("zsad/line3/cam1/paused/set", command(True, "stale"), retain=True)
                answer(listener, "cam1/paused", "stale")  # not a retained message, because the agent was connected
                listener.publish("zsad/line3/cam1/paused/set", command(False, "back"))
                answer(listener, "cam1/paused", "back")
            else:
                assert controls.thresholds == {"cam0": 0.25, "cam1": 0.5}
                listener.publish("zsad/line3/cam0/threshold/set", replayed)
                listener.wait_for(lambda: b"a replay" in listener.payloads("zsad/line3/cam0/threshold/state")[-1])
                assert controls.thresholds == {"cam0": 0.25, "cam1": 0.5}
                assert controls.pauses == {"cam0": False, "cam1": False}  # the retained `true` is ignored
    with MqttListener(broker.port) as late:
        late.wait_for(lambda: late.payloads("zsad/line3/cam0/threshold/state"))
        (retained,) = late.payloads("zsad/line3/cam0/threshold/state")
        assert json.loads(retained)["value"] == 0.25
    assert not any(record.exc_info for record in caplog.records)
