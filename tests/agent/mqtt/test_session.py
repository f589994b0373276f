"""The connection with brokers that refuse or disconnect."""

import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from certificate_maker import Authority
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener, wait_until
from result_maker import accept
from scripted_broker import ScriptedBroker
from session_tools import BASE, NOT_AUTHORISED, QUOTA, RESULT_TOPIC, publishing, result, seqs

from zsad_agent.config import MqttConfig, TlsConfig
from zsad_agent.mqtt import EmbeddedBroker
from zsad_agent.mqtt.subscriptions import MAX_PAYLOAD_BYTES


@pytest.mark.parametrize("hangs_up", [False, True])
def test_mqtt_3_is_used_from_then_on_with_a_broker_that_does_not_support_mqtt_5(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, hangs_up: bool
) -> None:
    with ScriptedBroker(versions=(4,), hangs_up=hangs_up) as broker, publishing(broker.url, tmp_path) as publisher:
        accept(publisher, result(1), None)
        assert publisher.flush(60) == 0
        assert broker.connects == [5, 4]
        broker.cut_above = 0
        accept(publisher, result(2), None)
        wait_until(lambda: len(broker.connects) >= 3)
        broker.cut_above = None
        assert publisher.flush(60) == 0
        assert set(broker.connects[2:]) == {4}
        assert publisher.fault is None
    assert "refused" not in caplog.text


def test_configured_version_is_the_only_one_tried(tmp_path: Path) -> None:
    with ScriptedBroker(versions=(4,)) as broker, publishing(broker.url, tmp_path, protocol="5") as publisher:
        wait_until(lambda: len(broker.connects) >= 3)
        assert "Unsupported protocol version" in (publisher.fault or "")
    with ScriptedBroker() as broker, publishing(broker.url, tmp_path, protocol="3.1.1") as publisher:
        wait_until(lambda: publisher.connected)
    assert set(broker.connects) == {4}


@pytest.mark.parametrize("knows_it", [True, False])
def test_embedded_broker_receives_results_and_delivers_commands(tmp_path: Path, knows_it: bool) -> None:
    topic = f"{BASE}/cam0/trigger"
    got: list[bytes] = []
    with EmbeddedBroker(port=0) as broker, MqttListener(broker.port) as listener:
        config = broker.reached_by(MqttConfig()) if knows_it else MqttConfig(broker=broker.url)
        with publishing(config.broker, tmp_path, protocol=config.protocol) as publisher:
            publisher.subscribe(topic, got.append)
            accept(publisher, result(1), None)
            listener.wait_for(lambda: seqs(listener.messages) == [1])
            wait_until(lambda: listener.publish(topic, b"now") or got)  # nobody shows when the subscription is there
            assert set(got) == {b"now"}
            assert publisher.fault is None


@pytest.mark.parametrize(("code", "said"), [(NOT_AUTHORISED, "Not authorized"), (QUOTA, "Quota exceeded")])
def test_refused_results_stay_in_the_spool_are_a_fault_and_are_retried_slowly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int, said: str
) -> None:
    with ScriptedBroker(puback=lambda topic, _: code * topic.endswith("result")) as broker:
        with publishing(broker.url, tmp_path, in_flight=5) as publisher:
            for seq in range(30):
                accept(publisher, result(seq), None)
            wait_until(lambda: f"broker refuses results: {said}" in (publisher.fault or ""))
            publisher.set_retained("stats", b"{}")
            wait_until(lambda: (f"{BASE}/stats", b"{}") in broker.messages)  # other messages are still sent
            wait_until(lambda: len(seqs(broker.asked)) >= 2)  # a retry
            assert len(seqs(broker.asked)) < 10  # the window at most, then one by one
            assert publisher.spool_stats.entries == 30
            assert publisher.stats.acknowledged == 0
            assert publisher.connected
            broker.puback = lambda topic, payload: 0
            assert publisher.flush(60) == 0
            assert publisher.fault is None
            assert publisher.stats.connections == 1
            assert publisher.stats.given_up == {}
        assert seqs(broker.messages) == list(range(30))
    assert caplog.text.count("refuses results") == 2  # once when it begins, once when it ends


def test_only_the_refused_result_is_sent_again(tmp_path: Path) -> None:
    refusing = {3}

    def puback(topic: str, payload: bytes) -> int:
        return QUOTA if topic == RESULT_TOPIC and json.loads(payload)["seq"] in refusing else 0

    with publishing("mqtt://127.0.0.1:1", tmp_path) as publisher:
        for seq in range(10):
            accept(publisher, result(seq), None)
    with ScriptedBroker(puback=puback) as broker, publishing(broker.url, tmp_path) as publisher:
        wait_until(lambda: publisher.spool_stats.entries == 1)
        refusing.clear()
        assert publisher.flush(60) == 0
        assert sorted(seqs(broker.messages)) == list(range(10))
        assert seqs(broker.messages)[-1] == 3


