"""Messages that are too large for the broker."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener, wait_until
from result_maker import accept
from scripted_broker import ScriptedBroker
from session_tools import BASE, publishing, result, seqs


def test_pictures_above_the_limit_that_the_broker_states_are_left_out_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = b"\x27" + (20_000).to_bytes(4, "big")  # Maximum Packet Size
    with (
        ScriptedBroker(connack_properties=limit) as broker,
        publishing(broker.url, tmp_path) as publisher,
    ):
        wait_until(lambda: publisher.connected)
        for seq in range(3):
            accept(publisher, result(seq), b"x" * 30_000)
        accept(publisher, result(3), b"y" * 10_000)
        assert publisher.send_picture("cam0/image", b"x" * 20_001)
        accept(publisher, result(4, ballast=30_000), None)  # it must not block later results
        accept(publisher, result(5), None)
        assert publisher.flush(60) == 0
        wait_until(lambda: seqs(broker.messages) == [0, 1, 2, 3, 5])
        stats = publisher.stats
        assert stats.connections == 1
        assert publisher.live_images_dropped == {"heatmap": 3, "image": 1}
        assert (stats.acknowledged, stats.given_up) == (5, {"refused": 1})
        live = ("heatmap", "image")
        wait_until(lambda: [len(each) for topic, each in broker.asked if topic.endswith(live)] == [10_000])
    assert caplog.text.count("are left out") == 1
    assert "result line3-b1-4 is given up: the message is too large for the broker" in caplog.text


def test_pictures_are_left_out_after_an_mqtt_3_broker_disconnected_at_two_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        ScriptedBroker(versions=(4,), cut_above=20_000) as broker,
        publishing(broker.url, tmp_path) as publisher,
    ):
        for seq in range(200):
            wait_until(lambda: publisher.connected)
            accept(publisher, result(seq), b"x" * 30_000)
            publisher.flush(5)
            if publisher.stats.connections >= 3:
                break
        connections = publisher.stats.connections
        for seq in range(1000, 1020):
            accept(publisher, result(seq), b"x" * 30_000 if seq % 2 else b"y" * 10_000)
        assert publisher.flush(60) == 0
        assert connections == 3
        assert publisher.stats.connections == 3
        assert publisher.stats.given_up == {}
        assert set(range(1000, 1020)) <= set(seqs(broker.messages))
        wait_until(lambda: (f"{BASE}/cam0/heatmap", b"y" * 10_000) in broker.messages)
    assert caplog.text.count("right after a picture, twice in a row") == 1


@pytest.mark.parametrize("versions", [(4,), (5,)])
def test_result_at_which_the_broker_disconnects_is_given_up_and_later_results_arrive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, versions: tuple[int, ...]
) -> None:
    with (
        ScriptedBroker(versions=versions, cut_above=20_000) as broker,
        publishing(broker.url, tmp_path) as publisher,
    ):
        for seq in range(10):
            accept(publisher, result(seq, ballast=30_000 if seq == 4 else 0), None)
        assert publisher.flush(60) == 0
        assert sorted(set(seqs(broker.messages))) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
        assert (publisher.stats.given_up, publisher.spool_stats.entries) == ({"refused": 1}, 0)
        assert seqs(broker.asked).count(4) in (5, 6)  # once perhaps with others, then alone
    assert caplog.text.count("is given up") == 1
    assert "result line3-b1-4 is given up" in caplog.text


def test_small_results_are_not_given_up_when_the_connection_is_cut_again_and_again(tmp_path: Path) -> None:
    with ScriptedBroker(versions=(4,), cut_above=50) as broker, publishing(broker.url, tmp_path) as publisher:
        accept(publisher, result(1), None)
        wait_until(lambda: publisher.stats.connections > 12)
        assert (publisher.stats.given_up, publisher.spool_stats.entries) == ({}, 1)
        broker.cut_above = None
        assert publisher.flush(60) == 0


@pytest.mark.parametrize(
    ("limit", "protocol"), [("max_packet_size", "5"), ("max_packet_size", "3.1.1"), ("message_size_limit", "5")]
)
def test_mosquitto_with_a_size_limit_does_not_block_results(
    mosquitto: Callable[..., MosquittoBroker], tmp_path: Path, limit: str, protocol: str
) -> None:
    broker = mosquitto(extra=f"{limit} 20000\nmax_queued_messages 100000")
    with (
        MqttListener(broker.port) as listener,
        publishing(broker.url, tmp_path, protocol=protocol) as publisher,
    ):
        wait_until(lambda: publisher.connected)
        for seq in range(20):
            accept(publisher, result(seq, ballast=30_000 if seq == 4 else 0), b"x" * 30_000)
        assert publisher.flush(60) == 0
        listener.wait_for(lambda: len(set(seqs(listener.messages))) == 19)
        assert publisher.stats.given_up == {"refused": 1}


def test_pictures_above_the_stated_limit_are_not_a_fault(tmp_path: Path) -> None:
    with (
        ScriptedBroker(connack_properties=b"\x27\x00\x00\x07\xd0") as broker,
        publishing(broker.url, tmp_path, pictures="all") as publisher,
    ):
        wait_until(lambda: publisher.connected)
        for seq in range(3):
            accept(publisher, result(seq), b"x" * 3000)
        wait_until(lambda: publisher.stats.attached_images_given_up == {"refused": 3})
        assert publisher.flush(60) == 0
        assert publisher.fault is None
