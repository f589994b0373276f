"""Results that are written before and after a change of the spool's files."""

from pathlib import Path

from zsad_agent.spool import Accepted, Entry, Outbox, Spool

BEFORE = [f"before {number}" for number in range(30)]
AFTER = [f"after {number}" for number in range(30)]
FOREIGN = [f"foreign {number}" for number in range(40)]  # more than this agent has written


def add(outbox: Outbox, bodies: list[str]) -> None:
    for body in bodies:
        outbox.add_all([Accepted("cam0", body.encode())])


def drain(outbox: Outbox) -> list[tuple[str, bool]]:
    """Takes and acknowledges all results of one connection; gives (body, replayed) of each."""
    found = []
    while entries := outbox.take(7):
        for entry in entries:
            found.append((entry.body.decode(), entry.id <= outbox.live_after))
            outbox.acknowledge(entry.id)
        outbox.delete_acknowledged()
    outbox.delete_acknowledged(everything=True)
    return found


def write_spool(path: Path, bodies: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Spool(path, max_results=1000) as spool:
        spool.append([Entry(spool.new_id(), "cam0", body.encode()) for body in bodies])
