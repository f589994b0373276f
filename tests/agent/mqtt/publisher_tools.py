"""A publisher over its own spool, for several test files."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mosquitto_broker import MosquittoBroker

from zsad_agent.config import MqttConfig
from zsad_agent.mqtt import Publisher
from zsad_agent.spool import Spool

BrokerFactory = Callable[..., MosquittoBroker]


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


def jpeg_of(number: int) -> bytes:
    return b"\xff\xd8 overlay of %d" % number
