"""From scores to a verdict that does not flicker. Pure arithmetic; the clock is the caller's."""

import math
from collections import deque

from zsad_core.types import Verdict


def instant_verdict(anomaly_score: float, threshold: float) -> Verdict:
    """The verdict of one score alone; NaN and infinity are unknown. At the threshold a part is anomalous."""
    if not math.isfinite(anomaly_score):
        return Verdict.UNKNOWN
    return Verdict.ANOMALOUS if anomaly_score >= threshold else Verdict.OK


class Decider:
    """k-of-n debounce with a hold time.

    The verdict turns to `anomalous` when at least `k` of the last `n` frames were, stays so for `hold_s` after the last
    frame that met this, and turns back to `ok` only when fewer than k are. An unknown frame is `unknown` at once,
    counts as neither, and passes nothing. With the default k = n = 1 every frame stands for itself.
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
            instant: the verdict of this frame alone.
            now_s: monotonic time of the frame, seconds.
        """
        if instant is Verdict.UNKNOWN:
            return Verdict.UNKNOWN
        self._window.append(instant is Verdict.ANOMALOUS)
        if sum(self._window) >= self._k:
            self._hold_until_s = now_s + self._hold_s
            return Verdict.ANOMALOUS
        return Verdict.ANOMALOUS if now_s < self._hold_until_s else Verdict.OK
