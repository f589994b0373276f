"""A history with given results, for several test files."""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from mqtt_listener import wait_until

from zsad_agent.history import HistoryStore, Stored, Wanted, find
from zsad_agent.messages import Result


@contextlib.contextmanager
def filled(path: Path, results: Sequence[Result], **options: int) -> Iterator[HistoryStore]:
    """A store that runs and has these results."""
    with HistoryStore(path, **options) as store:
        put(store, results)
        yield store


def put(store: HistoryStore, results: Sequence[Result]) -> None:
    """Adds results and waits until they are stored."""
    for result in results:
        wait_until(lambda: store.waiting < 1000)  # else results are left out
        store.accept(result)
    wait_until(lambda: not store.waiting)


def pages(
    store: HistoryStore, wanted: Wanted | None = None, *, limit: int = 50, budget_s: float = 10.0
) -> Iterator[list[Stored]]:
    """All pages, newest first."""
    before = None
    while True:
        with store.reading() as db:
            found = find(db, wanted or Wanted(), before=before, limit=limit, budget_s=budget_s)
        yield found.results
        if (before := found.next) is None:
            return


def ids(store: HistoryStore, wanted: Wanted | None = None, *, limit: int = 50) -> list[str]:
    """The ids of all matching results, newest first."""
    return [stored.id for page in pages(store, wanted, limit=limit) for stored in page]


def rows_in(path: Path) -> int:
    """Results in a file that no store has open."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT count(*) FROM results").fetchone()[0])
