"""Runs in the virtual machine of `power_cut.py`: appends results without end, or reports the content of the spool."""

import sqlite3
import sys
import time
from pathlib import Path

from zsad_agent.spool import AttachedImage, Entry, Spool

SPOOL = Path("/data/spool.sqlite3")
SYNC_S = 2.0  # like the outbox


def numbers(spool: Spool) -> list[int]:
    """The numbers of all results, in the spool's order."""
    found: list[int] = []
    last = 0
    while batch := spool.read(last, 1 << 62, 5000):
        found += [int(entry.body.split()[0]) for entry in batch]
        last = batch[-1].id
    return found


def write(fsync: str) -> None:
    """Prints the first number, and then each number after its result is accepted."""
    with Spool(SPOOL, max_results=10**6, fsync=fsync) as spool:  # type: ignore[arg-type]
        number = max(numbers(spool), default=0)
        print(f"START {number}", flush=True)
        synced_s = time.monotonic()
        while True:
            number += 1
            entry_id = spool.new_id()
            picture = [AttachedImage(entry_id, "cam0", str(number), b"j" * 3000)] if number % 5 == 0 else []
            spool.append([Entry(entry_id, "cam0", f"{number} {'x' * 600}".encode())], picture)
            print(f"ACCEPTED {number}", flush=True)
            if time.monotonic() - synced_s > SYNC_S:
                synced_s = time.monotonic()
                spool.sync()
            time.sleep(0.01)


def check() -> None:
    """Prints the number of results, the last one, whether all are complete and in order, and the state of the file."""
    with Spool(SPOOL, max_results=10**6) as spool:
        found = numbers(spool)
    sound = sqlite3.connect(SPOOL).execute("PRAGMA integrity_check").fetchone()[0]
    aside = sum("corrupt" in path.name for path in SPOOL.parent.iterdir())
    print(f"FOUND {len(found)} {max(found, default=0)} {found == sorted(set(found))} {sound} {aside}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2])
    else:
        check()
