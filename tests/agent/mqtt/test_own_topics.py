"""Retained messages of earlier configs, and two agents with one device id."""

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
from scripted_broker import SUBSCRIBE, ScriptedBroker

from zsad_agent.config import MqttConfig
from zsad_agent.messages import Published
from zsad_agent.mqtt import EmbeddedBroker, Publisher
from zsad_agent.spool import Spool

BrokerFactory = Callable[..., MosquittoBroker]
BASE = "zsad/line3"
RIVAL = "sees another agent with device_id line3"
TAKEN_OVER, NOT_AUTHORISED = 0x8E, 0x87


@contextmanager
def publishing(url: str, spool: Path, **settings: Any) -> Iterator[Publisher]:
    with (
        Spool(spool, max_results=1000) as open_spool,
        Publisher(
            MqttConfig(broker=url, **settings), "line3", open_spool, reconnect_min_s=0.1, reconnect_max_s=0.2
        ) as publisher,
    ):
        wait_until(lambda: publisher.connected)
        yield publisher


def publish_stats(publisher: Publisher) -> None:
    publisher.set_retained("stats", json.dumps({"instance": publisher.published.instance}).encode())


def retained_at(port: int) -> dict[str, bytes]:
    with MqttListener(port) as listener:
        listener.publish("end", b"")
        listener.wait_for(lambda: "end" in listener.topics)
        return dict(listener.messages)


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_retained_topics_of_an_earlier_config_are_removed_and_no_others(
    mosquitto: BrokerFactory, tmp_path: Path, protocol: str
) -> None:
    broker = mosquitto()
    gone = ("old/status", "old/threshold/state", "old/product/state", "cam0/paused/state", "reload/state")
    kept = ("cam0/status", "cam0/threshold/state", "old/threshold/set", "old/notes", "stats", "available")
    foreign = ("zsad/line4/old/status", "zsad/line33/old/status", "zsad/old/status", "zsad/line3/old/x/y/state")
    with MqttListener(broker.port) as listener:
        for topic in (*(f"{BASE}/{suffix}" for suffix in gone + kept), *foreign):
            listener.publish(topic, b"online" if topic.endswith("available") else b"x", retain=True)
    with publishing(broker.url, tmp_path / "spool", protocol=protocol) as publisher:
        publisher.clear_all_but({"cam0/status", "cam0/threshold/state"})
        wait_until(lambda: not any(f"{BASE}/{suffix}" in retained_at(broker.port) for suffix in gone))
        assert retained_at(broker.port).keys() == {*(f"{BASE}/{suffix}" for suffix in kept), *foreign, "end"}
        assert publisher.fault is None
        wait_until(lambda: "Received UNSUBSCRIBE from zsad-agent-line3" in broker.log)


@pytest.mark.parametrize("taken", [False, True])
def test_topics_of_the_former_device_id_are_removed_unless_another_agent_has_it_now(
    mosquitto: BrokerFactory, tmp_path: Path, taken: bool
) -> None:
    broker = mosquitto()
    former = Published(base="zsad/old", instance="5a01")
    ours = ("available", "stats", "cam0/status", "cam0/paused/state", "bundle/state")
    instance = "77c2" if taken else "5a01"
    with MqttListener(broker.port) as listener:
        for suffix in (*ours, "cam0/paused/set", "x/y/z"):
            listener.publish(f"zsad/old/{suffix}", json.dumps({"instance": instance}).encode(), retain=True)
        listener.publish("zsad/older/cam0/status", b"x", retain=True)
    with publishing(broker.url, tmp_path / "spool") as publisher:
        publisher.clear_all_but((), former)
        wait_until(lambda: "Received UNSUBSCRIBE from zsad-agent-line3" in broker.log)
        left = {topic.removeprefix("zsad/old/") for topic in retained_at(broker.port) if topic.startswith("zsad/old/")}
        assert left == {"cam0/paused/set", "x/y/z", *(ours if taken else ())}
        assert "zsad/older/cam0/status" in retained_at(broker.port)


def test_a_topic_is_removed_once_and_not_again_over_later_connections(tmp_path: Path) -> None:
    with ScriptedBroker(versions=(4,)) as broker, publishing(broker.url, tmp_path / "spool") as publisher:
        publisher.set_retained("old/status", b"")
        wait_until(lambda: (f"{BASE}/old/status", b"") in broker.messages)
        broker.cut_above = 0
        accept(publisher, make_result(0), None)
        wait_until(lambda: len(broker.connects) >= 3)
        broker.cut_above = None
        assert publisher.flush(60) == 0
        assert broker.messages.count((f"{BASE}/old/status", b"")) == 1


def test_a_status_that_is_published_while_the_earlier_ones_are_removed_stays(tmp_path: Path) -> None:
    with EmbeddedBroker(port=0) as broker, MqttListener(broker.port) as listener:
        listener.publish(f"{BASE}/cam0/status", b"old", retain=True)
        listener.publish(f"{BASE}/cam1/status", b"old", retain=True)
        with publishing(broker.url, tmp_path / "spool", protocol="3.1.1") as publisher:
            publisher.clear_all_but({"cam0/status"})
            publisher.set_camera_status("cam0", {"state": "ok"})
            listener.wait_for(lambda: b"" in listener.payloads(f"{BASE}/cam1/status"))
            listener.wait_for(lambda: len(listener.payloads(f"{BASE}/cam0/status")) >= 2)
            time.sleep(0.3)
        assert listener.payloads(f"{BASE}/cam0/status") == [b"old", b'{"state":"ok"}']


