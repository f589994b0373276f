"""Teach-in: from pictures of good parts to a profile with thresholds that keep a promise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TypeVar

import cv2
import numpy as np

from zsad_agent.config import HealthConfig
from zsad_agent.messages import BundleName
from zsad_agent.model import FeatureNetworks, Predictor
from zsad_agent.teaching.goods import (
    LEAST_GOODS,
    MOST_OUTLIERS,
    LeftOut,
    Picture,
    check_number,
    find_strangers,
    find_suspects,
    likely_good,
    read,
    screen,
    set_by_one,
    smaller_group,
    stand_apart,
    token_distances,
)
from zsad_agent.teaching.observe import (
    Fusion,
    Observed,
    Observer,
    ZMaps,
    backgrounds,
    balanced,
    choose_part,
    scales_for,
)
from zsad_agent.teaching.profile import MAX_GOODS, KeptPicture, Level, Profile, Recall, ScaleMemory
from zsad_core.errors import ImageError, ZsadError
from zsad_core.memory import Promise, Spread, coresets, promise, to_unit
from zsad_core.part import PartModel

SMALL_SIDE = 640  # of the pictures from which the part is learned, pixels
FOREIGN_MARGIN = 3.0  # in z, over the goods' highest quartile; of the shared sets: own goods exceed it by up to 2.3
OTHER_MARGIN = 0.75  # in z, over the second largest difference of a good part as a whole

Kept = TypeVar("Kept")
Named = tuple[str, Picture]
Progress = Callable[[str, int, int], None]  # what is done, and for how many pictures of how many


@dataclass(frozen=True, kw_only=True, slots=True)
class Taught:
    """The outcome of a teach-in. Scores are those of the highest level, in [0, 1) with the threshold at 0.5.

    The recall of the bad parts is in each level of the profile.
    """

    profile: Profile
    left_out: tuple[LeftOut, ...]  # unreadable, doubled, black, overlays, outliers; also of the bad parts
    good_scores: Mapping[str, float]  # those that set the threshold
    bad_scores: Mapping[str, float] = field(default_factory=dict)
    missed: tuple[str, ...] = ()  # the bad parts below the threshold, lowest score first
    notes: tuple[str, ...] = ()  # for people

    @property
    def outliers(self) -> tuple[LeftOut, ...]:
        """The pictures that look different from the other goods."""
        return tuple(entry for entry in self.left_out if entry.score is not None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """What stays the same during a teach-in."""

    observer: Observer
    product: str
    ignored: np.ndarray | None  # bool [map_hw]
    seed: int
    say: Progress
    trusted: bool
    left_out: list[LeftOut] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)  # names of the outliers


@dataclass(frozen=True, kw_only=True, slots=True)
class _Memories:
    """The goods that are learned, and what is kept of them."""

    seen: Mapping[str, Observed]  # by the picture's name
    vectors: Mapping[str, np.ndarray]  # scale -> float16 [M, C]
    distances: Mapping[str, np.ndarray]  # scale -> float32 [K, grid]: of each good to what the others have shown


def teach(
    images: Sequence[Named],
    *,
    product: str,
    networks: FeatureNetworks,
    detector: Predictor,
    bad: Sequence[Named] = (),
    doubtful: Sequence[Named] = (),
    rate: float = 0.01,
    seed: int = 0,
    ignored: np.ndarray | None = None,
    mode: str | None = None,
    health: HealthConfig | None = None,
    unchecked: bool = False,
    trusted: bool = True,
    apart: Sequence[str] = (),
    progress: Progress | None = None,
) -> Taught:
    """Learns a product. Pictures are read one at a time, up to three times.

    Args:
        images: good parts, each with its name: uint8 BGR [H, W, 3], or what reads it and may raise ImageError.
        product: its name.
        networks: of the bundle.
        detector: of the same bundle.
        bad: as `images`, of bad parts. They set the recall.
        doubtful: as `images`, of parts that may be bad. They are not learned. Those that the distribution of the goods
            explains set the threshold too.
        rate: share of good parts that may be rejected, in (0, 1).
        seed: of every choice.
        ignored: bool [h, w] of the model's map, True where the camera's mask ignores it.
        mode: of the part: frame, box or strip; None: chosen.
        health: limits of exposure and structure.
        unchecked: pictures that look the same, or that the agent rejected, are learned too.
        trusted: a person says that the parts are good. So the promise counts the outliers as rejected good parts.
        apart: names of good parts that an earlier teach-in left out as outliers; they count too.
        progress: called after each picture.

    Raises:
        ZsadError: nothing can be learned: too few goods, more than one product, no such mode, or the device failed.
    """
    task = _Task(
        observer=Observer(detector, networks),
        product=product,
        ignored=ignored,
        seed=seed,
        say=progress or (lambda what, done, total: None),
        trusted=trusted,
    )
    chosen, held_out = _usable(task, images, health or HealthConfig(), unchecked=unchecked)
    kept, small = _look_through(task, chosen)
    part = choose_part(task.observer, small, mode)
    memories = _learn(task, part, chosen)
    bundle = networks.bundle
    return _finish(
        task,
        part,
        memories,
        held_out,
        bad,
        doubtful,
        rate,
        apart,
        kept=[kept[name] for name in memories.seen],
        bundle=BundleName(name=bundle.manifest.name, version=bundle.manifest.version, sha256=bundle.sha256),
    )


def _usable(
    task: _Task, images: Sequence[Named], health: HealthConfig, *, unchecked: bool
) -> tuple[list[Named], list[Named]]:
    """The goods to learn, at most `MAX_GOODS` of them at random, and the others."""
    say, count = task.say, len(images)
    goods = screen(
        images, health, task.left_out, lambda done: say("checking pictures", done, count), unchecked=unchecked
    )
    check_number(len(goods), 0, task.left_out)
    order = np.random.default_rng(task.seed).permutation(len(goods))
    learned, others = ([goods[place] for place in sorted(part)] for part in (order[:MAX_GOODS], order[MAX_GOODS:]))
    return learned, others


def _look_through(task: _Task, goods: Sequence[Named]) -> tuple[dict[str, KeptPicture], list[np.ndarray]]:
    """The kept pictures by name, and all pictures with at most `SMALL_SIDE` pixels a side."""
    kept, small = {}, []
    for done, (name, picture) in enumerate(goods, start=1):
        image = read(picture)
        kept[name] = KeptPicture.of(name, image)
        if (scale := SMALL_SIDE / max(image.shape[:2])) < 1:
            wh = [max(1, round(side * scale)) for side in image.shape[1::-1]]
            image = cv2.resize(image, wh, interpolation=cv2.INTER_AREA)
        small.append(image)
        task.say("finding the part", done, len(goods))
    return kept, small


def _observe(
    task: _Task, part: PartModel, names: Sequence[str], pictures: Sequence[Named], what: str
) -> Iterator[tuple[str, Observed]]:
    """What is seen in each picture that can be used; the others are left out."""
    for done, (name, picture) in enumerate(pictures, start=1):
        try:
            yield name, task.observer.observe(read(picture), task.product, part, names)
        except ImageError as error:
            task.left_out.append(LeftOut(name=name, reason=str(error).removeprefix(f"{name}: ")))
        task.say(what, done, len(pictures))


def _learn(task: _Task, part: PartModel, goods: Sequence[Named]) -> _Memories:
    """The memories of the goods, without the outliers."""
    names = [scale.name for scale in scales_for(task.observer.scales.values(), strip=part.mode == "strip")]
    seen = {
        name: replace(one, tokens={scale: tokens.astype(np.float16) for scale, tokens in one.tokens.items()})
        for name, one in _observe(task, part, names, goods, "learning good parts")
    }
    some = [one.tokens[names[0]][::2, ::2] for one in seen.values()]  # a quarter is enough, in a sixteenth of the time
    between = token_distances(some)
    strangers = find_strangers(between)
    known = np.delete(np.arange(len(seen)), list(strangers))
    if group := smaller_group(between[np.ix_(known, known)]):
        task.notes.append(
            f"the pictures may show two products: {len(group)} of {len(known)} differ from the others, for example "
            f"{list(seen)[known[group[0]]]}. Teach each product from its own pictures"
        )
    check_number(len(seen), len(strangers), task.left_out)
    zero_shot = np.array([one.suspicion(task.ignored) for one in seen.values()])
    suspects = [list(seen)[known[place]] for place in find_suspects(between[np.ix_(known, known)], zero_shot[known])]
    left = int(MOST_OUTLIERS * len(seen)) - len(strangers)
    seen = _without(task, seen, strangers)
    memories = _memorise(task, names, seen)
    fusion = Fusion(scales=tuple(task.observer.scales[name] for name in names))
    scores = [maps.score(fusion, task.ignored) for maps in _Reader(task, part, memories).learned.values()]
    outliers = stand_apart(np.array(scores), left)
    if outliers:  # once: without the first ones, the tail of the goods would stand apart
        memories = _memorise(task, names, _without(task, seen, outliers))
    if suspects := [name for name in suspects if name in memories.seen]:
        task.notes.append(
            f"look at {', '.join(suspects)}: different from most others, and suspicious to the bundle alone. If the "
            "parts are not good, teach again without them"
        )
    return memories


def _memorise(task: _Task, names: Sequence[str], seen: Mapping[str, Observed]) -> _Memories:
    learned = {}
    for done, name in enumerate(names, start=1):
        learned[name] = _learn_scale(task, name, seen)
        task.say("comparing good parts, scales", done, len(names))  # a stop waits for one scale at most
    return _Memories(
        seen=seen,
        vectors={name: vectors for name, (vectors, _) in learned.items()},
        distances={name: distances for name, (_, distances) in learned.items()},
    )


def _without(task: _Task, seen: Mapping[str, Kept], outliers: Mapping[int, float]) -> dict[str, Kept]:
    """The goods without the outliers, which are named. `outliers`: place -> times the median."""
    names = list(seen)
    for place, times in sorted(outliers.items(), key=lambda entry: -entry[1]):
        reason = f"looks different from the other good parts: {times:.1f} times their median"
        task.left_out.append(LeftOut(name=names[place], reason=reason, score=times))
        task.apart.append(names[place])
    return {name: seen[name] for place, name in enumerate(names) if place not in outliers}


def _learn_scale(task: _Task, name: str, seen: Mapping[str, Observed]) -> tuple[np.ndarray, np.ndarray]:
    """The memory of a scale, float16 [M, C]; float32 [K, grid]: each good's distances to what the others have shown."""
    judged = (one.judged(task.ignored, one.tokens[name].shape[:2]) for one in seen.values())
    vectors = [one.tokens[name][counted] for one, counted in zip(seen.values(), judged, strict=True)]
    if sum(len(found) > 0 for found in vectors) < LEAST_GOODS:
        raise ZsadError("the mask ignores the whole part, so nothing can be learned")
    together, lengths = np.concatenate(vectors), [len(found) for found in vectors]
    memories = (
        together[places] for places in coresets(together, lengths, task.observer.scales[name].memory, seed=task.seed)
    )
    learned = next(memories)
    distances = [
        task.observer.distances(one, name, task.observer.memory(name, others))
        for one, others in zip(seen.values(), memories, strict=True)
    ]
    return learned, np.stack(distances)


