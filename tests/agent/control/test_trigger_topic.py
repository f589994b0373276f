import logging

import pytest

from zsad_agent.control import listen_for_triggers
from zsad_agent.control.trigger_topic import trigger_id
from zsad_agent.messages import Topics


class FakeSubscriber:
    def __init__(self) -> None:
        self.handlers = {}  # type: ignore[var-annotated]

    def subscribe(self, topic, handler) -> None:  # type: ignore[no-untyped-def]
        self.handlers[topic] = handler


class FakeCamera:
    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def trigger(self, trigger_id: str | None) -> None:
        self.asked.append(trigger_id)


@pytest.mark.parametrize(
    "payload", [rb'{"id": "\ud800"}', b'{"id": 3}', b"\xff", b"[" * 50_000, b'{"x": 1}', b"x" * 129]
)
def test_trigger_with_an_invalid_id_inspects_without_an_id(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    subscriber, camera = FakeSubscriber(), FakeCamera()
    listen_for_triggers(subscriber, Topics("zsad", "line3"), {"cam0": camera})
    take = subscriber.handlers["zsad/line3/cam0/trigger"]
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            take(payload)
    assert camera.asked == [None] * 5
    assert caplog.text.count("will have no trigger_id") == 1  # a faulty sender sends often


def test_ids_are_returned_unchanged() -> None:
    assert [trigger_id(payload) for payload in (b"", b" 7 ", b'{"id": "\xc3\xa4"}', b"{}")] == [None, "7", "ä", None]
