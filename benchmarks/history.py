"""Measures the history with a million results: writing, filtered pages, reports and plots.

`python benchmarks/history.py` makes the file in a temporary folder and prints a table in Markdown. `--keep FOLDER`
keeps the file, and uses the one that is there.
"""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path

from zsad_agent.history import By, HistoryStore, Wanted, find, find_one, report, scores
from zsad_agent.messages import BundleName, FoundRegion, Latency, Result
from zsad_core.types import Verdict

START = datetime(2026, 10, 1, tzinfo=UTC)
CAMERAS = ("front", "left", "right", "top")
PRODUCTS = ("bottle", "cap", "label", "rare")
BUNDLE = BundleName(name="zsad-small", version="1", sha256="0" * 64)
SHIFTS = [time_of_day(6), time_of_day(14), time_of_day(22)]
EVERY_S = 5  # between two parts: a million is 58 days
MARKED = 5_000


def make_result(seq: int, rng: random.Random) -> Result:
    """A result like those of a line with 3 % rejects and 1 % unknown parts; one in 100,000 is of a rare product."""
    chance = rng.random()
    verdict = Verdict.ANOMALOUS if chance < 0.03 else Verdict.UNKNOWN if chance < 0.04 else Verdict.OK
    score = {Verdict.ANOMALOUS: rng.uniform(0.5, 1), Verdict.OK: rng.betavariate(2, 10) / 2, Verdict.UNKNOWN: None}
    regions = [
        FoundRegion(bbox_xywh=(int(rng.betavariate(2, 5) * 1180), rng.randrange(900), 60, 40), peak=0.9)
        for _ in range(rng.randrange(1, 4))
    ]
    return Result(
        id=f"line3-{seq // 200_000:08x}-{seq}",
        device_id="line3",
        camera=CAMERAS[seq % 4],
        seq=seq,
        captured_at=START + timedelta(seconds=seq * EVERY_S),
        product=PRODUCTS[3 if seq % 100_000 == 7 else seq // 5000 % 3],
        anomaly_score=score[verdict],
        threshold=0.5,
        verdict=verdict,
        reason="the picture is too dark" if verdict is Verdict.UNKNOWN else None,
        regions=tuple(regions) if verdict is Verdict.ANOMALOUS else (),
        frame_wh=(1280, 960),
        bundle=BUNDLE,
        latency_ms=Latency(capture_to_result=40.0, inference=33.0),
        source_name=f"part_{seq:07}.png" if seq % 2 else None,
        trigger_id=None if seq % 2 else f"{rng.randrange(16**8):08x}",
    )


def fill(store: HistoryStore, count: int) -> str:
    """Stores `count` results and marks some. Returns the speed, and how long the inspection waited, in words."""
    rng = random.Random(0)
    started_s = time.monotonic()
    spent_s = 0.0
    accept_us = []
    for seq in range(count):
        made_s = time.monotonic()
        result = make_result(seq, rng)
        spent_s += time.monotonic() - made_s
        before_s = time.perf_counter()
        store.accept(result)
        accept_us.append((time.perf_counter() - before_s) * 1e6)
        while seq % 1000 == 999 and not store.is_copied():
            pass
        if sys.stderr.isatty() and seq % 10_000 == 0:
            print(f"\r{seq:>9,}", end="", file=sys.stderr)
    rate = count / (time.monotonic() - started_s - spent_s)
    for seq in rng.sample(range(count), min(MARKED, count)):
        store.mark(f"line3-{seq // 200_000:08x}-{seq}", good=rng.random() < 0.5, who="operator")
    slowest = statistics.quantiles(accept_us, n=1000)
    waits = f"the inspection waited {slowest[499]:.0f} us at the median and {slowest[998]:.0f} us at most of 99.9 %"
    return f"{count:,} results stored, {rate:,.0f} per second; {waits}"


def milliseconds(of: timedelta, count: int) -> int:
    """A moment so long before the last result."""
    return int((START + timedelta(seconds=count * EVERY_S) - of).timestamp() * 1000)


def questions(count: int) -> dict[str, Callable[[HistoryStore], object]]:
    """What a person may ask, in words."""
    day, week = milliseconds(timedelta(days=1), count), milliseconds(timedelta(days=7), count)
    middle = milliseconds(timedelta(days=count * EVERY_S / 86_400 / 2), count)
    rejects = frozenset({Verdict.ANOMALOUS, Verdict.UNKNOWN})
    filters = {
        "no filter": Wanted(),
        "page in the middle": Wanted(to_ms=middle),
        "one camera": Wanted(camera="left"),
        "rejects and unknowns": Wanted(verdicts=rejects),
        "rejects of a camera and product on a day": Wanted(
            camera="top", product="cap", verdicts=rejects, from_ms=middle, to_ms=middle + 86_400_000
        ),
        "rare product": Wanted(product="rare"),
        "rare product and unknown (nothing)": Wanted(product="rare", verdicts=frozenset({Verdict.UNKNOWN})),
        "last day": Wanted(from_ms=day),
        "name: whole, one result": Wanted(name="part_0123457.png"),
        "name: four digits": Wanted(name="4711"),
        "name: part of half of them": Wanted(name="part"),
        "name: part of half of them, rejects": Wanted(name="part", verdicts=rejects),
        "name: nothing, from frequent letters": Wanted(name="png_part"),
        "name: two letters": Wanted(name="q7"),
        "name and camera that exclude each other": Wanted(name="part", camera="front"),
        "marked as good": Wanted(good=True),
        "marked as bad, one camera, passes": Wanted(good=False, camera="left", verdicts=frozenset({Verdict.OK})),
    }
    asked: dict[str, Callable[[HistoryStore], object]] = {}
    for words, wanted in filters.items():
        asked[f"page of 50: {words}"] = lambda store, wanted=wanted: page(store, wanted)  # type: ignore[misc]
    for by in By:
        asked[f"report by {by}, last 7 days"] = lambda store, by=by: reported(store, by, week)  # type: ignore[misc]
        asked[f"report by {by}, everything"] = lambda store, by=by: reported(store, by, None)  # type: ignore[misc]
    asked["one result by its id"] = lambda store: one(store, count // 3)
    asked["plot of the last hour"] = lambda store: plotted(store, milliseconds(timedelta(hours=1), count))
    asked["plot of the last 14 days"] = lambda store: plotted(store, milliseconds(timedelta(days=14), count))
    return asked


def page(store: HistoryStore, wanted: Wanted) -> int:
    """Number of results on the first page."""
    with store.reading() as db:
        return len([stored.message for stored in find(db, wanted, limit=50).results])


def reported(store: HistoryStore, by: By, from_ms: int | None) -> int:
    """Number of rows, with their quantiles."""
    with store.reading() as db:
        return len([row.counts.quantiles(0.5, 0.95) for row in report(db, by=by, shifts=SHIFTS, from_ms=from_ms).rows])


def one(store: HistoryStore, seq: int) -> int:
    """1 if it was found."""
    with store.reading() as db:
        return int(find_one(db, f"line3-{seq // 200_000:08x}-{seq}") is not None)


def plotted(store: HistoryStore, from_ms: int) -> int:
    """Number of points."""
    with store.reading() as db:
        return len(scores(db, "left", from_ms=from_ms, points=600))


def measure(store: HistoryStore, count: int, repeats: int) -> None:
    """Prints the table."""
    print("| asked | found | p50 ms | p95 ms |\n|---|---|---|---|")
    for words, ask in questions(count).items():
        times_ms = []
        for _ in range(repeats):
            started_s = time.perf_counter()
            found = ask(store)
            times_ms.append((time.perf_counter() - started_s) * 1000)
        p95 = statistics.quantiles(times_ms, n=20)[-1]
        print(f"| {words} | {found} | {statistics.median(times_ms):.1f} | {p95:.1f} |", flush=True)


def main() -> int:
    """Makes the results, then asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20, help="of each question")
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        path = (options.keep or Path(temporary)) / "history.sqlite3"
        is_new = not path.exists()
        with HistoryStore(path, max_days=36_500, max_bytes=10**12) as store:
            if is_new:
                print(f"{fill(store, options.results)}; left out: {store.left_out}\n")
            while not store.is_copied():
                pass
            print(f"file: {path.stat().st_size / options.results:,.0f} bytes per result\n")
            measure(store, options.results, options.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