def _finish(
    task: _Task,
    part: PartModel,
    memories: _Memories,
    held_out: Sequence[Named],
    bad: Sequence[Named],
    doubtful: Sequence[Named],
    rate: float,
    apart: Sequence[str],
    *,
    kept: Sequence[KeptPicture],
    bundle: BundleName,
) -> Taught:
    """Sets the thresholds, with the goods and the bad parts that the memory does not hold."""
    reader = _Reader(task, part, memories)
    bads = dict(reader.read(bad, "checking bad parts"))
    if bad and not bads:
        task.notes.append("none of the pictures of bad parts can be used: how many bad parts are found is unknown")
    plain = Fusion(scales=tuple(task.observer.scales[name] for name in memories.vectors))
    share, *shares = backgrounds(plain, list(reader.learned.values()), task.ignored)
    fusion = replace(plain, background=share)
    levels = [fusion.first(count) for count in range(1, len(fusion.names) + 1)]
    scores, differences, outliers = _score_goods(reader, levels, shares, held_out, doubtful, rate)
    framed = part.mode == "frame"
    found = reader.scores(bads, levels)
    if task.trusted and outliers:
        task.notes.append(
            f"the promise counts the parts that look different ({len(outliers)}) as good parts that are rejected. If "
            "such a part is good, keep it. If it is bad, remove its picture and teach again"
        )
    apart = tuple(dict.fromkeys([*apart, *(outliers if task.trusted else ())]))
    promises = [promise([of[place] for of in scores.values()], rate, apart=len(apart)) for place in range(len(levels))]
    scale = promises[-1].threshold
    profile = Profile(
        product=task.product,
        made_at=datetime.now(UTC),
        bundle=bundle,
        part=part,
        scales={
            name: ScaleMemory(vectors=memories.vectors[name], spread=reader.spreads[name]) for name in fusion.names
        },
        zero_shot=reader.zero_shot,
        zero_shot_weight=fusion.weight,
        background=fusion.background,
        foreign_above=max(0.0, *(of[0] for of in differences)) + FOREIGN_MARGIN if framed else None,
        levels=tuple(
            _level(
                one,
                count,
                [of[count - 1] for of in found.values()],
                other_above([of[count - 1] for of in differences]) if framed else None,
            )
            for count, one in enumerate(promises, start=1)
        ),
        goods_scores=tuple(of[-1] for of in scores.values()),
        asked_rate=rate,
        goods=tuple(kept),
        apart=apart,
        ignored=task.ignored,
    )
    missed = sorted((of[-1], name) for name, of in found.items() if of[-1] < scale)
    return Taught(
        profile=profile,
        left_out=tuple(task.left_out),
        good_scores={name: float(to_unit(of[-1], scale)) for name, of in scores.items()},
        bad_scores={name: float(to_unit(of[-1], scale)) for name, of in found.items()},
        missed=tuple(name for _, name in missed),
        notes=(*task.notes, *set_by_one({name: of[-1] for name, of in scores.items()}, scale)),
    )


