import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from jsonschema import Draft202012Validator
from mosquitto_broker import MosquittoBroker, free_port
from mqtt_listener import MqttListener, wait_until
from paho.mqtt.enums import CallbackAPIVersion
from result_maker import accept
from result_maker import make_result as result

from zsad_agent.config import MqttConfig
from zsad_agent.messages import Result, schema_text
from zsad_agent.mqtt import BrokerState, Publisher, read_password
from zsad_agent.spool import Spool, SpoolClock, Stamp
from zsad_core.errors import ConfigError
from zsad_core.types import Verdict

BrokerFactory = Callable[..., MosquittoBroker]
START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


@contextmanager
def publishing(
    url: str,
    folder: Path,
    *,
    ack_timeout_s: float = 30.0,
    pictures: Any = "off",
    spool_settings: dict[str, Any] | None = None,
    **settings: Any,
) -> Iterator[Publisher]:
    config = MqttConfig(broker=url, **settings)
    with (
        Spool(folder / "spool.sqlite3", max_results=100_000, **(spool_settings or {})) as spool,
        Publisher(
            config,
            "line3",
            spool,
            pictures=pictures,
            reconnect_min_s=0.05,
            reconnect_max_s=0.2,
            ack_timeout_s=ack_timeout_s,
        ) as publisher,
    ):
        publisher.await_first_attempt(threading.Event())
        yield publisher


def seqs(results: list[dict[str, Any]]) -> list[int]:
    return [message["seq"] for message in results]


def first_arrivals(results: list[dict[str, Any]]) -> list[int]:
    return list(dict.fromkeys(seqs(results)))


def test_every_result_arrives_once_in_order_and_valid_with_its_heatmap(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    schema = Draft202012Validator(json.loads(schema_text(Result)))
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path) as publisher:
            for number in range(500):
                accept(publisher, result(number), b"jpeg %d" % number)
            assert publisher.flush(20) == 0
            assert publisher.fault is None
            stats = publisher.stats
        listener.wait_for(lambda: len(listener.messages) >= 1002)
        assert seqs(listener.results()) == list(range(500))
        for message in listener.results():
            schema.validate(message)
            assert message == json.loads(result(message["seq"]).encode())  # replayed false among them
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


