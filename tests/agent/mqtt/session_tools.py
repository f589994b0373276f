"""A publisher with short pauses between connections, for several test files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from result_maker import make_result

from zsad_agent.config import MqttConfig
from zsad_agent.messages import Result
from zsad_agent.mqtt import Publisher
from zsad_agent.spool import Spool

NOT_AUTHORISED, QUOTA = 0x87, 0x97
BASE = "zsad/line3"
RESULT_TOPIC = f"{BASE}/cam0/result"


@contextmanager
def publishing(
    url: str, folder: Path, *, pictures: Literal["off", "all"] = "off", **settings: Any
) -> Iterator[Publisher]:
    with (
        Spool(folder / "spool.sqlite3", max_results=1000) as spool,
        Publisher(
            MqttConfig(broker=url, **settings),
            "line3",
            spool,
            pictures=pictures,
            reconnect_min_s=0.02,
            reconnect_max_s=0.1,
        ) as publisher,
    ):
        yield publisher


def result(seq: int, *, ballast: int = 0) -> Result:
    return make_result(seq, product="x" * (1 + ballast))


def seqs(messages: list[tuple[str, bytes]]) -> list[int]:
    return [json.loads(payload)["seq"] for topic, payload in messages if topic == RESULT_TOPIC]