def _score_goods(
    reader: "_Reader",
    levels: Sequence[Fusion],
    shares: Sequence[float],
    held_out: Sequence[Named],
    doubtful: Sequence[Named],
    rate: float,
) -> tuple[dict[str, list[float]], list[list[float]], list[str]]:
    """The scores that set the threshold, by level; the difference of each good part as a whole, by level; and outliers.

    The outliers are those among the goods whose scores set the threshold. `shares`: of each learned good, the share of
    the median that the others give.
    """
    before = len(reader.task.apart)
    task, learned = reader.task, reader.learned
    scores = {
        name: [maps.score(replace(level, background=share), task.ignored) for level in levels]
        for (name, maps), share in zip(learned.items(), shares, strict=True)
    }
    differences = {name: [maps.difference(level.names) for level in levels] for name, maps in learned.items()}
    others: dict[str, list[float]] = {}
    for name, maps in reader.read(held_out, "checking further good parts"):
        others |= reader.scores({name: maps}, levels)
        differences[name] = [maps.difference(level.names) for level in levels]
    outliers = stand_apart(np.array([of[-1] for of in others.values()]), int(MOST_OUTLIERS * len(others)))
    others = _without(task, others, outliers)
    whole = [differences[name] for name in (*learned, *others)]
    needed = promise([0.0], rate, apart=len(outliers)).needed
    if len(others) >= needed:
        scores, apart = others, task.apart[before:]
    else:
        scores, apart = scores | others, task.apart
    unsure = reader.scores(dict(reader.read(doubtful, "checking doubtful parts")), levels)
    return scores | likely_good(scores, unsure, task.left_out), whole, apart


