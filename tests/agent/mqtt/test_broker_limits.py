"""What a broker states in CONNACK and DISCONNECT, and brokers that acknowledge late or end connections."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener, wait_until
from result_maker import accept, make_result
from scripted_broker import ScriptedBroker

from zsad_agent.config import MqttConfig
from zsad_agent.mqtt import Publisher
from zsad_agent.mqtt.connection import MAX_INCOMING_BYTES
from zsad_agent.spool import Spool

BrokerFactory = Callable[..., MosquittoBroker]
AVAILABLE, RESULT = "zsad/line3/available", "zsad/line3/cam0/result"
QOS_BITS, RETAIN_BIT, WILL_RETAIN, WILL_QOS_1 = 6, 1, 0x20, 0x08


@contextmanager
def publishing(
    url: str,
    folder: Path,
    *,
    ack_timeout_s: float = 30.0,
    answer_timeout_s: float = 10.0,
    reconnect_max_s: float = 0.1,
    **settings: Any,
) -> Iterator[Publisher]:
    with (
        Spool(folder / "spool.sqlite3", max_results=1000) as spool,
        Publisher(
            MqttConfig(broker=url, **settings),
            "line3",
            spool,
            reconnect_min_s=0.02,
            reconnect_max_s=reconnect_max_s,
            ack_timeout_s=ack_timeout_s,
            answer_timeout_s=answer_timeout_s,
        ) as publisher,
    ):
        yield publisher


def seqs(messages: list[tuple[str, bytes]]) -> list[int]:
    return [json.loads(payload)["seq"] for topic, payload in messages if topic == RESULT]


def slow(delay_s: float) -> Callable[[str, bytes], int]:
    """Accepts a result only after `delay_s`, one after the other."""

    def puback(topic: str, _: bytes) -> int:
        time.sleep(delay_s * (topic == RESULT))
        return 0

    return puback


def test_results_arrive_once_although_the_oldest_waits_longer_than_the_limit(tmp_path: Path) -> None:
    with (
        ScriptedBroker(puback=slow(0.1)) as broker,
        publishing(broker.url, tmp_path, ack_timeout_s=1.5) as publisher,
    ):
        for number in range(20):  # all in flight together: the last one waits 2 s
            accept(publisher, make_result(number), None)
        assert publisher.flush(60) == 0
        assert publisher.stats.connections == 1
        assert sorted(seqs(broker.asked)) == list(range(20))


def test_an_acknowledgement_later_than_the_limit_is_waited_for_over_a_later_connection(tmp_path: Path) -> None:
    with (
        ScriptedBroker(puback=slow(2.5)) as broker,
        publishing(broker.url, tmp_path, ack_timeout_s=0.5, in_flight=1) as publisher,
    ):
        for number in range(2):
            accept(publisher, make_result(number), None)
        assert publisher.flush(60) == 0
        assert publisher.stats.connections >= 2  # limits of 0.5, 1, 2 and 4 s; the last one stays
        assert publisher.stats.given_up == {}


@pytest.mark.parametrize("versions", [(4,), (5,), (4, 5)])
def test_a_broker_that_answers_the_connection_late_is_waited_for(tmp_path: Path, versions: tuple[int, ...]) -> None:
    def connack(_: int) -> int:
        time.sleep(1.2)
        return 0

    with (
        ScriptedBroker(versions=versions, connack=connack) as broker,
        publishing(broker.url, tmp_path, answer_timeout_s=0.5) as publisher,
    ):
        accept(publisher, make_result(0), None)
        assert publisher.flush(60) == 0


def test_a_result_that_is_never_acknowledged_is_sent_again_although_later_messages_are(tmp_path: Path) -> None:
    answers = iter([None])
    with (
        ScriptedBroker(puback=lambda topic, _: next(answers, 0) if topic == RESULT else 0) as broker,
        publishing(broker.url, tmp_path, ack_timeout_s=0.5) as publisher,
    ):
        accept(publisher, make_result(0), None)
        for number in range(20):
            publisher.set_retained("stats", b"%d" % number)
            time.sleep(0.05)
        assert publisher.flush(60) == 0
        assert set(seqs(broker.messages)) == {0} and len(seqs(broker.asked)) >= 2


def test_progress_resets_the_pause_between_connections(tmp_path: Path) -> None:
    with (
        ScriptedBroker(versions=(4,), cut_after=lambda topic: topic == RESULT) as broker,
        publishing(broker.url, tmp_path, protocol="3.1.1", reconnect_max_s=30.0) as publisher,
    ):
        for number in range(20):
            accept(publisher, make_result(number), None)
        assert publisher.flush(60) == 0  # with growing pauses it would take more than 4 minutes
        assert set(seqs(broker.messages)) == set(range(20))


def test_without_progress_the_pauses_grow(tmp_path: Path) -> None:
    with (
        ScriptedBroker(versions=(4,), cut_after=lambda topic: topic == AVAILABLE) as broker,
        publishing(broker.url, tmp_path, protocol="3.1.1", reconnect_max_s=30.0),
    ):
        wait_until(lambda: len(broker.connected_s) >= 6)
        pauses_s = [later - earlier for earlier, later in zip(broker.connected_s, broker.connected_s[1:], strict=False)]
        assert pauses_s[4] > 0.75 * 0.02 * 2**4 > 0.2


@pytest.mark.parametrize(
    ("lines", "qos", "retained"),
    [
        ("max_qos 0", 0, True),
        ("retain_available false", 1, False),
        ("max_qos 0\nretain_available false", 0, False),
    ],
)
def test_mosquitto_without_qos_1_or_retained_messages_gets_the_results_and_the_limit_is_logged(
    mosquitto: BrokerFactory,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    lines: str,
    qos: int,
    retained: bool,
) -> None:
    broker = mosquitto(extra=lines)
    with MqttListener(broker.port) as listener:
        for _ in range(2):
            with publishing(broker.url, tmp_path) as publisher:
                wait_until(lambda publisher=publisher: publisher.connected)
                for number in range(50):
                    accept(publisher, make_result(number), None)
                assert publisher.flush(60) == 0
                assert publisher.stats.connections == 1
                assert ("broker refuses QoS 1" in (publisher.fault or "")) == (qos == 0)
        listener.wait_for(lambda: seqs(listener.messages) == list(range(50)) * 2)
        listener.wait_for(lambda: listener.payloads(AVAILABLE) == [b"online", b"offline"] * 2)
    with MqttListener(broker.port) as late:
        if retained:
            late.wait_for(lambda: AVAILABLE in late.topics)
        else:
            time.sleep(0.5)
            assert AVAILABLE not in late.topics
    assert caplog.text.count("refuses QoS 1: ") == 2 * (qos == 0)
    assert caplog.text.count("retains no messages: ") == 2 * (not retained)


def test_limits_that_the_broker_states_are_used_for_every_message_and_the_will(tmp_path: Path) -> None:
    def connack(flags: int) -> int:
        return 0x9B if flags & WILL_QOS_1 else 0x9A if flags & WILL_RETAIN else 0

    none_of_it = b"\x24\x00\x25\x00"  # Maximum QoS 0, Retain Available 0
    with (
        ScriptedBroker(connack=connack, connack_properties=none_of_it) as broker,
        publishing(broker.url, tmp_path) as publisher,
    ):
        publisher.set_retained("cam0/status", b"{}")
        accept(publisher, make_result(0), None)
        assert publisher.flush(60) == 0
        wait_until(lambda: len(broker.asked) == 3)
        assert not any(head & (QOS_BITS | RETAIN_BIT) for head in broker.heads)
        assert broker.connects == [5, 5, 5]


def test_a_limit_below_every_result_is_a_fault_and_drops_no_result(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(extra="max_packet_size 300")
    with publishing(broker.url, tmp_path) as publisher:
        for number in range(5):
            accept(publisher, make_result(number, product="x" * (number + 1)), None)
        wait_until(lambda: "refuses results: it accepts 300 bytes in a packet" in (publisher.fault or ""))
        time.sleep(1.5)  # tried again meanwhile
        assert (publisher.stats.given_up, publisher.spool_stats.entries) == ({}, 5)
    assert caplog.text.count("refuses results") == 1
    broker = mosquitto()
    with publishing(broker.url, tmp_path) as publisher:
        assert publisher.flush(60) == 0


def test_keepalive_of_the_broker_is_used(tmp_path: Path) -> None:
    with (
        ScriptedBroker(connack_properties=b"\x13\x00\x01") as broker,
        publishing(broker.url, tmp_path, keepalive_s=3600),
    ):
        wait_until(lambda: len(broker.pings_s) >= 3)
        pauses_s = [later - earlier for earlier, later in zip(broker.pings_s, broker.pings_s[1:], strict=False)]
        assert min(pauses_s) < 1.5  # then the broker would end the connection


def test_client_id_is_the_configured_one_and_an_assigned_one_is_named(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto()
    with publishing(broker.url, tmp_path, client_id="cell-7/left") as publisher:
        wait_until(lambda: publisher.connected)
        wait_until(lambda: "as cell-7/left (p5" in broker.log)
    with (
        ScriptedBroker(connack_properties=b"\x12\x00\x03abc") as other,
        publishing(other.url, tmp_path) as publisher,
    ):
        wait_until(lambda: publisher.connected)
        wait_until(lambda: "knows this agent by the client id abc" in caplog.text)
    caplog.clear()
    with (
        ScriptedBroker(connack_properties=b"\x12\x00\x10zsad-agent-line3") as echo,
        publishing(echo.url, tmp_path) as publisher,
    ):
        wait_until(lambda: publisher.connected)
        assert "client id" not in caplog.text


ADVICE_5 = {
    0x80: "see the broker's log",
    0x85: "Set mqtt.client_id",
    0x86: "Check mqtt.username and the password",
    0x87: "that the broker allows this user and client id",
    0x88: "tries again by itself",
    0x89: "tries again by itself",
    0x8A: "remove the ban",
    0x8C: "user name with a password",
    0x90: "the will on",
    0x95: "limit for packets",
    0x97: "limit of connections or messages",
    0x9C: "Set mqtt.broker to the other server b.example:1883",
    0x9D: "Set mqtt.broker to the other server b.example:1883",
    0x9F: "tries again by itself",
}
ADVICE_3 = {2: "Set mqtt.client_id", 3: "tries again by itself", 4: "and the password", 5: "this user and client id"}


@pytest.mark.parametrize(
    ("protocol", "code", "advice"),
    [*(("5", code, text) for code, text in ADVICE_5.items()), *(("3.1.1", *each) for each in ADVICE_3.items())],
)
def test_each_refusal_has_its_own_advice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str, code: int, advice: str
) -> None:
    server = b"b.example:1883"
    moved = b"\x1c" + len(server).to_bytes(2) + server if code in (0x9C, 0x9D) else b"\x1f\x00\x05so\n!\x07"
    with (
        ScriptedBroker(connack=lambda _: code, connack_properties=moved) as broker,
        publishing(broker.url, tmp_path, protocol=protocol) as publisher,
    ):
        wait_until(lambda: "refused" in (publisher.fault or ""))
        assert advice in (publisher.fault or "")
        assert (r"(so\n!\x07)" in (publisher.fault or "")) == (protocol == "5" and code not in (0x9C, 0x9D))
        assert "password" not in caplog.text or code in (4, 5, 0x86, 0x87, 0x8C)


@pytest.mark.parametrize(
    ("code", "said"), [(0x98, "Ask the broker's operator why"), (0x8B, "tries again by itself"), (0x93, "in_flight")]
)
def test_each_reason_of_a_disconnect_has_its_own_advice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int, said: str
) -> None:
    with ScriptedBroker() as broker, publishing(broker.url, tmp_path) as publisher:
        wait_until(lambda: publisher.connected)
        broker.disconnect(code)
        wait_until(lambda: said in caplog.text)


def test_a_packet_larger_than_any_command_is_read_and_not_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[bytes] = []
    with ScriptedBroker(versions=(4,)) as broker, publishing(broker.url, tmp_path) as publisher:
        publisher.subscribe("a/set", got.append)
        wait_until(lambda: broker.subscribed)
        before_mb = peak_mb(anew=True)
        broker.send_large("a/set", 100_000_000)
        broker.send("a/set", b"small")
        wait_until(lambda: got == [b"small"])
        assert peak_mb() - before_mb < 20
        assert publisher.stats.connections == 1
        assert "a message on a/set is dropped: it has more than 65536 bytes" in caplog.text


@pytest.mark.parametrize("excess", [0, 1])
def test_with_mqtt_5_a_packet_above_the_stated_limit_is_refused_when_its_header_arrives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, excess: int
) -> None:
    got: list[bytes] = []
    with ScriptedBroker() as broker, publishing(broker.url, tmp_path) as publisher:
        publisher.subscribe("a/set", got.append)
        wait_until(lambda: broker.subscribed)
        fixed_header, head = 1 + 3, 2 + len("a/set")
        payload_bytes = MAX_INCOMING_BYTES - fixed_header - head + excess
        if excess:
            broker.send_header("a/set", payload_bytes)  # no byte of the payload
            wait_until(lambda: publisher.stats.connections == 2)
            wait_until(lambda: broker.disconnects == [b"\x95"])  # Packet too large
            assert f"the broker sent a packet of {MAX_INCOMING_BYTES + 1} bytes" in caplog.text
        else:
            broker.send_large("a/set", payload_bytes)
            wait_until(lambda: "a message on a/set is dropped" in caplog.text)
        accept(publisher, make_result(0), None)
        assert publisher.flush(60) == 0
        assert publisher.stats.connections == 1 + excess


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_mosquitto_with_large_messages_goes_on_to_deliver_the_small_ones(
    mosquitto: BrokerFactory, tmp_path: Path, protocol: str
) -> None:
    got: list[bytes] = []
    broker = mosquitto()
    with MqttListener(broker.port) as sender, publishing(broker.url, tmp_path, protocol=protocol) as publisher:
        sender.publish("zsad/line3/cam9/status", bytes(5_000_000), retain=True)
        publisher.subscribe("a/set", got.append)
        publisher.clear_all_but(())
        wait_until(lambda: "a/set (QoS 1)" in broker.log)
        for number in range(10):
            sender.publish("a/set", bytes(1_000_000))
            sender.publish("a/set", b"%d" % number)
        wait_until(lambda: got == [b"%d" % number for number in range(10)])
        accept(publisher, make_result(0), None)
        assert publisher.flush(60) == 0
        assert publisher.stats.connections == 1


def test_a_broker_that_no_longer_sends_anything_gets_a_new_connection(
    mosquitto: BrokerFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Mosquitto 2.0 counts the messages that it dropped because of their size as in flight, and then waits for ever."""
    monkeypatch.setattr("zsad_agent.mqtt.subscriptions.DEAF_S", 1.5)
    got: list[bytes] = []
    broker = mosquitto(extra="max_inflight_messages 3")
    with MqttListener(broker.port) as sender, publishing(broker.url, tmp_path) as publisher:
        statistics = b'{"instance": "%s"}' % publisher.published.instance.encode()
        publisher.subscribe("a/set", got.append)
        publisher.set_retained("stats", statistics)
        wait_until(lambda: "a/set (QoS 1)" in broker.log)
        time.sleep(2.5)  # nothing is missing
        assert publisher.stats.connections == 1
        for _ in range(3):
            sender.publish("a/set", bytes(1_000_000))
        publisher.set_retained("stats", statistics + b" ")
        wait_until(lambda: publisher.stats.connections == 2)
        assert "not even the agent's own statistics" in caplog.text
        wait_until(lambda: broker.log.count("a/set (QoS 1)") == 2)
        sender.publish("a/set", b"small")
        wait_until(lambda: got == [b"small"])


def peak_mb(*, anew: bool = False) -> float:
    """Peak memory of this process in MB; with `anew` it is reset first."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
