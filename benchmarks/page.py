"""Measures what open pages cost, and how quick the page is: clients without a browser, and a real headless Chromium.

    python benchmarks/page.py --json page.json

A real agent inspects pictures as fast as it can. In turns nobody looks at it, and 20 pages with one client that reads
nothing. A page here asks for what a browser would: one event stream, the live picture with its heatmap, and the last
rejects. These pages run in one thread of this program at the lowest priority: in a plant they are other computers. Then
Chromium loads the page with an empty cache, sees it while a network camera of 30 frames a second keeps the agent at its
full speed, and keeps it open for a minute at 30 results a second.

Takes about 5 minutes. Progress is on stderr. An idle machine gives the best numbers; the load is printed.
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
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from page_parts.browser import Third, chromium, executable
from page_parts.camera import network_camera
from page_parts.clients import HOST, Turn, started, take_turn

from zsad_agent.system import lower_priority

ROOT = Path(__file__).parents[1]
START_S = 60.0  # longest wait for an agent
COLD_LOADS = 7


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of the table."""

    measure: str
    value: float
    unit: str
    most: float | None = None  # the target

    @property
    def met(self) -> bool | None:
        """None without a target."""
        return None if self.most is None else self.value <= self.most


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} load {os.getloadavg()[0]:4.1f}  {text}", file=sys.stderr, flush=True)


@contextmanager
def agent(arguments: argparse.Namespace, bundle: Path, source: str) -> Iterator[int]:
    """An agent with its page, until the end of the block. Gives its process id. `source`: in YAML."""
    with tempfile.TemporaryDirectory() as folder:
        threads = "" if arguments.threads is None else f", threads: {arguments.threads}"
        config = Path(folder, "agent.yaml")
        config.write_text(
            f"device_id: bench\ninference: {{bundle: {bundle.resolve()}{threads}}}\n"
            f"source: {{{source}}}\n"
            f"mqtt: {{broker: 'mqtt://127.0.0.1:1'}}\nhttp: {{listen: 'off'}}\n"
            f"web: {{listen: '{HOST}:{arguments.port}'}}\n"
        )
        places = {"STATE_DIRECTORY": str(Path(folder, "state")), "CACHE_DIRECTORY": str(Path(folder, "cache"))}
        command = [sys.executable, "-m", "zsad_agent.cli", "--config", str(config)]
        log = Path(folder, "log")
        with (
            log.open("w") as out,
            subprocess.Popen(command, env={**os.environ, **places}, stdout=out, stderr=out) as process,
        ):
            try:
                say(f"an agent with {bundle.name} starts")
                asyncio.run(started(arguments.port, START_S))
                yield process.pid
            except SystemExit:
                print(log.read_text(), file=sys.stderr)
                raise
            finally:
                process.kill()


def take_turns(arguments: argparse.Namespace, pid: int) -> list[Turn]:
    """Without pages, with them, without, and so on: each turn with pages lies between two without."""
    turns = []
    with ThreadPoolExecutor(1, initializer=partial(lower_priority, 19)) as quiet:
        for number in range(2 * arguments.rounds + 1):
            pages = arguments.pages if number % 2 else 0
            turn = quiet.submit(asyncio.run, take_turn(arguments.port, pid, pages, arguments.seconds)).result()
            say(f"turn {number + 1} of {2 * arguments.rounds + 1}, {pages} pages: {turn.rate:.1f} results/s")
            turns.append(turn)
    return turns


def rows_of_turns(turns: Sequence[Turn], pages: int, seconds: float) -> list[Row]:
    """The change is the median over the turns with pages, each against the two beside it."""
    alone, watched = turns[::2], turns[1::2]
    besides = [(before.rate + after.rate) / 2 for before, after in pairwise(alone)]
    falls = [100 * (1 - turn.rate / beside) for turn, beside in zip(watched, besides, strict=True)]
    cpu_ms, watched_cpu_ms = (statistics.median(turn.cpu_ms for turn in found) for found in (alone, watched))
    events = [value for turn in watched for value in turn.to_event_ms]
    pictures = [value for turn in watched for value in turn.to_picture_ms]
    open_s = pages * seconds * len(watched)
    many = f"{pages} pages and a slow client"
    return [
        Row(measure="inspection without pages", value=statistics.median(turn.rate for turn in alone), unit="results/s"),
        Row(measure=f"fall with {many}", value=statistics.median(falls), unit="%", most=5.0),
        Row(measure="agent's CPU for a result, no page", value=cpu_ms, unit="ms"),
        Row(measure=f"agent's CPU for a result, {many}", value=watched_cpu_ms, unit="ms"),
        Row(measure="events that a page got", value=len(events) / open_s, unit="1/s"),
        Row(measure="pictures that a page got", value=len(pictures) / open_s, unit="1/s"),
        Row(
            measure="thumbnails of rejects that a page got",
            value=sum(turn.thumbnails for turn in watched) / open_s,
            unit="1/s",
        ),
        Row(measure=f"frame to event, {many}, p95", value=quantile(events, 0.95), unit="ms"),
        Row(measure=f"frame to picture, {many}, p95", value=quantile(pictures, 0.95), unit="ms"),
        Row(measure="results that a page was not sent", value=sum(turn.skipped for turn in watched), unit="", most=0.0),
        Row(measure="agent's memory before pages", value=turns[0].rss_mb, unit="MB"),
        Row(measure=f"agent's memory with {many}", value=max(turn.rss_mb for turn in watched), unit="MB"),
        Row(measure="agent's memory after pages", value=turns[-1].rss_mb, unit="MB"),
    ]


