import logging
import socket
import subprocess
import sys
import threading
import time

import pytest
from mqtt_listener import MqttListener, wait_until

from zsad_agent.mqtt import EmbeddedBroker
from zsad_core.errors import BrokerError


def test_embedded_broker_passes_messages_on_and_retains_them() -> None:
    with EmbeddedBroker(port=0) as broker, MqttListener(broker.port) as early:
        early.publish("zsad/d/available", b"online", retain=True)
        early.publish("zsad/d/cam0/result", b"{}")
        early.wait_for(lambda: len(early.messages) == 2)
        with MqttListener(broker.port) as late:
            late.wait_for(lambda: "zsad/d/available" in late.topics)
            assert late.payloads("zsad/d/available")[0] == b"online"
            assert "zsad/d/cam0/result" not in late.topics


def test_embedded_broker_publishes_the_will_of_a_client_that_dies() -> None:
    with EmbeddedBroker(port=0) as broker, MqttListener(broker.port) as listener:
        client = MqttListener(broker.port, will=("zsad/d/available", b"offline"))
        with client:
            client.break_off()
            listener.wait_for(lambda: listener.payloads("zsad/d/available") == [b"offline"])


def test_embedded_broker_uses_another_port_when_1883_is_used_and_listens_on_loopback_only() -> None:
    with EmbeddedBroker() as first, EmbeddedBroker() as second:
        assert first.port != second.port
        assert second.url == f"mqtt://127.0.0.1:{second.port}"
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.2", second.port)) != 0


def test_embedded_broker_names_the_used_port_in_its_error() -> None:
    with (
        EmbeddedBroker(port=0) as first,
        pytest.raises(BrokerError, match=f"cannot listen on 127.0.0.1:{first.port}"),
        EmbeddedBroker(port=first.port),
    ):
        pass


def test_embedded_broker_stops_at_once_with_clients_connected_and_frees_its_port() -> None:
    with EmbeddedBroker(port=0) as broker:
        listener = MqttListener(broker.port)
        listener.__enter__()
        start = time.monotonic()
        broker.stop(start + 60)
        assert time.monotonic() - start < 20
    wait_until(lambda: "zsad-broker" not in [thread.name for thread in threading.enumerate()])
    listener.__exit__(None, None, None)
    with EmbeddedBroker(port=broker.port):
        pass


def test_embedded_broker_logs_nothing_about_its_clients(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), EmbeddedBroker(port=0) as broker:
        with MqttListener(broker.port) as listener:
            listener.publish("a", b"b")
            listener.wait_for(lambda: listener.messages)
        with socket.create_connection(("127.0.0.1", broker.port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
        time.sleep(0.2)
    expected = {("zsad_agent.mqtt.embedded_broker", logging.INFO), ("asyncio", logging.DEBUG)}
    noise = [record for record in caplog.records if (record.name, record.levelno) not in expected]
    assert noise == []


def test_embedded_broker_without_amqtt_names_the_extra_to_install() -> None:
    code = """
import sys
sys.modules["amqtt.broker"] = sys.modules["amqtt"] = None  # as if it were not installed
from zsad_agent.mqtt import EmbeddedBroker
from zsad_core.errors import BrokerError
try:
    EmbeddedBroker(port=0).__enter__()
except BrokerError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "zsad-agent[embedded-broker]" in run.stdout
