"""Measures what open pages cost: throughput of the inspection, time from frame to screen, memory.

    python benchmarks/page.py

A real agent inspects pictures as fast as it can. In turns nobody, one page, and 20 pages with one client that reads
nothing look at it. A page here is what a browser does: one event stream, and the live picture with its heatmap, at most
six times a second and only after a new result. The pages run in this process, at the lowest priority: in a plant they
are other computers. `--seconds` is the length of a turn. An idle machine gives the best numbers; the load is printed.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from zsad_agent.system import status_mb

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
EVERY_S = 0.17  # between two live pictures of a page
LIVE = "/api/v1/cameras/cam0/live.jpg?overlay=1&width=640"
EVENTS = "/api/v1/events"
START_S = 60.0  # for the agent and the page
TURNS = {"no page": (0, False), "1 page": (1, False), "{n} pages, 1 slow client": (-1, True)}


@dataclass
class Turn:
    """What was measured in one turn."""

    rate: float = 0.0  # results a second
    cpu_ms: float = 0.0  # of the agent, for each result
    rss_mb: float = 0.0
    to_event_ms: list[float] = field(default_factory=list)  # from the frame to its result on the page
    to_screen_ms: list[float] = field(default_factory=list)  # from the frame to its picture on the page
    skipped: int = 0  # results that a page that reads was not sent


class Page:
    """One open page: its event stream, and its live picture."""

    def __init__(self, port: int, turn: Turn) -> None:
        self._port, self._turn = port, turn
        self._captured_at: dict[str, float] = {}  # seconds since 1970, by the result's id
        self._new = asyncio.Event()

    async def run(self) -> None:
        await asyncio.gather(self._listen(), self._look())

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port, limit=2**20)
        writer.write(request(EVENTS))
        kind = ""
        while line := await reader.readline():
            if line.startswith(b"event: "):
                kind = line[7:].strip().decode()
            elif line.startswith(b"data: ") and kind == "skipped":
                self._turn.skipped += json.loads(line[6:])["results"]
            elif line.startswith(b"data: ") and kind == "result":
                result = json.loads(line[6:])
                at_s = datetime.fromisoformat(result["captured_at"]).timestamp()
                self._captured_at[result["id"]] = at_s
                self._turn.to_event_ms.append(1000 * (time.time() - at_s))
                self._new.set()

    async def _look(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port)
        shown = None
        while True:
            await self._new.wait()
            self._new.clear()
            started_s = time.monotonic()
            writer.write(request(LIVE))
            headers = await read_headers(reader)
            await reader.readexactly(int(headers["content-length"]))
            at_s = self._captured_at.get(headers.get("x-result-id", ""))
            if at_s is not None and headers["x-result-id"] != shown:
                shown = headers["x-result-id"]
                self._turn.to_screen_ms.append(1000 * (time.time() - at_s))
            await asyncio.sleep(max(0.0, EVERY_S - (time.monotonic() - started_s)))


async def read_nothing(port: int) -> None:
    """A client that asks for events and does not read them."""
    _, writer = await asyncio.open_connection(HOST, port, limit=1)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(request(EVENTS))
    await asyncio.Event().wait()


def request(path: str) -> bytes:
    """The bytes of a GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()


async def read_headers(reader: asyncio.StreamReader) -> dict[str, str]:
    """The headers of an answer, by their names in lower case."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    pairs = (line.partition(":") for line in head.splitlines()[1:] if line)
    return {name.lower(): value.strip() for name, _, value in pairs}


async def ask(port: int, path: str) -> Any:
    """The JSON that the API answers."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(request(path))
    headers = await read_headers(reader)
    body = await reader.readexactly(int(headers["content-length"]))
    writer.close()
    return json.loads(body)


