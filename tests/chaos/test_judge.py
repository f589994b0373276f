import json

import pytest
from judge import judge, read_results, recovery_s
from witness import Arrival


def message(seq: int, *, boot: str = "a", replayed: bool = False, score: float = 0.1, dup: bool = False) -> Arrival:
    body = {
        "id": f"line3-{boot}-{seq}",
        "seq": seq,
        "camera": "cam0",
        "captured_at": f"2026-11-22T10:{'abc'.index(boot):02}:{seq:02}.000Z",
        "anomaly_score": score,
        "replayed": replayed,
    }
    return Arrival(float(seq), "zsad/line3/cam0/result", json.dumps(body).encode(), dup, False)


ONLINE = Arrival(0.0, "zsad/line3/available", b"online", False, False)


def key(seq: int, boot: str = "a") -> tuple[str, str, int]:
    return f"10:{'abc'.index(boot):02}:{seq:02}.000Z", "cam0", seq


def test_no_results_are_clean() -> None:
    assert judge([], []).clean


def test_an_accepted_result_that_did_not_arrive_is_lost() -> None:
    found = judge([key(1), key(2)], read_results([ONLINE, message(1)]))
    assert found.lost == ["10:00:02.000Z cam0 #2"]


def test_a_missing_number_is_lost_even_if_it_was_not_printed() -> None:
    assert judge([], read_results([ONLINE, message(1), message(3)])).lost == ["line3-a-2"]


def test_a_printed_and_missing_result_counts_once() -> None:
    assert judge([key(1), key(2), key(3)], read_results([ONLINE, message(1), message(3)])).lost == [
        "10:00:02.000Z cam0 #2"
    ]


def test_a_missing_number_of_a_live_source_is_no_loss() -> None:
    assert judge([], read_results([ONLINE, message(1), message(3)]), gapless=False).clean


def test_a_repeated_result_is_counted_and_may_differ_in_replayed() -> None:
    found = judge([key(1)], read_results([ONLINE, message(1), ONLINE, message(1, replayed=True)]))
    assert found.clean and (found.received, found.doubled) == (1, 1)


def test_a_repeated_result_with_another_body_is_altered() -> None:
    found = judge([key(1)], read_results([ONLINE, message(1), ONLINE, message(1, replayed=True, score=0.9)]))
    assert found.altered == ["line3-a-1"]


def test_live_results_among_the_backlog_are_in_order() -> None:
    mixed = [ONLINE, message(1, replayed=True), message(3), message(2, replayed=True), message(4)]
    assert judge([], read_results(mixed)).clean


@pytest.mark.parametrize("replayed", [False, True])
def test_an_earlier_result_after_a_later_one_of_its_stream_is_disordered(replayed: bool) -> None:
    mixed = [ONLINE, message(2, replayed=replayed), message(1, replayed=replayed)]
    assert judge([], read_results(mixed)).disordered == ["line3-a-1"]


def test_a_result_twice_over_one_connection_is_disordered() -> None:
    assert judge([], read_results([ONLINE, message(1), message(1)])).disordered == ["line3-a-1"]


def test_an_earlier_boot_after_a_later_one_is_disordered() -> None:
    mixed = [ONLINE, message(1, boot="b", replayed=True), message(1, boot="a", replayed=True)]
    assert judge([], read_results(mixed)).disordered == ["line3-a-1"]


def test_a_backlog_that_restarts_over_the_next_connection_is_in_order() -> None:
    mixed = [ONLINE, message(1), message(2), ONLINE, message(1, replayed=True), message(2, replayed=True)]
    assert judge([], read_results(mixed)).clean


def test_a_repetition_by_the_broker_does_not_count_as_disorder() -> None:
    assert judge([], read_results([ONLINE, message(1), message(2), message(1, dup=True)])).clean


def test_recovery_is_the_first_result_over_a_connection_made_after_the_fault() -> None:
    results = read_results([ONLINE, message(1), message(3), ONLINE._replace(at_s=4.0), message(5)])
    assert recovery_s(results, 2.5) == 2.5
    assert recovery_s(results, 6.0) is None


def test_recovery_with_a_surviving_connection_is_the_first_result_captured_after_the_fault() -> None:
    results = read_results([ONLINE, message(1)._replace(at_s=9.0), message(3)._replace(at_s=9.5)])
    assert recovery_s(results, results[0].captured_s + 1, anew=False) == 9.5 - results[0].captured_s - 1
    assert recovery_s(results, results[1].captured_s + 1, anew=False) is None
