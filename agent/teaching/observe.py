"""From a picture to its maps and score: where the part is, the distances to a memory on each scale, the zero-shot map.

Teach-in and inspection both use this module, so scores are comparable between them. The memory is an input of the graph
that finds the nearest vectors: switching the product compiles nothing.
"""

import contextlib
import math
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from zsad_agent.model import FeatureNetworks, Predictor
from zsad_agent.teaching.goods import MOST_OUTLIERS, token_distances
from zsad_core.bundle import GENERIC_PRODUCT, FeatureScale
from zsad_core.errors import DeviceError, ImageError, ProductError, ZsadError
from zsad_core.memory import FLOOR, Spread, fuse, top_mean
from zsad_core.openvino_offline import import_openvino, openvino_core
from zsad_core.part import Located, PartModel, part_models

GRID_HW = (56, 56)  # of all maps of a view
STRIP_GRID_HW = (28, 84)
BLOCK = 1000  # vectors that are compared at a time: these are converted to float32, not the whole memory
COMPARED = 12  # goods whose views are compared to choose where the part is
LEAVE_FRAME = 0.9  # another mode must make the distances of the whole frame smaller by this factor
LEAST_SHARE = 1e-4  # of zero-shot map values, and of 1 minus them, before the logit

WEIGHT = 0.25  # of the zero-shot map
ALONE = 0.9  # of the first scale's map, beside the means of several scales

# A good part's score rises with its map's median by some slope. What is above `LEAST_SLOPE` is taken off, at most
# `MOST_TAKEN` of the median. On boards (slope 0.4 to 0.6) defects raise the median, too, so nothing is taken off.
LEAST_SLOPE, MOST_TAKEN = 1.0, 0.6
MEDIAN_NOISE = 0.1  # in z: medians that differ by less say nothing
LEAST_FOR_SLOPE = 8  # goods