def other_above(differences: Sequence[float]) -> float:
    """Above this difference as a whole a picture must not pass, although no place of it stands out.

    Every good part is below it. One odd part raises it no further than to its own difference.
    """
    return max(*differences, max(0.0, sorted(differences)[-2]) + OTHER_MARGIN)


def _level(found: Promise, scales: int, bads: Sequence[float], other_above: float | None) -> Level:
    reached = sum(score >= found.threshold for score in bads)
    return Level(
        scales=scales,
        scale=found.threshold,
        false_reject_rate=found.rate,
        false_reject_rate_90=found.rate_90,
        needed=found.needed,
        recall=Recall(found=reached, total=len(bads)) if bads else None,
        other_above=other_above,
    )


class _Reader:
    """Maps in z of the learned goods and of other pictures."""

    def __init__(self, task: _Task, part: PartModel, memories: _Memories) -> None:
        self.task = task
        self._part = part
        self._memories = memories
        seen = list(memories.seen.values())
        judged = np.stack([one.judged(task.ignored, one.grid_hw) for one in seen])
        spreads = {name: Spread.of(found[judged]) for name, found in memories.distances.items()}
        self.spreads = balanced(spreads, memories.distances, judged)
        self.zero_shot = Spread.of(np.stack([one.zero_shot for one in seen])[judged])
        self._loaded = {name: task.observer.memory(name, vectors) for name, vectors in memories.vectors.items()}

    @cached_property
    def learned(self) -> dict[str, ZMaps]:
        """The leave-one-out maps of the learned goods."""
        distances = self._memories.distances
        return {
            name: self._in_z(one, {scale: distances[scale][place] for scale in distances})
            for place, (name, one) in enumerate(self._memories.seen.items())
        }

    def read(self, pictures: Sequence[Named], what: str) -> Iterator[tuple[str, ZMaps]]:
        """The maps of other pictures."""
        for name, one in _observe(self.task, self._part, list(self._loaded), pictures, what):
            found = {scale: self.task.observer.distances(one, scale, memory) for scale, memory in self._loaded.items()}
            yield name, self._in_z(one, found)

    def scores(self, found: Mapping[str, ZMaps], levels: Sequence[Fusion]) -> dict[str, list[float]]:
        """The scores of pictures, by level."""
        return {name: [maps.score(level, self.task.ignored) for level in levels] for name, maps in found.items()}

    def _in_z(self, seen: Observed, distances: Mapping[str, np.ndarray]) -> ZMaps:
        return ZMaps(
            seen=replace(seen, tokens={}),
            scales={scale: self.spreads[scale].z(found) for scale, found in distances.items()},
            zero_shot=self.zero_shot.z(seen.zero_shot),
        )