def test_no_wildcard_is_subscribed_at_a_broker_that_does_not_support_it(tmp_path: Path) -> None:
    with (
        ScriptedBroker(connack_properties=b"\x28\x00") as broker,
        publishing(broker.url, tmp_path / "spool") as publisher,
    ):
        publisher.clear_all_but(())
        publisher.subscribe("a/set", lambda _: None)
        wait_until(lambda: broker.subscribed)
        time.sleep(0.2)
        assert [topic for topic, _ in broker.subscribed] == ["a/set"]


def test_a_broker_that_does_not_allow_to_read_own_topics_is_reported_once_and_gets_the_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        ScriptedBroker(suback=lambda _: NOT_AUTHORISED) as broker,
        publishing(broker.url, tmp_path / "spool") as publisher,
    ):
        publish_stats(publisher)
        publisher.clear_all_but(())
        accept(publisher, make_result(0), None)
        assert publisher.flush(60) == 0
        wait_until(lambda: len(broker.subscribed) >= 4)
        time.sleep(1.5)
        assert publisher.fault is None
        assert len(broker.subscribed) == 4
    assert "Allow the agent to read it" in caplog.text


def test_a_subscription_at_which_the_broker_disconnects_is_not_repeated_for_ever(tmp_path: Path) -> None:
    class Cutting(ScriptedBroker):
        def _answer(self, head: int, body: bytes, level: int) -> bytes | None:
            return None if head >> 4 == SUBSCRIBE else super()._answer(head, body, level)

    def stays_connected() -> bool:
        connections = len(broker.connects)
        time.sleep(1.0)
        return publisher.connected and len(broker.connects) == connections

    with Cutting() as broker, publishing(broker.url, tmp_path / "spool") as publisher:
        publish_stats(publisher)
        publisher.clear_all_but(())
        accept(publisher, make_result(0), None)
        assert publisher.flush(60) == 0
        wait_until(stays_connected)
        assert len(broker.connects) <= 6


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_two_agents_with_one_device_id_are_reported_and_do_not_reconnect_without_pause(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    broker = mosquitto()  # this version closes the connection of the first client without a reason
    with publishing(broker.url, tmp_path / "a", protocol=protocol) as one:
        publish_stats(one)
        with publishing(broker.url, tmp_path / "b", protocol=protocol) as two:
            publish_stats(two)
            for number in range(10):
                accept(one, make_result(number), None)
                accept(two, make_result(number), None)
            wait_until(lambda: RIVAL in (one.fault or "") and RIVAL in (two.fault or ""))
            wait_until(lambda: not (one.connected and two.connected))
            connections = one.stats.connections + two.stats.connections
            time.sleep(2.0)
            assert one.stats.connections + two.stats.connections <= connections + 1
            assert connections < 30
    assert "client id zsad-agent-line3): give each agent its own device_id" in caplog.text


def test_two_agents_with_one_device_id_and_two_client_ids_are_reported(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    def told() -> bool:
        for publisher in (one, two):
            publish_stats(publisher)
            time.sleep(0.2)
        return RIVAL in (one.fault or "") and RIVAL in (two.fault or "")

    broker = mosquitto()
    with (
        publishing(broker.url, tmp_path / "a") as one,
        publishing(broker.url, tmp_path / "b", client_id="other") as two,
    ):
        wait_until(told)
        assert one.stats.connections == two.stats.connections == 1


def test_session_that_was_taken_over_is_reported_and_followed_by_a_long_pause(tmp_path: Path) -> None:
    with ScriptedBroker() as broker, publishing(broker.url, tmp_path / "spool") as publisher:
        broker.disconnect(TAKEN_OVER)
        wait_until(lambda: RIVAL in (publisher.fault or "") and "Session taken over" in (publisher.fault or ""))
        time.sleep(2.0)
        assert len(broker.connects) == 1


def test_a_restarted_agent_or_broker_is_not_reported_as_a_second_agent(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    broker = mosquitto(persistent=True)
    with publishing(broker.url, tmp_path / "spool") as publisher:
        publish_stats(publisher)
        wait_until(lambda: f"{BASE}/stats" in retained_at(broker.port))
    broker.save()
    with publishing(broker.url, tmp_path / "spool") as publisher:
        publish_stats(publisher)
        wait_until(lambda: publisher.published.instance.encode() in retained_at(broker.port)[f"{BASE}/stats"])
        for _ in range(3):  # the broker restores the statistics of the first run once
            broker.kill()
            wait_until(lambda: not publisher.connected)
            broker.start()
            wait_until(lambda: publisher.connected)
            accept(publisher, make_result(0), None)
            assert publisher.flush(60) == 0
            wait_until(lambda: publisher.published.instance.encode() in retained_at(broker.port)[f"{BASE}/stats"])
            broker.save()
        for foreign in (b"", b"{}", b"[]", b"\xff", b'{"instance": 5}', b"[" * 60_000):
            with MqttListener(broker.port) as listener:
                listener.publish(f"{BASE}/stats", foreign)
        time.sleep(0.3)
        assert publisher.fault is None
