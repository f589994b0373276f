import math

import pytest

from zsad_core.judging import Decider, instant_verdict
from zsad_core.types import Verdict

OK, ANOMALOUS, UNKNOWN = Verdict.OK, Verdict.ANOMALOUS, Verdict.UNKNOWN


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_nan_or_infinite_score_never_passes(score: float):
    assert instant_verdict(score, 0.5) is UNKNOWN


def test_a_score_at_the_threshold_is_anomalous():
    assert instant_verdict(0.5, 0.5) is ANOMALOUS
    assert instant_verdict(0.4999, 0.5) is OK


def test_without_debounce_every_frame_is_judged_alone():
    decider = Decider()
    assert [decider.decide(v, t) for t, v in enumerate([OK, ANOMALOUS, OK])] == [OK, ANOMALOUS, OK]


def test_verdict_changes_only_when_two_of_three_frames_agree():
    decider = Decider(k=2, n=3)
    seen = [ANOMALOUS, OK, ANOMALOUS, OK, OK]
    assert [decider.decide(v, t) for t, v in enumerate(seen)] == [OK, OK, ANOMALOUS, OK, OK]


def test_anomalous_is_held_for_the_hold_time():
    decider = Decider(hold_s=2.0)
    assert [decider.decide(v, t) for v, t in [(ANOMALOUS, 0.0), (OK, 1.9), (OK, 2.0)]] == [ANOMALOUS, ANOMALOUS, OK]


def test_an_unknown_frame_gives_unknown_at_once_and_is_not_counted():
    decider = Decider(k=2, n=2)
    assert [decider.decide(v, t) for t, v in enumerate([ANOMALOUS, UNKNOWN, ANOMALOUS])] == [OK, UNKNOWN, ANOMALOUS]


def test_debounce_that_can_never_trigger_is_refused():
    with pytest.raises(ValueError, match="k=3, n=2"):
        Decider(k=3, n=2)
