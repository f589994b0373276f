"""A spool whose disk can fail, and calls of the outbox that several test files need."""

from pathlib import Path

from zsad_agent.spool import Accepted, Entry, Outbox, Spool
from zsad_core.errors import SpoolError


class FailingDisk(Spool):
    """A spool whose disk fails the calls that are named in `failing`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, max_results=10_000)
        self.failing: set[str] = set()
        self.commits = 0
        self.appends = 0

    def append(self, entries, pictures=()) -> None:  # type: ignore[no-untyped-def]
        self._fail("append")
        self.appends += 1
        super().append(entries, pictures)

    def read(self, after_id: int, up_to_id: int, limit: int) -> list[Entry]:
        self._fail("read")
        return super().read(after_id, up_to_id, limit)

    def delete(self, results, pictures=()) -> None:  # type: ignore[no-untyped-def]
        self._fail("delete")
        self.commits += 1
        super().delete(results, pictures)

    def sync(self) -> None:
        self._fail("sync")
        super().sync()

    def _fail(self, what: str) -> None:
        if what in self.failing:
            raise SpoolError("disk is full")


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def add(outbox: Outbox, *bodies: str) -> list[int]:
    return [outbox.add_all([Accepted("cam0", body.encode())])[0] for body in bodies]


def take(outbox: Outbox, limit: int = 100) -> list[str]:
    return [entry.body.decode() for entry in outbox.take(limit)]


def taken_and_acknowledged(outbox: Outbox, limit: int) -> list[str]:
    entries = outbox.take(limit)
    for entry in entries:
        outbox.acknowledge(entry.id)
    outbox.delete_acknowledged()
    return [entry.body.decode() for entry in entries]


def with_picture(outbox: Outbox, name: str) -> int:
    return outbox.add_all([Accepted("cam0", name.encode(), (f"id-{name}", f"jpeg-{name}".encode()))])[0]
