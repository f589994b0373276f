"""Whether the parts of a camera still look like the taught goods: slow drift, and sudden change.

With `learning.follow` slow drift is followed, see `Follower`.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from statistics import NormalDist, median

import numpy as np

from zsad_agent.messages import DriftStats, Result
from zsad_agent.teaching import FOLLOWED_SHARE, Followed, Networks, Profile, ProfileStore, novel_tokens
from zsad_core.errors import ProfileError
from zsad_core.memory import to_unit
from zsad_core.types import Verdict

SLACK = 0.5  # deviations above the goods' middle that are no drift
LIMIT = 12.0  # of the sum: a line without drift reaches it once in a million parts
RECENT = 20  # parts, for a sudden change
MAX_SCORED = 10_000  # results that wait for the comparison with the goods
WINDOW = 500  # accepted parts, for the quantiles
LEAST_GOODS = 10
ENTER_BELOW = 0.9  # quantile of the goods' scores, below which a part is followed
FOLLOW_EVERY_S = 5.0  # between two parts of a camera that are followed
PARTS = 10  # least number of parts among the followed tokens


class DriftWatch:
    """Watches the scores of one camera and profile. A sum (CUSUM) of the accepted parts' scores shows a slow rise."""

    def __init__(self, goods: Sequence[float]) -> None:
        """Takes the goods' scores in [0, 1), in any order, at least one."""
        self._goods = np.sort(np.asarray(goods, np.float64))
        self._sum = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._accepted: deque[float] = deque(maxlen=WINDOW)
        self._rejects = self._overridden = 0

    def add(self, score: float, *, accepted: bool) -> None:
        """Counts a part."""
        self._recent.append(score)
        self._rejects += not accepted
        if accepted:
            self._accepted.append(score)
            self._sum = min(2 * LIMIT, max(0.0, self._sum + self._deviations(score) - SLACK))

    def override(self) -> None:
        """A person said that a rejected part was good."""
        self._overridden += 1

    @property
    def fault(self) -> str | None:
        """What has changed, with figures and what to do; None if nothing has."""
        if len(self._goods) < LEAST_GOODS:
            return None
        high = float(np.quantile(self._goods, 0.95))
        if len(self._recent) == RECENT and (now := median(self._recent)) > high:
            return (
                f"sudden change: the last {RECENT} parts have a median score of {now:.3f}, 95 % of the taught goods "
                f"are below {high:.3f}. Check light, camera and product"
            )
        if self._sum > LIMIT:
            return (
                f"drift: accepted parts score {median(self._accepted):.3f} in the median of the last "
                f"{len(self._accepted)}, the taught goods {float(np.median(self._goods)):.3f}. If the parts are good, "
                "teach the product again"
            )
        return None

    @property
    def stats(self) -> DriftStats:
        accepted = np.quantile(self._accepted, (0.5, 0.9)) if self._accepted else (None, None)
        goods = np.quantile(self._goods, (0.5, 0.9))
        return DriftStats(
            accepted_p50=_rounded(accepted[0]),
            accepted_p90=_rounded(accepted[1]),
            goods_p50=round(float(goods[0]), 4),
            goods_p90=round(float(goods[1]), 4),
            rejects=self._rejects,
            overridden=self._overridden,
        )

    def _deviations(self, score: float) -> float:
        """The score's rank among the goods, as deviations of a normal distribution; so odd scores count little."""
        below = int(np.searchsorted(self._goods, score, side="left")) + int(
            np.searchsorted(self._goods, score, side="right")
        )
        rank = (below / 2 + 0.5) / (len(self._goods) + 1)
        return NormalDist().inv_cdf(min(max(rank, 1e-3), 1 - 1e-3))


