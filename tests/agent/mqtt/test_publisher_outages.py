"""The publisher while the broker or the disk fails or hangs."""

import json
import logging
import socket
import threading
import time
from pathlib import Path

import pytest
from mosquitto_broker import free_port
from mqtt_listener import MqttListener, wait_until
from publisher_tools import BrokerFactory, first_arrivals, publishing, seqs
from result_maker import accept
from result_maker import make_result as result

from zsad_agent.config import MqttConfig
from zsad_agent.mqtt import BrokerState, Publisher
from zsad_agent.spool import Spool, SpoolClock, Stamp


def test_results_accepted_without_a_broker_are_replayed_in_order_when_it_appears(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(persistent=True)
    with MqttListener(broker.port, session="dashboard"):
        pass
    broker.stop()
    caplog.set_level(logging.INFO, "zsad_agent")
    with publishing(broker.url, tmp_path) as publisher:
        assert publisher.state is BrokerState.UNREACHABLE
        assert f"127.0.0.1:{broker.port}" in (publisher.fault or "")
        start_s = time.monotonic()
        for number in range(100):
            accept(publisher, result(number), b"jpeg")
        assert time.monotonic() - start_s < 20  # it does not wait for the network
        time.sleep(0.5)  # several attempts
        assert publisher.flush(0) == 100
        broker.start()
        wait_until(lambda: publisher.connected)
        assert publisher.flush(60) == 0
        accept(publisher, result(100), b"jpeg")
        assert publisher.flush(60) == 0
    with MqttListener(broker.port, session="dashboard") as listener:
        listener.wait_for(lambda: len(listener.results()) >= 101)
        messages = listener.results()
        assert seqs(messages) == list(range(101))
        assert [message["replayed"] for message in messages] == [True] * 100 + [False]
        assert messages[7] == json.loads(result(7).encode()) | {"replayed": True}  # the same id and capture time
        assert listener.payloads("zsad/line3/cam0/heatmap") == []  # sent with QoS 0 while no subscriber was connected
    assert publisher.live_images_dropped == {"heatmap": 100, "image": 0}
    said = [record.message.split(": ")[0] for record in caplog.records]
    assert said == [f"broker 127.0.0.1:{broker.port} unreachable", f"broker 127.0.0.1:{broker.port} back"]


def test_results_of_an_earlier_run_are_replayed(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    with publishing(f"mqtt://127.0.0.1:{free_port()}", tmp_path) as publisher:
        accept(publisher, result(1), None)
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path) as publisher:
            accept(publisher, result(2), None)
            assert publisher.flush(60) == 0
        listener.wait_for(lambda: len(listener.results()) >= 2)
        assert {(message["seq"], message["replayed"]) for message in listener.results()} == {(1, True), (2, False)}
        assert len(listener.results()) == 2


def test_broker_restarts_lose_no_result_and_keep_the_order(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(persistent=True)
    listener = MqttListener(broker.port, session="dashboard")
    with listener, publishing(broker.url, tmp_path) as publisher:
        for number in range(600):
            accept(publisher, result(number), None)
            if number in (150, 350):
                broker.stop()
            if number in (250, 450):
                broker.start()
                wait_until(lambda: publisher.connected)
            time.sleep(0.001)
        assert publisher.flush(60) == 0
        listener.wait_for(lambda: len(set(seqs(listener.results()))) >= 600)
        stats = publisher.stats
    for replayed in (False, True):  # two streams, each in order
        lane = first_arrivals([message for message in listener.results() if message["replayed"] is replayed])
        assert lane == sorted(lane)
    assert set(seqs(listener.results())) == set(range(600))
    assert stats.connections == 3
    assert [message["id"] for message in listener.results()] == [
        result(message["seq"]).id for message in listener.results()
    ]
    assert caplog.text.count("lost: the connection was closed") == 2


def test_agent_disconnects_from_a_broker_that_acknowledges_nothing_and_loses_no_result(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener, publishing(broker.url, tmp_path, ack_timeout_s=1.0) as publisher:
        accept(publisher, result(0), None)
        assert publisher.flush(60) == 0
        broker.freeze()
        for number in range(1, 50):
            accept(publisher, result(number), None)
        wait_until(lambda: publisher.state is BrokerState.UNREACHABLE)
        wait_until(lambda: publisher.spool_stats.entries == 49)
        wait_until(lambda: "nothing was acknowledged for 1 s" in caplog.text)
        broker.thaw()
        assert publisher.flush(60) == 0
        listener.wait_for(lambda: len(set(seqs(listener.results()))) >= 50)
    assert first_arrivals(listener.results()) == list(range(50))


def test_stop_ends_the_wait_for_the_first_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zsad_agent.mqtt.publisher.FIRST_ATTEMPT_S", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as mute, Spool(tmp_path / "spool.sqlite3", max_results=10) as spool:
        config = MqttConfig(broker=f"mqtt://127.0.0.1:{mute.getsockname()[1]}")
        with Publisher(config, "line3", spool, pictures="off", answer_timeout_s=60.0) as publisher:
            stop = threading.Event()
            threading.Timer(0.2, stop.set).start()
            start_s = time.monotonic()
            publisher.await_first_attempt(stop)
            assert stop.is_set() and time.monotonic() - start_s < 20


def test_stop_is_quick_while_the_broker_hangs(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    with publishing(broker.url, tmp_path) as publisher:
        broker.freeze()
        accept(publisher, result(0), None)
        start_s = time.monotonic()
    assert time.monotonic() - start_s < 20  # the acknowledgement has 30 s
    with Spool(tmp_path / "spool.sqlite3", max_results=10) as spool:
        assert spool.count == 1


def test_results_reach_the_broker_while_the_disk_is_full(
    mosquitto: BrokerFactory, tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener, publishing(broker.url, tiny_disk) as publisher:
        accept(publisher, result(0), None)
        with (tiny_disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space"):
            while True:
                ballast.write(b"\0" * 4096)
        for number in range(1, 400):
            accept(publisher, result(number), None)
        assert publisher.flush(60) == 0
        assert "full" in (publisher.fault or "")
        assert publisher.stats.given_up == {}
        (tiny_disk / "ballast").unlink()
        time.sleep(1.1)  # the disk is tried once a second
        accept(publisher, result(400), None)
        assert publisher.flush(60) == 0
        wait_until(lambda: publisher.fault is None)
        listener.wait_for(lambda: len(listener.results()) >= 401)
    assert seqs(listener.results()) == list(range(401))
    assert caplog.text.count("spool lost (append)") == 1


def test_live_results_arrive_while_a_long_backlog_is_replayed(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    backlog, live = 3000, 100
    with publishing(f"mqtt://127.0.0.1:{free_port()}", tmp_path, spool_settings={"fsync": "periodic"}) as publisher:
        for number in range(backlog):
            accept(publisher, result(number), None)
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path, spool_settings={"fsync": "periodic"}) as publisher:
            wait_until(lambda: publisher.connected)
            broker.freeze()
            for number in range(backlog, backlog + live):
                accept(publisher, result(number), None)
            broker.thaw()
            assert publisher.flush(60) == 0
        listener.wait_for(lambda: len(listener.results()) >= backlog + live)
        arrived = listener.results()
    assert [each["seq"] for each in arrived if each["replayed"]] == list(range(backlog))
    assert [each["seq"] for each in arrived if not each["replayed"]] == list(range(backlog, backlog + live))
    last_live = max(at for at, each in enumerate(arrived) if not each["replayed"])
    assert last_live < backlog + live - 500  # long before the backlog ends


def test_spool_that_cannot_be_used_is_a_fault_and_the_results_arrive(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    (tmp_path / "spool.sqlite3").mkdir()  # a folder in place of the file
    with MqttListener(broker.port) as listener, publishing(broker.url, tmp_path) as publisher:
        assert "spool.sqlite3: the spool cannot be opened" in (publisher.fault or "")
        for number in range(50):
            accept(publisher, result(number), None)
        assert publisher.flush(60) == 0
        assert publisher.stats.given_up == {}
        listener.wait_for(lambda: seqs(listener.results()) == list(range(50)))


class HangingCommit(SpoolClock):
    """A commit hangs while `hangs` is set: the spool reads this clock directly before it."""

    hangs = False

    def stamp(self) -> Stamp:
        while self.hangs:
            time.sleep(0.01)
        return super().stamp()


def test_state_counts_and_stop_do_not_wait_for_a_commit_that_hangs(tmp_path: Path) -> None:
    hanging = HangingCommit()
    with publishing("mqtt://127.0.0.1:1", tmp_path, spool_settings={"clock": hanging}) as publisher:
        accept(publisher, result(0), None)
        hanging.hangs = True
        acceptor = threading.Thread(target=accept, args=(publisher, result(1), None), daemon=True)
        acceptor.start()
        wait_until(lambda: publisher.spool_stats.entries == 2)
        started_s = time.monotonic()
        assert "unreachable" in (publisher.fault or "")
        assert publisher.spool_stats.oldest_age_s is not None and publisher.spool_stats.bytes > 0
        publisher.set_retained("stats", b"{}")
        assert time.monotonic() - started_s < 20
        assert publisher.flush(0.1) == 2
        assert publisher.store_or_count_lost() == 1
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 20
    hanging.hangs = False
    acceptor.join(60)
