import pytest

from zsad_agent.mqtt import SizeLimits
from zsad_agent.mqtt.size_limits import BACK_AFTER_S, FORGET_S, RESULT_CUTS

LARGE = 100_000


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def cut_after_picture(limits: SizeLimits, size: int) -> None:
    limits.connected(None)
    limits.sent(size, picture=True)
    limits.cut({}, answered=True, said_too_large=False)


def test_two_connections_in_a_row_that_end_at_a_picture_lower_the_limit_for_an_hour(clock: Clock) -> None:
    limits = SizeLimits(clock_s=clock)
    cut_after_picture(limits, LARGE)
    assert limits.picture_fits(LARGE)
    cut_after_picture(limits, LARGE + 5)
    assert not limits.picture_fits(LARGE)
    assert limits.picture_fits(LARGE // 2)
    clock.now_s += FORGET_S + 1
    assert limits.picture_fits(LARGE)


def test_cut_without_a_picture_in_between_starts_the_count_again() -> None:
    limits = SizeLimits()
    cut_after_picture(limits, LARGE)
    limits.connected(None)
    limits.cut({1: 700}, answered=True, said_too_large=False)
    cut_after_picture(limits, LARGE)
    assert limits.picture_fits(LARGE)


def test_picture_is_not_the_reason_if_a_later_message_was_answered_or_it_is_old_or_small(clock: Clock) -> None:
    limits = SizeLimits(clock_s=clock)
    for _ in range(3):
        limits.connected(None)
        limits.sent(LARGE, picture=True)
        limits.passed(limits.sent(700), 700, is_result=True)
        limits.cut({}, answered=True, said_too_large=False)
    for _ in range(3):
        limits.connected(None)
        limits.sent(LARGE, picture=True)
        clock.now_s += 60
        limits.cut({}, answered=True, said_too_large=False)
    for _ in range(3):
        cut_after_picture(limits, 1000)
    assert limits.picture_fits(LARGE)


def test_pictures_of_an_accepted_size_are_not_the_reason() -> None:
    limits = SizeLimits()
    for _ in range(5):
        limits.connected(None)
        limits.sent(LARGE, picture=True)
        limits.passed(limits.sent(700), 700, is_result=True)
        limits.sent(LARGE, picture=True)
        limits.cut({}, answered=True, said_too_large=False)
    assert limits.picture_fits(LARGE)


def test_large_result_is_given_up_only_after_enough_cuts_with_it_alone_in_flight() -> None:
    limits = SizeLimits()
    for _ in range(20):
        limits.connected(None)
        assert limits.cut({1: LARGE, 2: 700}, answered=True, said_too_large=False) is None
    assert limits.careful
    assert not limits.picture_fits(10)  # to see that the result is the reason, not a picture
    answers = []
    for _ in range(RESULT_CUTS):
        limits.connected(None)
        answers.append(limits.cut({1: LARGE}, answered=True, said_too_large=False))
    assert answers == [None] * (RESULT_CUTS - 1) + [1]
    assert not limits.careful


def test_acknowledged_result_is_no_longer_suspected() -> None:
    limits = SizeLimits()
    for _ in range(3):
        for _ in range(RESULT_CUTS - 1):
            limits.connected(None)
            assert limits.cut({1: LARGE}, answered=True, said_too_large=False) is None
        limits.connected(None)
        limits.passed(limits.sent(LARGE), LARGE, is_result=True)
        assert not limits.careful


def test_no_size_limit_is_learned_from_a_broker_that_never_answers() -> None:
    limits = SizeLimits()
    for _ in range(20):
        limits.connected(None)
        limits.sent(LARGE, picture=True)
        assert limits.cut({1: LARGE}, answered=False, said_too_large=False) is None
    limits.passed(limits.sent(LARGE), LARGE, is_result=True)
    assert limits.picture_fits(LARGE)


def test_result_that_the_broker_calls_too_large_is_given_up_at_once_if_it_was_alone() -> None:
    limits = SizeLimits()
    assert limits.cut({1: LARGE, 2: LARGE}, answered=True, said_too_large=True) is None
    assert limits.cut({1: LARGE}, answered=True, said_too_large=True) == 1


def test_careful_mode_for_a_result_that_never_comes_again_ends_after_an_hour(clock: Clock) -> None:
    """The spool may have dropped the result at its limit; later results are small and prove nothing."""
    limits = SizeLimits(clock_s=clock)
    limits.connected(None)
    limits.cut({7: LARGE}, answered=True, said_too_large=False)
    limits.passed(limits.sent(500), 500, is_result=True)
    assert limits.careful and not limits.picture_fits(10)
    clock.now_s += FORGET_S + 1
    assert not limits.careful and limits.picture_fits(10)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return ["back" if "back: live pictures fit again" in text else "left out" for text in caplog.messages]


def test_log_says_once_that_a_picture_size_fits_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    limits = SizeLimits()
    limits.connected(1000)
    for size in (2000, 3000, 500, 2000):
        limits.picture_fits(size)
    assert said(caplog) == ["left out"]
    limits.connected(None)
    for _ in range(3):
        assert limits.picture_fits(2000)
    assert said(caplog) == ["left out", "back"]
    limits.connected(1000)
    assert not limits.picture_fits(2000)
    assert said(caplog) == ["left out", "back", "left out"]


def test_log_says_that_smaller_pictures_fit_when_none_was_left_out_for_a_while(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    limits = SizeLimits(clock_s=clock)
    limits.connected(1000)
    for _ in range(10):  # alternating sizes: not a line for each
        limits.picture_fits(2000)
        limits.picture_fits(500)
        clock.now_s += BACK_AFTER_S / 2
    assert said(caplog) == ["left out"]
    clock.now_s += BACK_AFTER_S
    limits.picture_fits(500)
    limits.picture_fits(500)
    assert said(caplog) == ["left out", "back"]


def test_end_of_a_learned_limit_is_logged(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    limits = SizeLimits(clock_s=clock)
    cut_after_picture(limits, LARGE)
    cut_after_picture(limits, LARGE)
    clock.now_s += FORGET_S + 1
    assert limits.picture_fits(LARGE)
    assert said(caplog) == ["left out", "back"]