async def count(port: int) -> int:
    """Results since the start."""
    cameras = await ask(port, "/api/v1/cameras")
    return sum(cameras[0]["results"].values())


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def take_turn(port: int, pid: int, pages: int, slow: bool, seconds: float) -> Turn:
    """Looks at the agent with so many pages; measures after a second, when all have opened."""
    turn = Turn()
    tasks = [asyncio.create_task(Page(port, turn).run()) for _ in range(pages)]
    if slow:
        tasks.append(asyncio.create_task(read_nothing(port)))
    await asyncio.sleep(1.0)
    turn.to_event_ms.clear()  # a new page gets the newest result, however old
    turn.to_screen_ms.clear()
    before, cpu_before_s, started_s = await count(port), cpu_s(pid), time.monotonic()
    await asyncio.sleep(seconds)
    results = await count(port) - before
    turn.rate = results / (time.monotonic() - started_s)
    turn.cpu_ms = 1000 * (cpu_s(pid) - cpu_before_s) / max(1, results)
    turn.rss_mb = status_mb("VmRSS", pid)
    for task in tasks:
        if task.done():
            task.result()  # its error
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return turn


async def started(port: int) -> None:
    """Waits for the first results."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        try:
            if await count(port) > 20:
                return
        except (OSError, asyncio.IncompleteReadError, LookupError, TypeError):
            pass
        await asyncio.sleep(0.2)
    raise SystemExit(f"the page at port {port} did not answer within {START_S} s")


def p95(values: Sequence[float]) -> float:
    """NaN for fewer than two values."""
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else float("nan")


def table(turns: dict[str, list[Turn]]) -> str:
    """One row for each kind of turn. The change is the median over the rounds, each against its own turn without."""
    lines = [
        "|open|results/s|change|CPU per result|frame to result on the page, p95|to its picture, p95|memory|left out|",
        "|---|---|---|---|---|---|---|---|",
    ]
    base = next(iter(turns.values()))
    for name, found in turns.items():
        changes = [100 * (turn.rate / nobody.rate - 1) for turn, nobody in zip(found, base, strict=True)]
        events = [value for turn in found for value in turn.to_event_ms]
        screens = [value for turn in found for value in turn.to_screen_ms]
        lines.append(
            f"|{name}|{statistics.median(turn.rate for turn in found):.1f}|{statistics.median(changes):+.1f} %"
            f"|{statistics.median(turn.cpu_ms for turn in found):.1f} ms"
            f"|{p95(events):.0f} ms|{p95(screens):.0f} ms"
            f"|{max(turn.rss_mb for turn in found):.0f} MB|{sum(turn.skipped for turn in found)}|"
        )
    return "\n".join(lines)


async def measure(arguments: argparse.Namespace, port: int, pid: int) -> dict[str, list[Turn]]:
    """All turns, by what was open."""
    await started(port)
    turns: dict[str, list[Turn]] = {name.format(n=arguments.pages): [] for name in TURNS}
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
        for name, (pages, slow) in TURNS.items():
            pages = arguments.pages if pages < 0 else pages
            found = await take_turn(port, pid, pages, slow, arguments.seconds)
            turns[name.format(n=arguments.pages)].append(found)
    return turns


def main() -> int:
    """Runs the agent and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "agent/bundles/zsad-small")
    parser.add_argument("--source", type=Path, default=ROOT / "demo/stream", help="folder of pictures, repeated")
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="of the inference (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8089)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "agent.yaml")
        config.write_text(
            f"device_id: bench\ninference: {{bundle: {arguments.bundle.resolve()}, threads: {arguments.threads}}}\n"
            f"source: {{source: {arguments.source.resolve()}, loop: true}}\nmqtt: {{broker: 'mqtt://127.0.0.1:1'}}\n"
            f"web: {{listen: '{HOST}:{arguments.port}'}}\n"
        )
        places = {"STATE_DIRECTORY": str(Path(folder, "state")), "CACHE_DIRECTORY": str(Path(folder, "cache"))}
        command = [sys.executable, "-m", "zsad_agent.cli", "--config", str(config)]
        with (
            Path(folder, "log").open("w") as log,
            subprocess.Popen(command, env={**os.environ, **places}, stdout=log, stderr=log) as agent,
        ):
            os.nice(19)
            try:
                turns = asyncio.run(measure(arguments, arguments.port, agent.pid))
            finally:
                agent.kill()
    print(table(turns))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