QUARTILE = 0.25  # of the map, for `foreign`
MOST_WIDENED = 2.0  # times


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What the networks see in one picture."""

    located: Located  # without its pixels
    tokens: Mapping[str, np.ndarray]  # scale -> float [h, w, C], unit length
    zero_shot: np.ndarray  # float32 [grid]: logits
    map_hw: tuple[int, int]  # of the final map

    @property
    def grid_hw(self) -> tuple[int, int]:
        return STRIP_GRID_HW if self.located.strip else GRID_HW

    def judged(self, ignored: np.ndarray | None, hw: tuple[int, int]) -> np.ndarray:
        """bool `hw` of the view: False where `ignored`, bool [map_hw] of the frame, covers most of a cell."""
        if ignored is None:
            return np.ones(hw, bool)
        return self.located.map_to_view(ignored.astype(np.float32), hw) < 0.5

    def suspicion(self, ignored: np.ndarray | None) -> float:
        """The mean of the highest hundredth of the zero-shot map, a logit; 0 if `ignored` covers the whole view."""
        judged = self.zero_shot[self.judged(ignored, self.grid_hw)]
        return float(np.sort(judged)[-max(1, len(judged) // 100) :].mean()) if len(judged) else 0.0


class Memory:
    """The vectors of one scale, ready for the search."""

    def __init__(self, vectors: np.ndarray, rows: int) -> None:
        """Takes float [M, C] vectors of unit length, M from 1 to `rows`.

        Writable ones in float16 are not copied if they fill a block.
        """
        self.vectors = np.require(vectors, np.float16, ["C", "W"])
        self.rows = rows
        block = min(rows, BLOCK)
        if len(self.vectors) < block:  # the first one fills the block
            repeated = np.repeat(self.vectors[:1], block - len(self.vectors), axis=0)
            self.vectors = np.concatenate([self.vectors, repeated])
        last = len(self.vectors) - block  # this block may begin within the one before
        starts = range(0, last + block, block)
        tensor = import_openvino().Tensor
        self.blocks = [tensor(self.vectors[min(at, last) :][:block], shared_memory=True) for at in starts]

    def checksum(self) -> int:
        """Of the vectors, to find a change in memory."""
        return zlib.crc32(self.vectors.data)


class Search:
    """The compiled search of one scale. For one thread at a time."""

    def __init__(self, *, rows: int, width: int, queries: int) -> None:
        """Compiles the search.

        Args:
            rows: most vectors of a memory.
            width: of a vector.
            queries: tokens of one tile, searched at a time: their similarities stay in the processor's cache.

        Raises:
            DeviceError: OpenVINO cannot compile it.
        """
        self._queries = np.zeros((queries, width), np.float32)
        self.rows = rows
        try:
            self._request = _compile(min(rows, BLOCK), width, queries).create_infer_request()
            self._request.set_input_tensor(0, import_openvino().Tensor(self._queries, shared_memory=True))
        except RuntimeError as error:
            raise DeviceError(f"the search in the memory cannot be compiled: {error}") from error
        # The first run creates the kernels, and frees the room for inputs that come from elsewhere.
        self.distances(self._queries, Memory(np.ones((1, width), np.float16), rows))

    def time_ms(self) -> float:
        """Measures the time for the tokens of one tile."""
        memory = Memory(np.ones((self.rows, self._queries.shape[1]), np.float16), self.rows)
        times_s = []
        for _ in range(3):
            started_s = time.perf_counter()
            self.distances(np.ones_like(self._queries), memory)
            times_s.append(time.perf_counter() - started_s)
        return 1000 * min(times_s)

    def distances(self, tokens: np.ndarray, memory: Memory) -> np.ndarray:
        """float32 [...]: 1 - cosine of each token's nearest vector, in [0, 2].

        Args:
            tokens: float [..., C], unit length.
            memory: of this scale.

        Raises:
            DeviceError: the search fails, or a token is not a number.
        """
        flat = tokens.reshape(-1, tokens.shape[-1])
        found = np.full(len(flat), -np.inf, np.float32)
        count = len(self._queries)
        try:
            for start in range(0, len(flat), count):
                part, best = flat[start : start + count], found[start : start + count]
                self._queries[: len(part)] = part
                for block in memory.blocks:
                    self._request.set_input_tensor(1, block)
                    self._request.infer()
                    np.maximum(best, self._request.get_output_tensor().data[: len(part)], out=best)
        except RuntimeError as error:
            raise DeviceError(f"the search in the memory failed: {error}") from error
        if not np.isfinite(found).all():
            raise DeviceError(f"the search in the memory gave {int((~np.isfinite(found)).sum())} values that are NaN")
        return np.clip(1 - found, 0, 2).reshape(tokens.shape[:-1])


def _compile(rows: int, width: int, queries: int) -> Any:
    """The compiled graph: queries [Q, C], vectors float16 [M, C] -> [Q], the highest product of each query."""
    ov = import_openvino()
    import openvino.opset13 as ops

    tokens, vectors = ops.parameter([queries, width], np.float32), ops.parameter([rows, width], np.float16)
    products = ops.matmul(tokens, ops.convert(vectors, "f32"), transpose_a=False, transpose_b=True)
    highest = ops.reduce_max(products, np.array([1]), keep_dims=False)
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}  # bf16 is as coarse as the distances
    return openvino_core().compile_model(ov.Model([highest], [tokens, vectors]), "CPU", options)


class Observer:
    """The bundle's networks and the searches of its scales. For one thread at a time."""

    def __init__(self, detector: Predictor, networks: FeatureNetworks) -> None:
        self.detector = detector
        self._networks = networks
        self.scales: dict[str, FeatureScale] = {scale.name: scale for scale in networks.scales}
        self._searches: dict[tuple[int, int, int], Search] = {}  # by rows, width and queries

    def observe(self, image_bgr: np.ndarray, product: str, part: PartModel, names: Iterable[str]) -> Observed:
        """What is seen of the part on these scales.

        Args:
            image_bgr: uint8 [H, W, 3].
            product: chooses the prompts. One without prompts in the bundle has those of the generic product.
            part: where the part is.
            names: of the scales.

        Raises:
            PartError: the picture shows no part, or another one.
            ImageError: the picture is too small.
            DeviceError: the device failed, or an answer is not valid.
        """
        try:
            frame_map = self.detector.predict(image_bgr, product).anomaly_map
        except ProductError:
            frame_map = self.detector.predict(image_bgr, GENERIC_PRODUCT).anomaly_map
        shares = np.clip(frame_map, LEAST_SHARE, 1 - LEAST_SHARE)
        located = part.locate(image_bgr)
        return Observed(
            located=replace(located, view_bgr=np.zeros((1, 1, 3), np.uint8)),
            tokens={name: self.tokens(located, name) for name in names},
            zero_shot=located.map_to_view(
                np.log(shares / (1 - shares)), STRIP_GRID_HW if located.strip else GRID_HW
            ).astype(np.float32),
            map_hw=frame_map.shape,
        )

    def tokens(self, located: Located, name: str) -> np.ndarray:
        """float32 [h, w, C], unit length, of a scale.

        Raises:
            DeviceError: the device failed, or an answer is not valid.
        """
        return self._networks.tokens(located.view_bgr, self.scales[name], strip=located.strip)

    def distances(self, seen: Observed, name: str, memory: Memory) -> np.ndarray:
        """float32 [grid]: the distances of a scale's tokens to the nearest vector of the memory.

        Raises:
            DeviceError: the search failed.
        """
        found = self._search(name, memory.rows).distances(seen.tokens[name], memory)
        return cv2.resize(found, seen.grid_hw[::-1], interpolation=cv2.INTER_LINEAR)

    def memory(self, name: str, vectors: np.ndarray, rows: int | None = None) -> Memory:
        """The vectors of a scale, float [M, C], for the search, which is compiled unless one of this size was before.

        `rows`: most vectors; None: of a whole memory.

        Raises:
            DeviceError: OpenVINO cannot compile the search.
        """
        rows = self.scales[name].memory if rows is None else rows
        self._search(name, rows)
        return Memory(vectors, rows)

    def time_ms(self, name: str, *, strip: bool) -> float:
        """Time of a scale for one picture: its network and the search."""
        scale = self.scales[name]
        tiles = 3 if strip else scale.tiles**2
        network_ms = self._networks.time_ms(scale) * tiles / scale.tiles**2
        return network_ms + tiles * self._search(name, scale.memory).time_ms()

    def _search(self, name: str, rows: int) -> Search:
        scale = self.scales[name]
        key = rows, scale.width, math.prod(scale.grid_hw)
        if key not in self._searches:
            self._searches[key] = Search(rows=rows, width=scale.width, queries=key[2])
        return self._searches[key]