def rows_of_browser(arguments: argparse.Namespace, path: str) -> list[Row]:
    """Cold loads, and from the frame to the screen."""
    with chromium(path, arguments.port) as browser:
        browser.cold_load_ms()  # Chromium itself starts
        loads = [browser.cold_load_ms() for _ in range(COLD_LOADS)]
        say("the page was loaded")
        screens, by_page = browser.to_screen_ms(arguments.screen_seconds)
        say("the page was seen at full speed")
    usable, seen = zip(*loads, strict=True)
    return [
        Row(measure="cold load until usable, median", value=statistics.median(usable), unit="ms", most=1000.0),
        Row(measure="cold load until usable, slowest", value=max(usable), unit="ms"),
        Row(measure="cold load until the first picture, median", value=statistics.median(seen), unit="ms"),
        Row(measure="frame to screen in Chromium, p50", value=quantile(screens, 0.5), unit="ms"),
        Row(measure="frame to screen in Chromium, p95", value=quantile(screens, 0.95), unit="ms", most=300.0),
        Row(measure="of it after the inspection, p50", value=quantile(by_page, 0.5), unit="ms"),
        Row(measure="of it after the inspection, p95", value=quantile(by_page, 0.95), unit="ms"),
    ]


def rows_of_tab(thirds: Sequence[Third], seconds: float) -> list[Row]:
    """A tab that stays open, the first third of the time against the last."""
    first, *_, last = thirds
    total = sum(third.frames for third in thirds)
    return [
        Row(measure="tab: results", value=sum(third.results for third in thirds) / seconds, unit="1/s"),
        Row(measure="tab: frames", value=total / seconds, unit="1/s"),
        Row(measure="tab: late frames, first third", value=100 * first.late_frames / max(1, first.frames), unit="%"),
        Row(measure="tab: late frames, last third", value=100 * last.late_frames / max(1, last.frames), unit="%"),
        Row(measure="tab: long tasks, first third", value=first.long_tasks, unit=""),
        Row(measure="tab: long tasks, last third", value=last.long_tasks, unit=""),
        Row(measure="tab: JavaScript's heap, first third", value=first.heap_mb, unit="MB"),
        Row(measure="tab: JavaScript's heap, last third", value=last.heap_mb, unit="MB"),
        Row(measure="tab: memory, first third", value=first.rss_mb, unit="MB"),
        Row(measure="tab: memory, last third", value=last.rss_mb, unit="MB"),
    ]


def quantile(values: Sequence[float], share: float) -> float:
    """NaN for fewer than two values."""
    return statistics.quantiles(values, n=100)[round(100 * share) - 1] if len(values) > 1 else float("nan")


def table(rows: Sequence[Row]) -> str:
    """In Markdown."""
    marks = {None: "", True: "met", False: "missed"}
    lines = ["|measure|value|target|", "|---|---:|---|"]
    for row in rows:
        target = "" if row.most is None else f"at most {row.most:g} {row.unit}: {marks[row.met]}"
        lines.append(f"|{row.measure}|{row.value:.1f} {row.unit}|{target}|")
    return "\n".join(lines)


def main() -> int:
    """Runs the agents and the browser, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "agent/bundles/zsad-small")
    parser.add_argument("--quick-bundle", type=Path, default=ROOT / "agent/bundles/zsad-tiny", help="for 30 frames/s")
    parser.add_argument("--source", type=Path, default=ROOT / "demo/stream", help="folder of pictures, repeated")
    parser.add_argument("--pages", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=6, help="turns with pages (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=7.0, help="of a turn (default: %(default)s)")
    parser.add_argument("--screen-seconds", type=float, default=20.0, help="at full speed (default: %(default)s)")
    parser.add_argument("--tab-seconds", type=float, default=60.0, help="at --fps (default: %(default)s)")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--threads", type=int, help="of the inference (default: as the agent chooses)")
    parser.add_argument("--port", type=int, default=8089)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here too")
    arguments = parser.parse_args()
    path = executable()
    folder = f"source: {arguments.source.resolve()}, loop: true"
    with agent(arguments, arguments.bundle, folder) as pid:
        rows = rows_of_turns(take_turns(arguments, pid), arguments.pages, arguments.seconds)
    if path is None:
        say("Chromium is not installed: its part is left out")
    else:
        with network_camera(arguments.source) as url, agent(arguments, arguments.bundle, f"source: '{url}'"):
            rows += rows_of_browser(arguments, path)
        paced = f"{folder}, fps: {arguments.fps}"
        with agent(arguments, arguments.quick_bundle, paced), chromium(path, arguments.port) as browser:
            rows += rows_of_tab(browser.watch(arguments.tab_seconds), arguments.tab_seconds)
    print(table(rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) | {"met": row.met} for row in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
