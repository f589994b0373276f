"""`on_durable` is called when a result is safe."""

import threading

from outbox_tools import Clock, FailingDisk, take

from zsad_agent.spool import Accepted, Outbox
from zsad_agent.spool.outbox import RETRY_S


def add_noted(outbox: Outbox, told: list[str], *bodies: str) -> list[int]:
    """Adds all results together; each body is added to `told` when it is durable."""
    return outbox.add_all(
        [Accepted("cam0", body.encode(), on_durable=lambda body=body: told.append(body)) for body in bodies]  # type: ignore[misc]
    )


def test_on_durable_is_called_exactly_once_when_the_result_is_on_disk(outbox: Outbox) -> None:
    told: list[str] = []
    ids = add_noted(outbox, told, "a", "b")
    assert told == ["a", "b"]
    take(outbox)
    outbox.acknowledge(ids[0])
    outbox.delete_acknowledged(everything=True)
    assert told == ["a", "b"]


def test_on_durable_is_not_called_for_a_result_given_up_from_memory(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    told: list[str] = []
    disk.failing = {"append"}
    for body in "abcdefgh":
        add_noted(outbox, told, body)
    assert (told, sum(outbox.losses.results.values())) == ([], 3)
    disk.failing = set()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert told == list("defgh")
    assert disk.count == 5


def test_on_durable_of_a_result_in_memory_is_called_when_the_broker_accepts_it_but_not_when_it_refuses_it(
    outbox: Outbox, disk: FailingDisk, clock: Clock
) -> None:
    told: list[str] = []
    disk.failing = {"append"}
    ids = add_noted(outbox, told, "a", "b", "c")
    take(outbox)
    outbox.acknowledge(ids[0])
    assert told == ["a"]
    outbox.refuse(ids[1])
    outbox.delete_acknowledged(everything=True)
    disk.failing = set()
    clock.now_s += RETRY_S
    outbox.delete_acknowledged()
    assert told == ["a", "c"]


def test_slow_on_durable_does_not_block_other_threads(outbox: Outbox) -> None:
    told, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        told.set()
        assert go_on.wait(60)

    result = Accepted("cam0", b"a", on_durable=wait)
    teller = threading.Thread(target=outbox.add_all, args=([result],))
    teller.start()
    assert told.wait(60)
    assert take(outbox) == ["a"]
    go_on.set()
    teller.join(60)