def scales_for(scales: Iterable[FeatureScale], *, strip: bool) -> list[FeatureScale]:
    """The scales that look at a view: of a strip only those of whole views, which then have three tiles."""
    return [scale for scale in scales if scale.tiles == 1 or not strip]


def choose_part(observer: Observer, images: Sequence[np.ndarray], mode: str | None) -> PartModel:
    """Where the part is: the mode in which the goods look most alike, if `mode` is None.

    Args:
        observer: its first scale compares the goods.
        images: good parts, uint8 BGR [H, W, 3], at least two.
        mode: frame, box or strip; None: chosen.

    Raises:
        ZsadError: the mode does not fit these goods.
    """
    models: dict[str, PartModel] = {model.mode: model for model in part_models(images)}
    distances: dict[str, float] = {}  # mode -> mean distance between goods
    for name, model in models.items():
        if (distance := _mean_distance(observer, images, model)) is not None:
            distances[name] = distance
    if mode is None:
        mode = min(distances, key=lambda name: distances[name], default="frame")
        if mode != "frame" and distances[mode] > LEAVE_FRAME * distances.get("frame", np.inf):
            mode = "frame"
    elif mode not in distances:
        raise ZsadError(f"mode {mode} does not fit these good parts. Modes that do: {', '.join(distances)}")
    return models[mode]


def _mean_distance(observer: Observer, images: Sequence[np.ndarray], model: PartModel) -> float | None:
    """From the tokens of some goods to those of the others; None if the part is found in too few of them."""
    first = next(iter(observer.scales))
    some = np.linspace(0, len(images) - 1, min(len(images), COMPARED)).astype(int)
    tokens = []
    for place in some:
        with contextlib.suppress(ImageError):  # one picture without a part decides nothing: it is left out later
            tokens.append(observer.tokens(model.locate(images[place]), first))
    if len(tokens) < max(2.0, (1 - MOST_OUTLIERS) * len(some)):
        return None
    between = token_distances(tokens)
    between[np.arange(len(tokens)), np.arange(len(tokens))] = np.inf
    return float(between.min(axis=1).mean())


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """Which scales are used, the weight of the zero-shot map, and the share of the median that is subtracted.

    The mean of several scales is surer than one: scales of one size are averaged, and scales of one network. The
    maximum of these means counts, and that of the first scale at nine tenths.
    """

    scales: tuple[FeatureScale, ...]  # in the bundle's order, at least one
    weight: float = WEIGHT
    background: float = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(scale.name for scale in self.scales)

    def first(self, count: int) -> "Fusion":
        """The same with the first `count` scales alone."""
        return replace(self, scales=self.scales[:count])

    def fused(self, maps: Mapping[str, np.ndarray], zero_shot: np.ndarray) -> np.ndarray:
        """float32 [grid] in z, from the maps of all scales and the zero-shot map, each float32 [grid] in z."""
        found = [(maps[scale.name], scale.tiles > 1, _network(scale)) for scale in self.scales]
        sizes = [[one for one, tiled, _ in found if tiled == size] for size in (False, True)]
        networks = [[one for one, _, name in found if name == network] for network in {name for *_, name in found}]
        groups = [[np.float32(ALONE) * found[0][0]], *filter(len, sizes), *(group for group in networks if group[1:])]
        return fuse(groups, zero_shot, self.weight, self.background)