class LineWatch:
    """Compares the results of all cameras with the goods of the profiles that gave them.

    `add` may be called from another thread than the rest.
    """

    def __init__(self, store: ProfileStore, on_drift: Callable[[str, str | None], None]) -> None:
        """`on_drift`: called with a camera, and with what has changed there; None: nothing has."""
        self._store, self._on_drift = store, on_drift
        self._scored: deque[Result] = deque(maxlen=MAX_SCORED)
        self._watches: dict[str, tuple[str, DriftWatch]] = {}  # camera -> profile, scores since it came into use

    def add(self, result: Result) -> None:
        """Never waits."""
        self._scored.append(result)

    def compare(self) -> None:
        """Compares the scores since the last call with those of the goods."""
        changed = set()
        while self._scored:
            result = self._scored.popleft()
            watch = self._watch_of(result)
            if watch is not None and result.anomaly_score is not None:
                watch.add(result.anomaly_score, accepted=result.verdict is Verdict.OK)
                changed.add(result.camera)
        for camera in changed:
            self._on_drift(camera, self._watches[camera][1].fault)

    def override(self, camera: str) -> None:
        """A person said that a rejected part was good."""
        if camera in self._watches:
            self._watches[camera][1].override()

    def stats(self, camera: str) -> DriftStats | None:
        """Never waits."""
        known = self._watches.get(camera)
        return None if known is None else known[1].stats

    def _watch_of(self, result: Result) -> DriftWatch | None:
        """Of the profile that gave the result; None if it is not known."""
        if result.profile is None:
            return None
        known = self._watches.get(result.camera)
        if known is None or known[0] != result.profile.sha256:
            try:
                profile = self._store.current(result.product)
            except ProfileError:
                return None
            if profile is None or profile.sha256 != result.profile.sha256:
                return None
            goods = to_unit(np.array(profile.goods_scores), profile.levels[-1].scale).tolist()
            known = self._watches[result.camera] = profile.sha256, DriftWatch(goods)
        return known[1]


class Follower:
    """Remembers tokens of accepted parts, in addition to the taught memory of one profile.

    It keeps the newest tokens, at most a tenth of the taught memory. A part enters only if its score by the taught
    memory alone is lower than those of the worst tenth of the goods. The memory, the threshold and the profile never
    change. `zsad_agent.teaching.TaughtPredictor` limits how much a score can fall. A restart forgets these tokens.
    """

    def __init__(
        self, store: ProfileStore, networks: Callable[[], Networks], use: Callable[[str, Followed], None]
    ) -> None:
        """`networks` gives those in use. `use` is called with the hash of a profile and all its followed tokens."""
        self._store, self._networks, self._use = store, networks, use
        self._followed_s: dict[str, float] = {}  # camera -> time of the last followed part
        self._profile: Profile | None = None  # of the part that was followed last
        self._sha256 = ""
        self._vectors: dict[str, np.ndarray] = {}

    def take(self, result: Result, image_bgr: np.ndarray) -> None:
        """Remembers an accepted part of a taught product, uint8 [H, W, 3], one in `FOLLOW_EVERY_S` at each camera.

        Raises:
            ZsadError: the networks failed.
        """
        now_s, camera = time.monotonic(), result.camera
        if result.profile is None or result.verdict is not Verdict.OK:
            return
        if now_s - self._followed_s.get(camera, -math.inf) < FOLLOW_EVERY_S:
            return
        self._followed_s[camera] = now_s
        if self._profile is None or self._profile.sha256 != result.profile.sha256:
            self._profile = self._store.current(result.product)
        if self._profile is not None and self._profile.sha256 == result.profile.sha256:
            self.add(self._profile, image_bgr)

    def add(self, profile: Profile, image_bgr: np.ndarray) -> bool:
        """Whether an accepted part, uint8 [H, W, 3], was remembered.

        Raises:
            ZsadError: the networks failed.
        """
        if profile.sha256 != self._sha256:
            self._sha256, self._vectors = profile.sha256, {}
        networks = self._networks()
        if networks.score(profile, image_bgr)[1] >= np.quantile(profile.goods_scores, ENTER_BELOW):
            return False
        for name, tokens in novel_tokens(profile, image_bgr, networks, share=FOLLOWED_SHARE / PARTS).items():
            rows = Followed.rows(next(scale.memory for scale in networks.features.scales if scale.name == name))
            known = self._vectors.get(name, tokens[:0])
            if len(tokens):
                self._vectors[name] = np.concatenate([known, tokens])[-rows:]
        if not self._vectors:
            return False
        self._use(profile.sha256, Followed(vectors=dict(self._vectors)))
        return True


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 4)
