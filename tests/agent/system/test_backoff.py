from zsad_agent.system import Backoff


def test_pauses_double_up_to_the_longest_and_restart_after_a_success() -> None:
    backoff = Backoff(1.0, 5.0)
    for wanted_s in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert 0.75 * wanted_s <= backoff.next_s() <= 1.25 * wanted_s
    backoff.reset()
    assert backoff.next_s() <= 1.25


def test_pauses_of_two_devices_differ_and_the_first_is_no_longer_than_the_longest() -> None:
    pauses_s = {Backoff(9.0, 2.0).next_s() for _ in range(20)}
    assert len(pauses_s) > 10 and max(pauses_s) <= 2.5
