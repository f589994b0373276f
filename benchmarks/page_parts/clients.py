"""Open pages without a browser: what they ask the agent for, at the rate of a page, in one asyncio loop."""

import asyncio
import contextlib
import json
import os
import re
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from zsad_agent.system import status_mb

HOST = "127.0.0.1"
EVERY_S = 0.17  # between two live pictures of a page, as in frame.js
GALLERY_S, A_PICTURE_S, MOST_REJECTS = 0.8, 0.2, 12  # of the gallery of rejects, as in inspect.js and state.js
LIVE = "/api/v1/cameras/cam0/live.jpg?overlay=1&width=640"
EVENTS = "/api/v1/events"
OPEN_S = 1.0  # until all pages are open
RESULT = re.compile(rb'"id":"([^"]+)".*?"captured_at":"([^"]+)"')


@dataclass
class Turn:
    """What was measured in one turn."""

    rate: float = 0.0  # results a second
    cpu_ms: float = 0.0  # of the agent, for each result
    rss_mb: float = 0.0
    to_event_ms: list[float] = field(default_factory=list)  # from the frame to its result on the page
    to_picture_ms: list[float] = field(default_factory=list)  # from the frame to its picture on the page
    thumbnails: int = 0  # of rejects, all pages
    skipped: int = 0  # results that a page that reads was not sent


class Connection:
    """Asks one thing after another. As a browser it connects again if the agent has closed the idle connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str) -> dict[str, str]:
        """The headers of the answer, whose body is read too."""
        if self._streams is not None:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                return await self._ask(path, *self._streams)
        self._streams = await asyncio.open_connection(HOST, self._port)
        return await self._ask(path, *self._streams)

    async def _ask(self, path: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, str]:
        writer.write(request(path))
        headers = await read_headers(reader)
        await reader.readexactly(int(headers["content-length"]))
        return headers


class Page:
    """One open page: its event stream, its live picture, and its gallery of rejects."""

    def __init__(self, port: int, turn: Turn) -> None:
        self._port, self._turn = port, turn
        self._captured_at: dict[str, float] = {}  # seconds since 1970, by the result's id
        self._shown_at: dict[str, float] = {}  # the same for its picture, which may come before the result
        self._new = asyncio.Event()
        self._rejects: deque[str] = deque(maxlen=MOST_REJECTS)  # ids of those that the gallery does not show yet
        self._pause_s = 0.0

    async def run(self) -> None:
        await asyncio.gather(self._listen(), self._look(), self._collect())

    async def _listen(self) -> None:
        reader, writer = await asyncio.open_connection(HOST, self._port, limit=2**20)
        writer.write(request(EVENTS))
        buffered = b""
        while received := await reader.read(2**16):
            buffered += received
            whole, _, buffered = buffered.rpartition(b"\n\n")
            for event in whole.split(b"\n\n"):
                self._take(event)

    def _take(self, event: bytes) -> None:
        if b"event: skipped" in event:
            self._turn.skipped += int(event.rpartition(b":")[2].strip(b"} "))
        elif b"event: result" in event and (found := RESULT.search(event)) is not None:
            at_s = datetime.fromisoformat(found[2].decode()).timestamp()
            self._captured_at[found[1].decode()] = at_s
            self._turn.to_event_ms.append(1000 * (time.time() - at_s))
            self._note(found[1].decode())
            self._new.set()
            if b'"verdict":"anomalous"' in event:
                self._rejects.append(found[1].decode())

    def _note(self, result_id: str) -> None:
        if result_id in self._captured_at and result_id in self._shown_at:
            spent_s = self._shown_at.pop(result_id) - self._captured_at.pop(result_id)
            self._turn.to_picture_ms.append(1000 * spent_s)

    async def _look(self) -> None:
        connection, shown = Connection(self._port), None
        while True:
            await self._new.wait()
            self._new.clear()
            started_s = time.monotonic()
            headers = await connection.get(LIVE)
            if headers["x-result-id"] != shown:
                shown = headers["x-result-id"]
                self._shown_at[shown] = time.time()
                self._note(shown)
            spent_s = time.monotonic() - started_s
            self._pause_s = int(headers.get("x-pause-ms", "0")) / 1000
            await asyncio.sleep(max(EVERY_S, self._pause_s, 2 * spent_s) - spent_s)

    async def _collect(self) -> None:
        connection = Connection(self._port)
        while True:
            changed_s = time.monotonic()
            while time.monotonic() - changed_s < GALLERY_S + len(self._rejects) * (A_PICTURE_S + self._pause_s):
                await asyncio.sleep(0.1)
            wanted = list(self._rejects)
            self._rejects.clear()
            for result_id in wanted:
                await connection.get(f"/api/v1/results/{result_id}/overlay.jpg?width=240")
                self._turn.thumbnails += 1


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


async def started(port: int, limit_s: float) -> None:
    """Waits for the first results."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, LookupError, TypeError):
            if await asyncio.wait_for(count(port), 5) > 20:
                return
        await asyncio.sleep(0.2)
    raise SystemExit(f"the page at port {port} did not answer within {limit_s:g} s")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def take_turn(port: int, pid: int, pages: int, seconds: float) -> Turn:
    """Looks at the agent with so many pages, and one client that reads nothing if there are any."""
    turn = Turn()
    tasks = [asyncio.create_task(Page(port, turn).run()) for _ in range(pages)]
    if pages:
        tasks.append(asyncio.create_task(read_nothing(port)))
    await asyncio.sleep(OPEN_S)
    turn.to_event_ms.clear()  # a new page gets the newest result, however old
    turn.to_picture_ms.clear()
    turn.thumbnails = 0
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
