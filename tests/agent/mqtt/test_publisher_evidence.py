"""Evidence pictures are sent after their results."""

from pathlib import Path

import pytest
from mosquitto_broker import free_port
from mqtt_listener import MqttListener
from publisher_tools import BrokerFactory, jpeg_of, publishing, seqs
from result_maker import accept
from result_maker import make_result as result

from zsad_agent.spool import Spool
from zsad_core.types import Verdict


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
            assert publisher.flush(60) == 0
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
        assert publisher.flush(60) == 0
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
            assert publisher.flush(60) == 0
            assert publisher.stats.attached_images_given_up == {"refused": 1}
            assert publisher.stats.given_up == {}
        listener.wait_for(lambda: len(set(seqs(listener.results()))) == 20)
        wanted = {jpeg_of(number) for number in range(1, 20)}
        listener.wait_for(lambda: {payload for topic, payload in listener.messages if is_evidence(topic)} == wanted)
    assert caplog.text.count("the message is too large for the broker: evidence pictures are given up") == 1


def test_lost_pictures_are_counted_separately_from_results(tmp_path: Path) -> None:
    with publishing(
        "mqtt://127.0.0.1:1", tmp_path, pictures="all", spool_settings={"disk_free": lambda _: 0}
    ) as publisher:
        accept(publisher, result(1), jpeg_of(1))
        assert publisher.stats.attached_images_given_up == {"disk": 1}
        assert publisher.stats.given_up == {}
