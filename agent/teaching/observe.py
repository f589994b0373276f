"""From a picture to its maps: where the part is, the distances to a memory on each scale, and the zero-shot map.

Teach-in and inspection both use this module, so scores are comparable between them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from zsad_agent.model import FeatureNetworks, Predictor
from zsad_agent.teaching.search import Memory, Search
from zsad_core.bundle import GENERIC_PRODUCT, FeatureScale
from zsad_core.errors import ProductError
from zsad_core.memory import FLOOR, fuse
from zsad_core.part import Located, PartModel

GRID_HW = (56, 56)  # of all maps of a view
STRIP_GRID_HW = (28, 84)
LEAST_SHARE = 1e-4  # of zero-shot map values, and of 1 minus them, before the logit


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

    def in_frame(self, maps: Sequence[np.ndarray], zero_shot: np.ndarray, weight: float) -> np.ndarray:
        """float32 [map_hw] in z, FLOOR beside the view: the fused map at its place in the frame.

        Args:
            maps: each float32 [grid] in z, at least one.
            zero_shot: the same.
            weight: of the zero-shot map.
        """
        return self.located.map_to_frame(fuse(maps, zero_shot, weight), self.map_hw, FLOOR)


class Observer:
    """The bundle's networks and the searches of its scales. For one thread at a time."""

    def __init__(self, detector: Predictor, networks: FeatureNetworks) -> None:
        self.detector = detector
        self._networks = networks
        self.scales: dict[str, FeatureScale] = {scale.name: scale for scale in networks.scales}
        self._searches: dict[str, Search] = {}

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
        found = self._search(name).distances(seen.tokens[name], memory)
        return cv2.resize(found, seen.grid_hw[::-1], interpolation=cv2.INTER_LINEAR)

    def memory(self, name: str, vectors: np.ndarray) -> Memory:
        """The vectors of a scale, float [M, C], for the search."""
        return Memory(vectors, self.scales[name].memory)

    def time_ms(self, name: str, *, strip: bool) -> float:
        """Time of a scale for one picture: its network and the search."""
        scale = self.scales[name]
        tiles = 3 if strip else scale.tiles**2
        network_ms = self._networks.time_ms(scale) * tiles / scale.tiles**2
        return network_ms + tiles * self._search(name).time_ms()

    def _search(self, name: str) -> Search:
        if name not in self._searches:
            scale = self.scales[name]
            cells = scale.grid_hw[0] * scale.grid_hw[1]
            self._searches[name] = Search(rows=scale.memory, width=scale.width, queries=cells)
        return self._searches[name]


def scales_for(scales: Iterable[FeatureScale], *, strip: bool) -> list[str]:
    """The scales that look at a view: of a strip only those of whole views, which then have three tiles."""
    return [scale.name for scale in scales if scale.tiles == 1 or not strip]
