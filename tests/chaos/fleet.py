"""The publishers of many agents in one process: real spools and publishers, one scripted result a second each.

Run as `python fleet.py PORT FIRST COUNT SECONDS FOLDER`. Prints "ready" when all are connected, and starts after a line
on stdin. At the end it prints one JSON object: the ids of all accepted results, and the number of unsent results.
"""

import json
import logging
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from result_maker import accept, make_result

from zsad_agent.config import MqttConfig
from zsad_agent.messages import Result
from zsad_agent.mqtt import Publisher
from zsad_agent.spool import Spool
from zsad_core.types import Verdict

PATIENCE_S = 60.0


def scripted_result(device: str, seq: int) -> Result:
    return make_result(
        seq,
        id=f"{device}-f1ee7-{seq}",
        device_id=device,
        captured_at=datetime.now(UTC),
        anomaly_score=seq % 100 / 100,
        verdict=Verdict.OK if seq % 100 < 50 else Verdict.ANOMALOUS,
    )


def main(port: int, first: int, count: int, seconds: int, folder: Path) -> None:
    logging.basicConfig(level=logging.ERROR)  # 200 agents would log "lost" and "back"
    names = [f"agent{number:03}" for number in range(first, first + count)]
    config = MqttConfig(broker=f"mqtt://127.0.0.1:{port}")
    with ExitStack() as stack:
        publishers = []
        for name in names:
            spool = stack.enter_context(Spool(folder / f"{name}.sqlite3", max_results=1_000_000))
            publishers.append(stack.enter_context(Publisher(config, name, spool)))
        while not all(publisher.connected for publisher in publishers):
            time.sleep(0.05)
        print("ready", flush=True)
        sys.stdin.readline()
        accepted = []
        started_s = time.monotonic()
        for seq in range(1, seconds + 1):
            for number, (name, publisher) in enumerate(zip(names, publishers, strict=True)):
                due_s = started_s + seq - 1 + number / count  # one result a second each, evenly spread over the second
                time.sleep(max(0.0, due_s - time.monotonic()))
                result = scripted_result(name, seq)
                accept(publisher, result, None)
                accepted.append(result.id)
        end_s = time.monotonic() + PATIENCE_S
        unsent = sum(publisher.flush(max(0.0, end_s - time.monotonic())) for publisher in publishers)
        late_s = time.monotonic() - started_s - seconds
    print(json.dumps({"accepted": accepted, "unsent": unsent, "late_s": late_s}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]), Path(sys.argv[5]))
