import threading
import time

import pytest

from zsad_agent.system import BoundedQueue, LatestQueue, QueueClosed, RoundRobin


def test_newest_frame_replaces_one_that_was_not_taken() -> None:
    slot: LatestQueue[int] = LatestQueue()
    for item in (1, 2, 3):
        assert slot.put(item)
    assert slot.get(0) == 3
    assert slot.dropped == 2
    assert slot.get(0) is None


def test_kept_fault_is_not_replaced_by_newer_frames_and_replaces_no_frame() -> None:
    slot: LatestQueue[str] = LatestQueue()
    slot.put("frame 1")
    slot.put("lost", keep=True)
    slot.put("frame 2")
    slot.put("frame 3")
    assert [slot.get(0) for _ in range(3)] == ["frame 1", "lost", "frame 3"]
    assert slot.dropped == 1


@pytest.mark.parametrize("slot", [LatestQueue(), BoundedQueue(2)])
def test_closed_slot_gives_its_items_and_then_an_error(slot: LatestQueue[int] | BoundedQueue[int]) -> None:
    slot.put(1, timeout_s=0)
    slot.close()
    slot.close()
    assert not slot.put(2, timeout_s=0)
    assert slot.get(0) == 1
    with pytest.raises(QueueClosed):
        slot.get(0)


@pytest.mark.parametrize("slot", [LatestQueue(), BoundedQueue(1)])
def test_close_wakes_a_thread_that_waits_for_an_item(slot: LatestQueue[int] | BoundedQueue[int]) -> None:
    threading.Timer(0.05, slot.close).start()
    with pytest.raises(QueueClosed):
        slot.get(60)


def test_full_queue_refuses_an_item_and_drops_none() -> None:
    slot: BoundedQueue[int] = BoundedQueue(2)
    assert slot.put(1, timeout_s=0)
    assert slot.put(2, timeout_s=0)
    assert not slot.put(3, timeout_s=0.01)
    assert slot.get(0) == 1
    assert slot.put(3, timeout_s=0)
    assert [slot.get(0), slot.get(0)] == [2, 3]
    assert slot.dropped == 0


def test_full_queue_wakes_a_waiting_thread_when_a_place_becomes_free() -> None:
    slot: BoundedQueue[int] = BoundedQueue(1)
    slot.put(1, timeout_s=0)
    threading.Timer(0.05, slot.get, args=(0,)).start()
    assert slot.put(2, timeout_s=60)


def test_close_wakes_a_thread_that_waits_for_a_free_place() -> None:
    slot: BoundedQueue[int] = BoundedQueue(1)
    slot.put(1, timeout_s=0)
    threading.Timer(0.05, slot.close).start()
    assert not slot.put(2, timeout_s=60)


def test_slots_are_read_in_turn_until_the_last_is_closed() -> None:
    slots_changed = threading.Condition()
    slots: list[BoundedQueue[str]] = [BoundedQueue(8, slots_changed) for _ in range(3)]
    turns = RoundRobin(slots, slots_changed)
    for number, letters in enumerate(("aaa", "", "cc")):
        for letter in letters:
            assert slots[number].put(letter, timeout_s=0)
    assert [turns.get(0.0) for _ in range(5)] == [(0, "a"), (2, "c"), (0, "a"), (2, "c"), (0, "a")]
    assert turns.get(0.0) is None
    slots[0].close()
    slots[2].close()
    assert turns.get(0.0) is None, "one is still open"
    slots[1].close()
    with pytest.raises(QueueClosed):
        turns.get(0.0)


def test_an_item_in_any_slot_wakes_the_reader() -> None:
    slots_changed = threading.Condition()
    slots: list[LatestQueue[int]] = [LatestQueue(slots_changed) for _ in range(8)]
    threading.Timer(0.05, lambda: slots[6].put(1)).start()
    started_s = time.monotonic()
    assert RoundRobin(slots, slots_changed).get(60.0) == (6, 1)
    assert time.monotonic() - started_s < 30
