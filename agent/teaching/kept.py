"""Good parts that look different from the others, and that a person says are good: the memory learns them one by one.

A teach-in leaves out what looks different. What a person kept stays known, also when the profile is made again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zsad_agent.config import InferenceConfig
from zsad_agent.model import FeatureNetworks, Predictor
from zsad_agent.teaching.goods import LeftOut, Picture, read, tail_limit
from zsad_agent.teaching.observe import Observer
from zsad_agent.teaching.profile import MAX_GOODS, KeptPicture, Profile, Recall, ScaleMemory
from zsad_agent.teaching.taught import TaughtPredictor
from zsad_agent.teaching.teacher import Taught, teach
from zsad_core.errors import ImageError, ZsadError
from zsad_core.memory import coreset, from_unit, promise, to_unit
from zsad_core.types import TAUGHT_THRESHOLD

ADDED_SHARE = 0.1  # of a memory, that one part may take

Named = tuple[str, Picture]
Progress = Callable[[str, int, int], None]


@dataclass(kw_only=True)
class Networks:
    """The networks of the bundle in use. For one thread at a time."""

    detector: Predictor
    features: FeatureNetworks
    config: InferenceConfig
    _last: tuple[Profile, TaughtPredictor] | None = None

    def score(self, profile: Profile, image_bgr: np.ndarray) -> tuple[float, float]:
        """The score in [0, 1), and in z. A picture that shows no part or another one has the highest.

        Raises:
            DeviceError: the device failed.
        """
        if self._last is None or self._last[0] is not profile:
            config = self.config.model_copy(update={"budget_ms": None})  # at the level that `goods_scores` belong to
            made = TaughtPredictor(self.detector, self.features, lambda product: profile, config)
            self._last = profile, made
        try:
            found = self._last[1].predict(image_bgr, profile.product)
        except ImageError:
            return 1.0, float(from_unit(np.array(1.0), profile.levels[-1].scale))
        assert found.scale is not None
        return found.anomaly_score, float(from_unit(np.array(found.anomaly_score), found.scale))


def teach_again(profile: Profile, networks: Networks, progress: Progress = lambda what, done, total: None) -> Taught:
    """The teach-in from a profile's pictures of good parts. Those that a person kept are not left out.

    Args:
        profile: gives the pictures and every choice; its `ignored` is of the size of the bundle's map.
        networks: of the bundle for which it is made.
        progress: as of `teach`.

    Raises:
        ZsadError: as `teach`.
    """

    def taught_from(goods: Sequence[KeptPicture]) -> Taught:
        return teach(
            [(good.name, good.image) for good in goods],
            product=profile.product,
            networks=networks.features,
            detector=networks.detector,
            rate=profile.asked_rate,
            ignored=profile.ignored,
            mode=profile.part.mode,
            unchecked=True,
            apart=profile.apart,
            progress=progress,
        )

    kept = [good for good in profile.goods if good.name in profile.kept]
    try:
        taught = taught_from(profile.goods)
        odd = {one.name for one in taught.outliers}
        kept = [good for good in kept if good.name in odd]
    except ZsadError:  # perhaps because so many look different
        if not kept:
            raise
        taught, odd = taught_from([good for good in profile.goods if good not in kept]), set()
    if kept:
        left_out = tuple(one for one in taught.left_out if one.name not in odd or one.name not in profile.kept)
        pictures = [(good.name, good.image) for good in kept]
        taught = learn_kept(replace(taught, left_out=left_out), pictures, [], networks, progress)
    names = {good.name for good in profile.goods}
    still = tuple(name for name in profile.kept if name in names)
    return replace(taught, profile=replace(taught.profile, kept=still))


def learn_kept(
    taught: Taught,
    kept: Sequence[Named],
    bad: Sequence[Named],
    networks: Networks,
    progress: Progress = lambda what, done, total: None,
) -> Taught:
    """The teach-in with further parts that look different from its goods, and that a person says are good.

    Args:
        taught: from the other parts.
        kept: the further parts.
        bad: the bad parts of the teach-in; their scores are measured again.
        networks: of the profile's bundle.
        progress: gets what is done, and may raise.

    Raises:
        DeviceError: the device failed.
    """
    profile, left_out, learned = taught.profile, list(taught.left_out), []
    for done, (name, picture) in enumerate(kept):
        progress("learning pictures that are kept", done, len(kept))
        try:
            profile = learn_good(profile, KeptPicture.of(name, read(picture)), networks)
            learned.append(name)
        except ImageError as error:
            left_out.append(LeftOut(name=name, reason=str(error).removeprefix(f"{name}: ")))
    scale = profile.levels[-1].scale
    names = [*taught.good_scores, *learned]
    bad_scores = {}
    for done, (name, picture) in enumerate(bad):
        progress("checking bad parts again", done, len(bad))
        if name in taught.bad_scores:
            bad_scores[name] = networks.score(profile, read(picture))[0]
    if bad_scores:
        missed = sorted((score, name) for name, score in bad_scores.items() if score < TAUGHT_THRESHOLD)
        recall = Recall(found=len(bad_scores) - len(missed), total=len(bad_scores))
        top = profile.levels[-1].model_copy(update={"recall": recall})
        profile = replace(profile, levels=(*profile.levels[:-1], top))
        taught = replace(taught, missed=tuple(name for _, name in missed))
    units = to_unit(np.array(profile.goods_scores), scale).tolist()
    return replace(
        taught,
        profile=profile,
        left_out=tuple(left_out),
        good_scores=dict(zip(names, units, strict=True)),
        bad_scores=bad_scores,
    )


def learn_good(profile: Profile, picture: KeptPicture, networks: Networks) -> Profile:
    """The memory learns a good part. Its earlier score also sets the threshold, as far as the other goods explain it.

    Raises:
        ImageError: the picture shows no part, or another one.
        DeviceError: the device failed.
    """
    image = picture.image()
    _, z = networks.score(profile, image)
    rows = {scale.name: scale.memory for scale in networks.features.scales}
    scales = {}
    for name, added in novel_tokens(profile, image, networks, share=ADDED_SHARE).items():
        memory = profile.scales[name]
        vectors = np.concatenate([added, memory.vectors])[: rows[name]]  # the last ones matter least
        scales[name] = ScaleMemory(vectors=vectors, spread=memory.spread)
    likely = tail_limit(np.array(profile.goods_scores), len(profile.goods_scores) + 1)
    scores = (*profile.goods_scores, min(z, likely))  # one odd part must not let defects pass
    apart = tuple(name for name in profile.apart if name != picture.name)
    goods = (*profile.goods, picture)[-MAX_GOODS:]
    kept = (*profile.kept, picture.name)
    return with_promise(replace(profile, scales=scales, goods=goods, goods_scores=scores, apart=apart, kept=kept))


def with_promise(profile: Profile) -> Profile:
    """The profile with the threshold and the promise of its scores, at the highest level."""
    found = promise(profile.goods_scores, profile.asked_rate, apart=len(profile.apart))
    top = profile.levels[-1].model_copy(
        update={
            "scale": found.threshold,
            "false_reject_rate": found.rate,
            "false_reject_rate_90": found.rate_90,
            "needed": found.needed,
        }
    )
    return replace(profile, levels=(*profile.levels[:-1], top))


def novel_tokens(profile: Profile, image_bgr: np.ndarray, networks: Networks, *, share: float) -> dict[str, np.ndarray]:
    """Scale -> float16 [M, C]: the part's tokens that are farther from the memory than those of goods are in the mean.

    Args:
        profile: of the product.
        image_bgr: uint8 [H, W, 3].
        networks: of the profile's bundle.
        share: of a whole memory, that they take at most.

    Raises:
        ImageError: the picture shows no part, or another one.
        DeviceError: the device failed.
    """
    observer = Observer(networks.detector, networks.features)
    seen = observer.observe(image_bgr, profile.product, profile.part, list(profile.scales))
    found = {}
    for name, memory in profile.scales.items():
        tokens = seen.tokens[name].reshape(-1, memory.vectors.shape[1])
        novel = tokens[distances_to(tokens, memory.vectors) > memory.spread.mean]
        most = max(1, int(share * observer.scales[name].memory))
        found[name] = (novel[coreset(novel, most, seed=0)] if len(novel) else novel).astype(np.float16)
    return found


def distances_to(tokens: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """float32 [N]: of each unit vector [N, C] to the nearest of [M, C]."""
    return 1 - (tokens.astype(np.float32) @ vectors.astype(np.float32).T).max(axis=1)