def test_nothing_is_sent_twice_when_a_stop_follows_at_once(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        for run in range(4):
            with publishing(broker.url, tmp_path, in_flight=5) as publisher:
                for number in range(run * 30, run * 30 + 30):
                    accept(publisher, result(number), None)
        with publishing(broker.url, tmp_path) as publisher:
            assert publisher.flush(10) == 0
        listener.wait_for(lambda: len(listener.results()) >= 120)
        assert sorted(seqs(listener.results())) == list(range(120))  # what an earlier run left goes between live ones


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
        assert time.monotonic() - start_s < 2  # waits for no network
        time.sleep(0.5)  # several attempts
        assert publisher.flush(0) == 100
        broker.start()
        wait_until(lambda: publisher.connected)
        assert publisher.flush(10) == 0
        accept(publisher, result(100), b"jpeg")
        assert publisher.flush(10) == 0
    with MqttListener(broker.port, session="dashboard") as listener:
        listener.wait_for(lambda: len(listener.results()) >= 101)
        messages = listener.results()
        assert seqs(messages) == list(range(101))
        assert [message["replayed"] for message in messages] == [True] * 100 + [False]
        assert messages[7] == json.loads(result(7).encode()) | {"replayed": True}  # the same id and capture time
        assert listener.payloads("zsad/line3/cam0/heatmap") == []  # QoS 0, and nobody was there
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
            assert publisher.flush(10) == 0
        listener.wait_for(lambda: len(listener.results()) >= 2)
        assert {(message["seq"], message["replayed"]) for message in listener.results()} == {(1, True), (2, False)}
        assert len(listener.results()) == 2


def test_broker_restarts_in_mid_stream_lose_nothing_and_keep_the_order(
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
        assert publisher.flush(20) == 0
        listener.wait_for(lambda: len(set(seqs(listener.results()))) >= 600)
        stats = publisher.stats
    for replayed in (False, True):  # two lanes, each in order
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
    with MqttListener(broker.port) as listener, publishing(broker.url, tmp_path, ack_timeout_s=0.3) as publisher:
        accept(publisher, result(0), None)
        assert publisher.flush(10) == 0
        broker.freeze()
        for number in range(1, 50):
            accept(publisher, result(number), None)
        wait_until(lambda: publisher.state is BrokerState.UNREACHABLE)
        assert publisher.spool_stats.entries == 49
        assert "nothing was acknowledged for 0.3 s" in caplog.text
        broker.thaw()
        assert publisher.flush(15) == 0
        listener.wait_for(lambda: len(set(seqs(listener.results()))) >= 50)
    assert first_arrivals(listener.results()) == list(range(50))


def test_stop_is_quick_while_the_broker_hangs(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    with publishing(broker.url, tmp_path) as publisher:
        broker.freeze()
        accept(publisher, result(0), None)
        start_s = time.monotonic()
    assert time.monotonic() - start_s < 1.5
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
        assert publisher.flush(10) == 0
        assert "full" in (publisher.fault or "")
        assert publisher.stats.given_up == {}
        (tiny_disk / "ballast").unlink()
        time.sleep(1.1)  # the disk is tried once a second
        accept(publisher, result(400), None)
        assert publisher.flush(10) == 0
        wait_until(lambda: publisher.fault is None)
        listener.wait_for(lambda: len(listener.results()) >= 401)
    assert seqs(listener.results()) == list(range(401))
    assert caplog.text.count("spool lost (append)") == 1


def test_refused_credentials_are_a_fault_that_does_not_show_the_secret(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(password=("line3", "the right one"))
    secret = tmp_path / "password"
    secret.write_text("the wrong one\n")
    secret.chmod(0o600)
    with publishing(broker.url, tmp_path, username="line3", password_file=secret) as publisher:
        accept(publisher, result(0), None)
        time.sleep(0.5)  # several attempts
        assert publisher.state is BrokerState.REFUSED
        assert publisher.alive
        fault = publisher.fault or ""
    assert f"127.0.0.1:{broker.port}" in fault
    assert "authori" in fault
    assert len(caplog.records) == 1
    assert "refused" in caplog.text
    assert "the wrong one" not in caplog.text + fault

    secret.write_text("the right one\n")
    with (
        MqttListener(broker.port, credentials=("line3", "the right one")) as listener,
        publishing(broker.url, tmp_path, username="line3", password_file=secret) as publisher,
    ):
        assert publisher.flush(10) == 0
        listener.wait_for(lambda: seqs(listener.results()) == [0])


AGENT = """
import sys, threading, time
from pathlib import Path
from zsad_agent.config import MqttConfig
from zsad_agent.mqtt import Publisher
from zsad_agent.spool import Spool
with Spool(Path(sys.argv[2]), max_results=1000) as spool:
    with Publisher(MqttConfig(broker=sys.argv[1]), "line3", spool) as publisher:
        publisher.await_first_attempt(threading.Event())
        print(publisher.connected, flush=True)
        time.sleep(60)
"""


def test_broker_says_offline_for_an_agent_that_was_killed(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        command = [sys.executable, "-c", AGENT, broker.url, str(tmp_path / "spool.sqlite3")]
        agent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert agent.stdout is not None
        assert agent.stdout.readline() == "True\n"
        agent.send_signal(signal.SIGKILL)
        agent.wait()
        agent.stdout.close()
        listener.wait_for(lambda: listener.payloads("zsad/line3/available") == [b"online", b"offline"])


def test_agent_that_reconnects_before_its_old_connection_ends_is_online(
    mosquitto: BrokerFactory, tmp_path: Path
) -> None:
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        half_open = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="zsad-agent-line3")  # left by a power cut
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
            publisher.flush(10)
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
            assert publisher.state is BrokerState.UNREACHABLE
            assert publisher.alive
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


def test_unknown_host_is_a_fault(tmp_path: Path) -> None:
    with publishing("mqtt://no-such-host.invalid", tmp_path) as publisher:
        wait_until(lambda: publisher.state is BrokerState.UNREACHABLE)
        assert "no-such-host.invalid:1883" in (publisher.fault or "")


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    with Spool(tmp_path / "spool.sqlite3", max_results=10) as spool:
        yield spool


def test_embedded_is_not_an_address(spool: Spool) -> None:
    with pytest.raises(ValueError, match="EmbeddedBroker"):
        Publisher(MqttConfig(broker="embedded"), "line3", spool)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"", "no password"),
        (b"\n", "no password"),
        (b"\xef\xbb\xbf\r\n", "no password"),
        (b"\xff\xfe", "not UTF-8. Save it as UTF-8"),
        ("secret".encode("utf-16"), "not UTF-8. Save it as UTF-8"),
        ("secret".encode("utf-16-le"), "not UTF-8. Save it as UTF-8"),
    ],
)
def test_password_file_without_a_password_is_a_config_error(
    spool: Spool, tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"mqtt.password_file: {file}: .*{said}"):
        Publisher(MqttConfig(username="line3", password_file=file), "line3", spool)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\r", b"\r\n\r\n", b"\nnotes\n"])
def test_password_is_the_first_line_without_the_marks_of_an_editor(tmp_path: Path, mark: bytes, end: bytes) -> None:
    file = tmp_path / "password"
    config = MqttConfig(username="line3", password_file=file)
    for password in ("secret", " a\u2028b\u0085\u00e4\t ", "x" * 65_535):
        file.write_bytes(mark + password.encode() + end)
        assert read_password(config) == password
    file.write_bytes(mark + b"x" * 65_536 + end)
    with pytest.raises(ConfigError, match="1 to 65535 bytes"):
        read_password(config)


def test_password_credential_without_systemd_is_a_config_error(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=r"mqtt\.password_credential is mqtt, but systemd .*LoadCredential=mqtt:"):
        Publisher(MqttConfig(username="line3", password_credential="mqtt"), "line3", spool)


def test_username_without_a_password_is_allowed(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    with publishing(mosquitto().url, tmp_path, username="line3") as publisher:
        assert publisher.connected


def test_password_without_username_is_a_config_error(spool: Spool, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no mqtt\.username"):
        Publisher(MqttConfig(password_file=tmp_path / "password"), "line3", spool)


def test_password_file_that_every_user_can_read_gives_a_warning(
    spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "password"
    file.write_text("secret")
    file.chmod(0o644)
    Publisher(MqttConfig(username="line3", password_file=file), "line3", spool)
    assert str(file) in caplog.text
    assert "secret" not in caplog.text


def jpeg_of(number: int) -> bytes:
    return b"\xff\xd8 overlay of %d" % number


def is_evidence(topic: str) -> bool:
    return "/cam0/evidence/" in topic


@pytest.mark.parametrize(("pictures", "kept"), [("off", []), ("rejects", [0, 1]), ("all", [0, 1, 2])])
def test_evidence_is_kept_by_verdict_and_sent_after_its_result(
    mosquitto: BrokerFactory, tmp_path: Path, pictures: str, kept: list[int]
) -> None:
    broker = mosquitto()
    parts = [
        result(0),
        result(1, verdict=Verdict.UNKNOWN),
        result(2, verdict=Verdict.OK),
    ]
    with publishing(f"mqtt://127.0.0.1:{free_port()}", tmp_path, pictures=pictures) as publisher:
        for number, part in enumerate(parts):
            accept(publisher, part, jpeg_of(number))
        accept(publisher, result(3), None)  # a reject without an overlay has no picture
    with Spool(tmp_path / "spool.sqlite3", max_results=10) as spool:
        assert spool.picture_count == len(kept)
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path, pictures=pictures) as publisher:
            assert publisher.flush(15) == 0
        listener.wait_for(lambda: b"offline" in listener.payloads("zsad/line3/available"))
        sent = [(topic, payload) for topic, payload in listener.messages if is_evidence(topic)]
        assert sent == [(f"zsad/line3/cam0/evidence/line3-b1-{number}", jpeg_of(number)) for number in kept]
        for number in kept:
            picture_at = listener.topics.index(f"zsad/line3/cam0/evidence/line3-b1-{number}")
            earlier = [payload for topic, payload in listener.messages[:picture_at] if topic.endswith("/result")]
            assert any(f'"id":"line3-b1-{number}"'.encode() in payload for payload in earlier)
    with Spool(tmp_path / "spool.sqlite3", max_results=10) as spool:
        assert (spool.count, spool.picture_count) == (0, 0)


def test_evidence_reaches_a_broker_that_accepts_one_message_at_a_time(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto(extra="max_inflight_messages 1")
    with publishing(broker.url, tmp_path, pictures="rejects") as publisher:
        for number in range(3):
            accept(publisher, result(number), jpeg_of(number))
        assert publisher.flush(15) == 0
        assert publisher.stats.attached_images_given_up == {}
    with Spool(tmp_path / "spool.sqlite3", max_results=10) as spool:
        assert spool.picture_count == 0


def test_picture_too_large_for_the_broker_is_given_up_and_delays_no_result(
    mosquitto: BrokerFactory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broker = mosquitto(extra="max_packet_size 20000")
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path, pictures="all") as publisher:
            accept(publisher, result(0), b"x" * 50_000)
            for number in range(1, 20):
                accept(publisher, result(number), jpeg_of(number))
            assert publisher.flush(30) == 0
            assert publisher.stats.attached_images_given_up == {"refused": 1}
            assert publisher.stats.given_up == {}
        listener.wait_for(lambda: len(set(seqs(listener.results()))) == 20)
        arrived = {payload for topic, payload in listener.messages if is_evidence(topic)}
        assert arrived == {jpeg_of(number) for number in range(1, 20)}
    assert caplog.text.count("the message is too large for the broker: evidence pictures are given up") == 1


def test_live_results_arrive_while_a_long_backlog_is_replayed(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    backlog, live = 3000, 100
    with publishing(f"mqtt://127.0.0.1:{free_port()}", tmp_path, spool_settings={"fsync": "periodic"}) as publisher:
        for number in range(backlog):
            accept(publisher, result(number), None)
    broker = mosquitto()
    with MqttListener(broker.port) as listener:
        with publishing(broker.url, tmp_path, spool_settings={"fsync": "periodic"}) as publisher:
            assert publisher.connected
            for number in range(backlog, backlog + live):
                accept(publisher, result(number), None)
            assert publisher.flush(60) == 0
        listener.wait_for(lambda: len(listener.results()) >= backlog + live)
        arrived = listener.results()
    assert [each["seq"] for each in arrived if each["replayed"]] == list(range(backlog))
    assert [each["seq"] for each in arrived if not each["replayed"]] == list(range(backlog, backlog + live))
    last_live = max(at for at, each in enumerate(arrived) if not each["replayed"])
    assert last_live < backlog + live - 500  # long before the backlog ends


def test_spool_that_cannot_be_used_is_a_fault_and_the_results_arrive(mosquitto: BrokerFactory, tmp_path: Path) -> None:
    broker = mosquitto()
    (tmp_path / "spool.sqlite3").mkdir()  # a folder where the file belongs
    with MqttListener(broker.port) as listener, publishing(broker.url, tmp_path) as publisher:
        assert "spool.sqlite3: the spool cannot be opened" in (publisher.fault or "")
        for number in range(50):
            accept(publisher, result(number), None)
        assert publisher.flush(15) == 0
        assert publisher.stats.given_up == {}
        listener.wait_for(lambda: seqs(listener.results()) == list(range(50)))


class HangingCommit(SpoolClock):
    """A commit hangs while `hangs` is set: the clock is read last before it."""

    hangs = False

    def stamp(self) -> Stamp:
        while self.hangs:
            time.sleep(0.01)
        return super().stamp()


def test_neither_state_nor_counts_nor_the_stop_wait_for_a_commit_that_hangs(tmp_path: Path) -> None:
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
        assert time.monotonic() - started_s < 0.1
        assert publisher.flush(0.1) == 2
        assert publisher.store_or_count_lost() == 1
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 1.0
    hanging.hangs = False
    acceptor.join(5)


def test_lost_pictures_are_counted_separately_from_results(tmp_path: Path) -> None:
    with publishing(
        "mqtt://127.0.0.1:1", tmp_path, pictures="all", spool_settings={"disk_free": lambda _: 0}
    ) as publisher:
        accept(publisher, result(1), jpeg_of(1))
        assert publisher.stats.attached_images_given_up == {"disk": 1}
        assert publisher.stats.given_up == {}
