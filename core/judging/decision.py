"""Turns scores into a stable verdict. Pure arithmetic; the caller supplies the time."""

import math
from collections import deque

from zsad_core.types import Verdict


def instant_verdict(anomaly_score: float, threshold: float) -> Verdict:
    """The verdict for a single score. NaN and infinity give unknown; a score at the threshold is anomalous."""
    if not math.isfinite(anomaly_score):
        return Verdict.UNKNOWN
    return Verdict.ANOMALOUS if anomaly_score >= threshold else Verdict.OK


class Decider:
    """k-of-n debounce with a hold time.

    The verdict becomes `anomalous` when at least `k` of the last `n` frames are anomalous. It stays so for `hold_s`
    after the last frame that meets this condition, then becomes `ok`. An unknown frame gives `unknown` at once and is
    not counted. With the default k = n = 1 each frame is judged alone.
    """

    def __init__(self, *, k: int = 1, n: int = 1, hold_s: float = 0.0) -> None:
        if not 1 <= k <= n:
            raise ValueError(f"debounce needs 1 <= k <= n, got k={k}, n={n}")
        self._k = k
        self._hold_s = hold_s
        self._window: deque[bool] = deque(maxlen=n)
        self._hold_until_s = -math.inf

    def decide(self, instant: Verdict, now_s: float) -> Verdict:
        """The debounced verdict.

        Args:
            instant: the verdict for this single frame.
            now_s: monotonic time of the frame, seconds.
        """
        if instant is Verdict.UNKNOWN:
            return Verdict.UNKNOWN
        self._window.append(instant is Verdict.ANOMALOUS)
        if sum(self._window) >= self._k:
            self._hold_until_s = now_s + self._hold_s
            return Verdict.ANOMALOUS
        return Verdict.ANOMALOUS if now_s < self._hold_until_s else Verdict.OK
