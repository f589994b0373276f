"""Results, statuses and availability over a real broker."""

import json
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from jsonschema import Draft202012Validator
from mqtt_listener import MqttListener, wait_until
from paho.mqtt.enums import CallbackAPIVersion
from publisher_tools import BrokerFactory, publishing, seqs
from result_maker import accept
from result_maker import make_result as result

from zsad_agent.messages import Result, schema_text
from zsad_agent.mqtt import BrokerState, Publisher

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def test_every_result_arrives_once_in_order_and_valid_with_its_heatmap(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    schema = Draft202012Validator(json.loads(schema_text(Result)))
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path) as publisher:
            for number in range(500):
                accept(publisher, result(number), b"jpeg %d" % number)
            assert publisher.flush(60) == 0
            assert publisher.fault is None
            stats = publisher.stats
        listener.wait_for(lambda: len(listener.messages) >= 1002)
        assert seqs(listener.results()) == list(range(500))
        for message in listener.results():
            schema.validate(message)
            assert message == json.loads(result(message["seq"]).encode())  # also `replayed`, which is false
        assert listener.payloads("zsad/line3/cam0/heatmap") == [b"jpeg %d" % number for number in range(500)]
    assert (stats.acknowledged, stats.replayed, stats.connections) == (500, 0, 1)


def test_device_is_online_while_it_runs_and_offline_after_a_clean_stop(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path) as publisher:
            accept(publisher, result(0), None)
        listener.wait_for(lambda: len(listener.payloads("zsad/line3/available")) == 2)
        assert listener.payloads("zsad/line3/available") == [b"online", b"offline"]
        assert publisher.state is BrokerState.STOPPED
    with MqttListener(broker.port) as late:
        late.wait_for(lambda: late.payloads("zsad/line3/available") == [b"offline"])


def test_no_result_is_sent_twice_after_an_immediate_stop(
    mosquitto: BrokerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsad_agent.mqtt.session.GOODBYE_S", 60.0)
    monkeypatch.setattr(Publisher, "stop_s", 60.0)
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        for run in range(4):
            with publishing(broker.url, tmp_path, in_flight=5) as publisher:
                for number in range(run * 30, run * 30 + 30):
                    accept(publisher, result(number), None)
        with publishing(broker.url, tmp_path) as publisher:
            assert publisher.flush(60) == 0
        listener.wait_for(lambda: len(listener.results()) >= 120)
        assert sorted(seqs(listener.results())) == list(
            range(120)
        )  # results of an earlier run are sent between live ones


def test_agent_that_reconnects_before_its_old_connection_ends_is_online(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        half_open = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id="zsad-agent-line3"
        )  # a connection left by a power cut
        half_open.will_set("zsad/line3/available", b"offline", qos=1, retain=True)
        half_open.connect("127.0.0.1", broker.port)
        while not half_open.is_connected():
            half_open.loop(0.1)
        with publishing(broker.url, tmp_path):
            listener.wait_for(lambda: b"online" in listener.payloads("zsad/line3/available"))
            time.sleep(0.2)
            assert listener.payloads("zsad/line3/available") == [b"offline", b"online"]


def test_camera_status_is_retained_and_sent_again_to_a_broker_that_lost_it(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    with publishing(broker.url, tmp_path) as publisher:
        publisher.set_camera_status("cam0", {"state": "degraded", "reason": "no frame for 5 s"})
        publisher.set_camera_status("cam0", {"state": "ok"})
        for _ in range(2):
            with MqttListener(broker.port) as listener:
                listener.wait_for(lambda: listener.payloads("zsad/line3/cam0/status")[-1:] == [b'{"state":"ok"}'])
                listener.wait_for(lambda: b"online" in listener.payloads("zsad/line3/available"))
            broker.kill()
            wait_until(lambda: not publisher.connected)
            broker.start()
            wait_until(lambda: publisher.connected)


def test_another_topic_prefix_is_used_for_everything(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path, topic_prefix="plant/hall2") as publisher:
            publisher.set_camera_status("cam0", {})
            accept(publisher, result(0), b"jpeg")
            publisher.flush(60)
        listener.wait_for(lambda: len(listener.messages) >= 5)
        assert {topic.rpartition("/")[0] for topic in listener.topics} == {
            "plant/hall2/line3",
            "plant/hall2/line3/cam0",
        }


def test_host_without_an_mqtt_broker_is_a_fault(tmp_path: Path) -> None:
    server = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                client.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with publishing(f"mqtt://127.0.0.1:{server.getsockname()[1]}", tmp_path) as publisher:
            accept(publisher, result(0), None)
            wait_until(lambda: publisher.state is BrokerState.UNREACHABLE)
            assert publisher.alive
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_unknown_host_is_a_fault(tmp_path: Path) -> None:
    with publishing("mqtt://no-such-host.invalid", tmp_path) as publisher:
        wait_until(lambda: publisher.state is BrokerState.UNREACHABLE)
        assert "no-such-host.invalid:1883" in (publisher.fault or "")
