"""A device with a store of profiles, for tests of the predictor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from taught_fakes import MAP_HW, ColourNetworks, PlainDetector, good_part

from zsad_agent.config import InferenceConfig
from zsad_agent.messages import BundleName
from zsad_agent.teaching import (
    ProductPredictor,
    Profile,
    ProfileStore,
    teach,
)

CONFIG = InferenceConfig()
GOODS = [(f"{seed}.png", good_part(seed)) for seed in range(20)]
OTHER = BundleName(name="before", version="0.9", sha256="cd" * 32)


class Line:
    """A device with a store of profiles."""

    def __init__(self, folder: Path) -> None:
        self.store = ProfileStore(folder / "profiles")
        self.detector: Any = PlainDetector()
        self.networks: Any = ColourNetworks()
        self.networks.bundle.manifest.model = type("Facts", (), {"map_hw": MAP_HW})

    def teach(self, product: str = "nut", **changes: Any) -> Profile:
        taught = teach(GOODS, product=product, networks=self.networks, detector=self.detector)
        return self.store.add(replace(taught.profile, **changes))

    def start(self, *, networks: bool = True, **options: Any) -> ProductPredictor:
        return ProductPredictor(
            self.detector,
            self.networks if networks else None,
            self.store,
            CONFIG,
            taught=self.store.products(),
            **options,
        )

    def number(self) -> int | None:
        """Of the profile in use."""
        return self.store.entry("nut").number
