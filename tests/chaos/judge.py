"""Compares the results that an agent accepted with those that a subscriber received. No input or output."""

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from witness import Arrival

Key = tuple[str, str, int]  # time of day of the capture, camera, seq: from a line of --print-results


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """One arrival of a result."""

    at_s: float
    id: str
    boot: str  # id of the agent's process
    seq: int
    camera: str
    captured_at: str
    replayed: bool
    is_dup: bool
    connection: int  # number of the agent's connection to the broker, counted by its `online` messages
    connected_at_s: float  # arrival of that message; wall clock
    message: dict[str, Any]  # all keys except `replayed`

    @property
    def verdict(self) -> str:
        return str(self.message["verdict"])

    @property
    def captured_s(self) -> float:
        """The time of the capture, wall clock."""
        return datetime.fromisoformat(self.captured_at).timestamp()

    @property
    def key(self) -> Key:
        return self.captured_at.partition("T")[2], self.camera, self.seq


@dataclass(kw_only=True, slots=True)
class Judgement:
    received: int  # number of different results
    doubled: int  # number of repeated arrivals
    lost: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)  # results with an equal id and another body
    disordered: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.altered or self.disordered)


def read_results(arrivals: Sequence[Arrival]) -> list[Received]:
    """The results in the messages of one agent. Retained messages are states and not results."""
    connection, connected_at_s = 0, 0.0
    results = []
    for arrival in arrivals:
        if arrival.topic.endswith("/available") and arrival.payload == b"online" and not arrival.is_retained:
            connection, connected_at_s = connection + 1, arrival.at_s
        if not arrival.topic.endswith("/result"):
            continue
        body: dict[str, Any] = json.loads(arrival.payload)
        replayed = body.pop("replayed")
        results.append(
            Received(
                at_s=arrival.at_s,
                id=body["id"],
                boot=body["id"].rpartition("-")[0],
                seq=body["seq"],
                camera=body["camera"],
                captured_at=body["captured_at"],
                replayed=replayed,
                is_dup=arrival.is_dup,
                connection=connection,
                connected_at_s=connected_at_s,
                message=body,
            )
        )
    return results


def judge(accepted: Collection[Key], results: Sequence[Received], *, gapless: bool = True) -> Judgement:
    """Compares with `results`, all from one device.

    Args:
        accepted: results that must arrive. A killed agent may have accepted one more result than it printed.
        results: in the order of arrival.
        gapless: all numbers of an agent's process up to its last one must arrive; for a source that drops no frames.
    """
    found = Judgement(received=len({result.id for result in results}), doubled=0)
    found.doubled = len(results) - found.received
    here = {result.key for result in results}
    missing = sorted(set(accepted) - here)
    found.lost = [f"{when} {camera} #{seq}" for when, camera, seq in missing]
    if gapless:
        known = {seq for _, _, seq in missing}
        found.lost += [f"{boot}-{seq}" for boot, seq in _gaps(results) if seq not in known]
    bodies: dict[str, dict[str, Any]] = {}
    for result in results:
        if bodies.setdefault(result.id, result.message) != result.message:
            found.altered.append(result.id)
    found.disordered = _disordered(results)
    return found


def recovery_s(results: Sequence[Received], moment_s: float, *, anew: bool = True) -> float | None:
    """Seconds from the end of a fault to recovery; None if there is no recovery.

    Recovery is the first result over a connection that the agent made after the fault. If a connection may survive the
    fault (`anew` is false), recovery is the first result that was captured after the fault.

    Args:
        results: in the order of arrival.
        moment_s: end of the fault, wall clock.
        anew: the agent must make a new connection.
    """
    works = (result.at_s for result in results if (result.connected_at_s if anew else result.captured_s) >= moment_s)
    first_s = next(works, None)
    return None if first_s is None else first_s - moment_s


def _gaps(results: Sequence[Received]) -> list[tuple[str, int]]:
    """(boot, number) of the missing numbers below the last number of their boot."""
    numbers: dict[str, set[int]] = defaultdict(set)
    for result in results:
        numbers[result.boot].add(result.seq)
    return [(boot, seq) for boot, seqs in numbers.items() for seq in sorted(set(range(1, max(seqs))) - seqs)]


def _disordered(results: Sequence[Received]) -> list[str]:
    """Results that arrived after a later result of the same camera in the same stream of the same connection.

    A connection has two streams: live results and the backlog (`replayed`). Messages that the broker repeats (`dup`)
    after an interruption between broker and subscriber do not count.
    """
    started: dict[str, str] = {}
    for result in results:
        started[result.boot] = min(started.get(result.boot, result.captured_at), result.captured_at)
    newest: dict[tuple[int, bool, str], tuple[str, int]] = {}
    wrong = Counter[str]()
    for result in results:
        if result.is_dup:
            continue
        stream, place = (result.connection, result.replayed, result.camera), (started[result.boot], result.seq)
        if stream in newest and place <= newest[stream]:
            wrong[result.id] += 1
        newest[stream] = max(place, newest.get(stream, place))
    return list(wrong)