@dataclass(frozen=True, kw_only=True)
class ZMaps:
    """The maps of one picture in z, each float32 [grid]; those of the scales by their names."""

    seen: Observed
    scales: Mapping[str, np.ndarray]
    zero_shot: np.ndarray

    def in_frame(self, fusion: Fusion) -> np.ndarray:
        """float32 [map_hw]: the fused map at its place in the frame."""
        fused = fusion.fused(self.scales, self.zero_shot)
        return self.seen.located.map_to_frame(fused, self.seen.map_hw, FLOOR)

    def score(self, fusion: Fusion, ignored: np.ndarray | None) -> float:
        """The score in z, at the resolution of the view; of a small part the frame's map is coarser.

        With `ignored`, bool [map_hw], True where the map does not count, it is that of the frame's map.

        Raises:
            ValueError: a value is NaN.
        """
        if ignored is None:
            return top_mean(fusion.fused(self.scales, self.zero_shot))
        return top_mean(self.in_frame(fusion), ignored)

    def difference(self, names: Sequence[str]) -> float:
        """How much the picture as a whole differs from the goods: the mean over scales of the maps' lower quartiles."""
        return float(np.mean([self.quartile(name) for name in names]))

    def quartile(self, name: str) -> float:
        """The lower quartile of a scale's map: high where nothing of the picture is as taught."""
        return float(np.quantile(self.scales[name], QUARTILE))


def balanced(
    spreads: Mapping[str, Spread], distances: Mapping[str, np.ndarray], judged: np.ndarray
) -> dict[str, Spread]:
    """The spreads with which good parts score no higher on the first scale than on the mean of the others.

    The first scale counts alone, too. Where it is higher on good parts it would outvote scales that see defects better,
    so its deviation is made larger.

    Args:
        spreads: by scale, in the bundle's order.
        distances: scale -> float32 [K, grid], leave-one-out.
        judged: bool [K, grid], False where a value does not count.
    """
    usual = {
        name: float(
            np.median([top_mean(z, ~counted) for z, counted in zip(spread.z(distances[name]), judged, strict=True)])
        )
        for name, spread in spreads.items()
    }
    first, *others = usual
    if not others or usual[first] <= (wanted := float(np.mean([usual[name] for name in others]))):
        return dict(spreads)
    times = usual[first] / max(wanted, usual[first] / MOST_WIDENED)
    return {**spreads, first: replace(spreads[first], deviation=times * spreads[first].deviation)}


def backgrounds(fusion: Fusion, goods: Sequence[ZMaps], ignored: np.ndarray | None) -> list[float]:
    """The share of the median that makes the scores of the goods most alike, within bounds: first that of all goods.

    Then for each good that of the others. With it, its score says what the threshold does to a new part: a share that
    it has chosen itself would make its score too low.

    Args:
        fusion: its own share does not count.
        goods: leave-one-out maps.
        ignored: bool [map_hw], True where the map does not count.
    """
    plain = replace(fusion, background=0.0)
    medians = np.array([np.median(plain.fused(maps.scales, maps.zero_shot)) for maps in goods])
    scores = np.array([maps.score(plain, ignored) for maps in goods])
    others = [np.arange(len(goods)) != place for place in range(len(goods))]
    return [_share(medians, scores), *(_share(medians[one], scores[one]) for one in others)]


def _share(medians: np.ndarray, scores: np.ndarray) -> float:
    if len(medians) < LEAST_FOR_SLOPE:
        return 0.0
    slope = float(np.mean((medians - medians.mean()) * scores) / (medians.var() + MEDIAN_NOISE**2))
    return min(max(slope - LEAST_SLOPE, 0.0), MOST_TAKEN)


def _network(scale: FeatureScale) -> str:
    return scale.name.partition("-")[0]
