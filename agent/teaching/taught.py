"""Predictions with what was taught: maps and scores by the memory of good parts."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from zsad_agent.config import InferenceConfig
from zsad_agent.model import FeatureNetworks, Predictor
from zsad_agent.teaching.observe import Fusion, Memory, Observed, Observer, ZMaps
from zsad_agent.teaching.profile import Level, Profile
from zsad_core.errors import DeviceError, ProfileError
from zsad_core.memory import to_unit
from zsad_core.part import PartError
from zsad_core.types import TAUGHT_THRESHOLD, Prediction, ProfileName

logger = logging.getLogger(__name__)

FOLLOWED_SHARE = 0.1  # of the taught memory, for what is followed
FOLLOWED_BOUND = 1.0  # in z


@dataclass(frozen=True, kw_only=True, eq=False)
class Followed:
    """Tokens of accepted parts beside the taught memory."""

    vectors: Mapping[str, np.ndarray]  # scale -> float16 [M, C], unit length, at least one

    @staticmethod
    def rows(memory: int) -> int:
        """Most vectors beside a taught memory of at most so many."""
        return max(1, int(FOLLOWED_SHARE * memory))


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """A profile whose memories are ready for the search."""

    profile: Profile
    level: Level
    fusion: Fusion
    memories: dict[str, Memory]
    checksums: dict[str, int]  # of the memories


class TaughtPredictor:
    """Predicts with the product's profile, or with the detector alone. For one thread at a time."""

    def __init__(
        self,
        detector: Predictor,
        networks: FeatureNetworks,
        profile_of: Callable[[str], Profile | None],
        config: InferenceConfig,
        loaded: int = 1,
        followed: Callable[[Profile], Followed | None] = lambda profile: None,
    ) -> None:
        """Takes the compiled networks of one bundle.

        Args:
            detector: the zero-shot model.
            networks: of the same bundle.
            profile_of: the profile of a product, if it has one; called for every picture.
            config: `budget_ms` limits the level, `product` is that of a picture without one.
            loaded: most products whose memories are ready; large ones share the vectors of their profile.
            followed: what was followed since the profile came into use; called for every picture.
        """
        self._detector = detector
        self._networks = networks
        self._observer = Observer(detector, networks)
        self._profile_of = profile_of
        self._budget_ms = config.budget_ms
        self._product = config.product
        self._loaded = loaded
        self._followed = followed
        self._near: tuple[Followed, dict[str, Memory]] | None = None  # what was followed last, ready for the search
        self._ready: OrderedDict[str, _Ready] = OrderedDict()
        self._failed_test: str | None = None

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        """As `zsad_agent.model.Predictor.predict`.

        Raises:
            PartError: the picture shows no part, or another part than taught.
            ProfileError: the profile is damaged, or belongs to another bundle.
            ProductError: nothing was taught, and the bundle has no such product.
        """
        self._product = self._product if product is None else product
        profile = self._profile_of(self._product)
        if profile is None:
            return self._detector.predict(image_bgr, self._product)
        if self._failed_test is not None:
            raise DeviceError(self._failed_test)
        ready = self._make_ready(profile)
        seen = self._observer.observe(image_bgr, self._product, profile.part, ready.fusion.names)
        maps = ZMaps(
            seen=seen,
            scales={
                name: profile.scales[name].spread.z(distances)
                for name, distances in self._distances(seen, ready).items()
            },
            zero_shot=profile.zero_shot.z(seen.zero_shot),
        )
        _check_product(maps, profile, ready.fusion.names[0])
        scale = ready.level.scale
        anomaly_map = to_unit(maps.in_frame(ready.fusion), scale)
        try:
            score = float(to_unit(maps.score(ready.fusion, None), scale))
        except ValueError as error:
            raise DeviceError(str(error)) from error
        return Prediction(
            anomaly_map=anomaly_map,
            anomaly_score=score,
            threshold=TAUGHT_THRESHOLD,
            profile=ProfileName(product=profile.product, sha256=profile.sha256),
            scale=scale,
            ignored=profile.ignored,
            other=_why_other(maps, ready),
        )

    def _distances(self, seen: Observed, ready: _Ready) -> dict[str, np.ndarray]:
        """Scale -> float32 [grid]. What was followed makes distances smaller, as far as the whole picture has moved.

        That is its median distance above that of the goods. So light is followed, but no defect in a small part of the
        picture. `FOLLOWED_BOUND` deviations are the most: a part whose score in z without it is above the threshold by
        more than this is rejected, whatever was followed.
        """
        found = {name: self._observer.distances(seen, name, memory) for name, memory in ready.memories.items()}
        followed = self._followed(ready.profile)
        if followed is None:
            return found
        if self._near is None or self._near[0] is not followed:
            memories = {
                name: self._observer.memory(name, vectors, followed.rows(self._observer.scales[name].memory))
                for name, vectors in followed.vectors.items()
            }
            self._near = followed, memories
        for name, memory in self._near[1].items():
            if name in found:
                spread = ready.profile.scales[name].spread
                usual = spread.mean if spread.median is None else spread.median
                moved = max(0.0, float(np.median(found[name])) - usual)
                lowest = found[name] - np.float32(min(moved, FOLLOWED_BOUND * spread.deviation))
                near = self._observer.distances(seen, name, memory)
                found[name] = np.maximum(np.minimum(found[name], near), lowest)
        return found

    def prepare(self, product: str) -> None:
        """As `zsad_agent.model.Predictor.prepare`."""
        profile = self._profile_of(product)
        if profile is None:
            self._detector.prepare(product)
        else:
            self._make_ready(profile)

    def is_taught(self, product: str) -> bool:
        """As `zsad_agent.model.Predictor.is_taught`."""
        return self._profile_of(product) is not None

    def self_test(self) -> None:
        """As `zsad_agent.model.Predictor.self_test`, also of the feature networks and of the memories in use."""
        self._detector.self_test()
        self._networks.self_test()
        for ready in self._ready.values():
            if ready.checksums != _checksums(ready.memories):
                self._failed_test = f"what was taught about {ready.profile.product} has changed in memory"
        if self._failed_test is not None:
            raise DeviceError(self._failed_test)

    def _make_ready(self, profile: Profile) -> _Ready:
        """The profile with its memories in float32. Those of the last products are kept."""
        ready = self._ready.get(profile.sha256)
        if ready is None:
            known = self._observer.scales
            for name, scale in profile.scales.items():
                held = scale.vectors.shape
                if name not in known or held[1] != known[name].width or held[0] > known[name].memory:
                    raise ProfileError(
                        f"the profile of {profile.product} was made with the bundle {profile.bundle.name} "
                        f"{profile.bundle.version}, which has other feature networks. Teach the product again"
                    )
            level = self._choose_level(profile)
            scales = tuple(scale for scale in known.values() if scale.name in profile.scales)
            usual = Fusion(scales=scales, weight=profile.zero_shot_weight, background=profile.background or 0.0)
            fusion = usual.first(level.scales)
            memories = {name: self._observer.memory(name, profile.scales[name].vectors) for name in fusion.names}
            ready = _Ready(
                profile=profile, level=level, fusion=fusion, memories=memories, checksums=_checksums(memories)
            )
            self._ready[profile.sha256] = ready
            while len(self._ready) > self._loaded:
                self._ready.popitem(last=False)
        self._ready.move_to_end(profile.sha256)
        return ready

    def _choose_level(self, profile: Profile) -> Level:
        """The highest level whose measured time is within the budget; the lowest one if none is."""
        if self._budget_ms is None:
            return profile.levels[-1]
        names = [name for name in self._observer.scales if name in profile.scales]
        times = [self._observer.time_ms(name, strip=profile.part.mode == "strip") for name in names]
        alone_ms = self._zero_shot_ms()
        totals = [alone_ms + sum(times[: level.scales]) for level in profile.levels]
        within = [level for level, total in zip(profile.levels, totals, strict=True) if total <= self._budget_ms]
        chosen = within[-1] if within else profile.levels[0]
        logger.info(
            "%s: %d of %d scales within inference.budget_ms of %g (%s ms)",
            profile.product,
            chosen.scales,
            profile.levels[-1].scales,
            self._budget_ms,
            ", ".join(f"{total:.0f}" for total in totals),
        )
        if not within:
            logger.warning("inference.budget_ms of %g is too short: %.0f ms are needed", self._budget_ms, totals[0])
        return chosen

    def _zero_shot_ms(self) -> float:
        times_s = []
        for _ in range(3):
            started_s = time.perf_counter()
            self._detector.self_test()
            times_s.append(time.perf_counter() - started_s)
        return 1000 * min(times_s)


def _checksums(memories: Mapping[str, Memory]) -> dict[str, int]:
    return {name: memory.checksum() for name, memory in memories.items()}


def _check_product(maps: ZMaps, profile: Profile, first: str) -> None:
    """Refuses a picture of which not even a quarter looks as taught."""
    limit = profile.foreign_above
    if limit is not None and (found := maps.quartile(first)) > limit:
        raise PartError(
            f"another part: three quarters of the picture differ by at least {found:.1f} deviations from the good "
            f"parts, {limit:.1f} are allowed"
        )


def _why_other(maps: ZMaps, ready: _Ready) -> str | None:
    """Why a picture that passes is refused: it differs as a whole more than a good part does.

    A product whose good parts vary much has a high threshold, and parts of another product may be below it.
    """
    limit = ready.level.other_above
    if limit is None or (found := maps.difference(ready.fusion.names)) <= limit:
        return None
    return (
        f"another part, or other light: no place stands out, but the picture as a whole differs by {found:.1f} "
        f"deviations from the good parts, {limit:.1f} are allowed"
    )