def test_refused_subscription_is_a_fault_with_its_topic(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    topic = f"{BASE}/cam0/trigger"
    with (
        ScriptedBroker(suback=lambda _: NOT_AUTHORISED) as broker,
        publishing(broker.url, tmp_path) as publisher,
    ):
        publisher.subscribe(topic, lambda _: None)
        wait_until(lambda: f"refuses the subscription to {topic}: Not authorized" in (publisher.fault or ""))
        assert publisher.connected
        broker.suback = lambda _: 1
        broker.cut_above = 0
        accept(publisher, result(1), None)
        wait_until(lambda: publisher.stats.connections >= 2)
        broker.cut_above = None
        wait_until(lambda: publisher.fault is None)
        assert broker.subscribed[0] == (topic, 1 | 2 << 4)  # QoS 1, without retained messages
    assert caplog.text.count("refuses the subscription") == 2


def test_commands_reach_their_handler_over_every_connection_and_retained_ones_do_not(
    mosquitto: Callable[..., MosquittoBroker], tmp_path: Path
) -> None:
    broker = mosquitto(persistent=True)
    topic = f"{BASE}/cam0/product/set"
    got: list[bytes] = []
    with MqttListener(broker.port) as listener, publishing(broker.url, tmp_path) as publisher:
        listener.publish(topic, b"stale", retain=True)
        publisher.subscribe(topic, got.append)
        wait_until(lambda: f"{topic} (QoS 1)" in broker.log)
        listener.publish(topic, b"one")
        wait_until(lambda: got == [b"one"])
        broker.stop()
        wait_until(lambda: not publisher.connected)
        broker.start()
        wait_until(lambda: publisher.connected and broker.log.count(f"{topic} (QoS 1)") == 2)
        with MqttListener(broker.port) as operator:
            operator.publish(topic, b"two", retain=True)  # the broker also delivers it at once, as not retained
            wait_until(lambda: got == [b"one", b"two"])


def test_retained_oversize_and_foreign_messages_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    got: list[bytes] = []
    with ScriptedBroker(versions=(4,)) as broker, publishing(broker.url, tmp_path) as publisher:
        publisher.subscribe("a/set", got.append)
        wait_until(lambda: broker.subscribed)
        broker.send("a/set", b"retained", retained=True)
        broker.send("a/set", b"x" * (MAX_PAYLOAD_BYTES + 1))
        broker.send("a/set", b"y" * (MAX_PAYLOAD_BYTES + 1))
        broker.send("b/set", b"not subscribed")
        broker.send("a/set", b"x" * MAX_PAYLOAD_BYTES)
        wait_until(lambda: got == [b"x" * MAX_PAYLOAD_BYTES])
        assert publisher.connected
    assert caplog.text.count("is dropped") == 1
    assert "a/set" in caplog.text


def test_all_messages_of_one_tls_record_reach_the_handler_at_once(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.sign("server")
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(pair.cert, pair.key)
    got: list[bytes] = []
    payloads = [b"%d" % number for number in range(20)]
    with ScriptedBroker(versions=(4,), tls=server) as broker:
        url = f"mqtts://localhost:{broker.port}"
        with publishing(url, tmp_path, tls=TlsConfig(ca_file=authority.cert), protocol="3.1.1") as publisher:
            publisher.subscribe("a/set", got.append)
            wait_until(lambda: broker.subscribed)
            broker.send("a/set", *payloads)
            wait_until(lambda: got == payloads)


def test_failing_handler_is_logged_once_and_the_publisher_continues(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[bytes] = []

    def handler(payload: bytes) -> None:
        calls.append(payload)
        raise RuntimeError("broken")

    with ScriptedBroker(versions=(4,)) as broker, publishing(broker.url, tmp_path) as publisher:
        publisher.subscribe("a/set", handler)
        wait_until(lambda: broker.subscribed)
        for _ in range(3):
            broker.send("a/set", b"x")
        wait_until(lambda: len(calls) == 3)
        accept(publisher, result(1), None)
        assert publisher.flush(60) == 0
        assert publisher.alive
    assert caplog.text.count("the handler of a/set has failed") == 1


def test_retained_payloads_and_pictures_go_below_the_devices_topic(tmp_path: Path) -> None:
    with ScriptedBroker() as broker, publishing(broker.url, tmp_path) as publisher:
        wait_until(lambda: publisher.connected)
        publisher.set_retained("cam0/threshold/state", b"0.5")
        assert publisher.send_picture("cam0/image", b"jpeg")
        wait_until(lambda: (f"{BASE}/cam0/image", b"jpeg") in broker.messages)
        wait_until(lambda: (f"{BASE}/cam0/threshold/state", b"0.5") in broker.messages)
    with publishing("mqtt://127.0.0.1:1", tmp_path) as publisher:
        assert not publisher.send_picture("cam0/image", b"jpeg")


def test_messages_in_flight_never_exceed_the_receive_maximum(tmp_path: Path) -> None:
    receive_maximum = b"\x21\x00\x03"
    with (
        ScriptedBroker(
            connack_properties=receive_maximum, puback=lambda topic, _: None if topic == RESULT_TOPIC else 0
        ) as broker,
        publishing(broker.url, tmp_path, in_flight=50) as publisher,
    ):
        for seq in range(10):
            publisher.set_retained(f"state/{seq}", b"x")
        wait_until(lambda: len(broker.asked) == 1 + 10)
        for seq in range(10):
            accept(publisher, result(seq), None)
        wait_until(lambda: len(broker.asked) == 1 + 10 + 2)  # one place is kept for the offline message
        time.sleep(0.3)
        assert len(seqs(broker.asked)) == 2
    assert (f"{BASE}/available", b"offline") in broker.messages


@pytest.mark.parametrize("receive_maximum", [1, 2, 3])
def test_statuses_and_the_offline_message_count_towards_the_receive_maximum(
    tmp_path: Path, receive_maximum: int
) -> None:
    unanswered = 0
    most = 0

    def puback(topic: str, _: bytes) -> int | None:
        nonlocal unanswered, most
        unanswered += topic != f"{BASE}/available" or unanswered > 0
        most = max(most, unanswered)
        return None if unanswered else 0

    with (
        ScriptedBroker(connack_properties=b"\x21" + receive_maximum.to_bytes(2), puback=puback) as broker,
        publishing(broker.url, tmp_path, in_flight=50) as publisher,
    ):
        wait_until(lambda: publisher.connected)
        for number in range(6):
            publisher.set_retained(f"state/{number}", b"x")
            accept(publisher, result(number), None)
        wait_until(lambda: most == max(1, receive_maximum - 1))
        time.sleep(0.3)
        assert most == max(1, receive_maximum - 1)
    assert most <= receive_maximum


def test_refused_status_is_sent_again_with_back_off_until_it_is_accepted(tmp_path: Path) -> None:
    topic = f"{BASE}/cam0/threshold/state"
    asked_s: list[float] = []

    def puback(to: str, _: bytes) -> int:
        if to != topic:
            return 0
        asked_s.append(time.monotonic())
        return QUOTA if len(asked_s) < 3 else 0

    with ScriptedBroker(puback=puback) as broker, publishing(broker.url, tmp_path) as publisher:
        wait_until(lambda: publisher.connected)
        publisher.set_retained("cam0/threshold/state", b"0.5")
        wait_until(lambda: f"refuses {topic}: Quota exceeded" in (publisher.fault or ""))
        wait_until(lambda: (topic, b"0.5") in broker.messages)
        wait_until(lambda: publisher.fault is None)
        assert publisher.stats.connections == 1
        time.sleep(1.5)
    assert len(asked_s) == 3
    assert asked_s[1] - asked_s[0] >= 0.8 and asked_s[2] - asked_s[0] >= 2.5  # the broker may see a message late


def test_latest_status_is_sent_after_an_earlier_one_was_refused(tmp_path: Path) -> None:
    refuses = True
    topic = f"{BASE}/cam0/product/state"
    with (
        ScriptedBroker(puback=lambda to, _: QUOTA * (refuses and to == topic)) as broker,
        publishing(broker.url, tmp_path) as publisher,
    ):
        wait_until(lambda: publisher.connected)
        publisher.set_retained("cam0/product/state", b"screw")
        wait_until(lambda: (topic, b"screw") in broker.asked)
        publisher.set_retained("cam0/product/state", b"nut")
        wait_until(lambda: (topic, b"nut") in broker.asked)
        refuses = False
        wait_until(lambda: publisher.fault is None)
        assert [payload for to, payload in broker.messages if to == topic] == [b"nut"]


def test_refused_pictures_are_sent_over_the_same_connection_when_the_broker_accepts_them(tmp_path: Path) -> None:
    with (
        ScriptedBroker(puback=lambda topic, _: QUOTA * ("/evidence/" in topic)) as broker,
        publishing(broker.url, tmp_path, pictures="all") as publisher,
    ):
        accept(publisher, result(1), b"jpeg")
        wait_until(lambda: "refuses evidence pictures: Quota exceeded" in (publisher.fault or ""))
        broker.puback = lambda topic, payload: 0
        wait_until(lambda: any("/evidence/" in topic for topic, _ in broker.messages))
        wait_until(lambda: publisher.fault is None)
        assert publisher.stats.connections == 1
