"""A controller with fake parts around it, for tests."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_controls import FakeControls, FakePublisher

from zsad_agent.config import AgentConfig, ControlConfig, HeatmapConfig
from zsad_agent.control import Controller, Nonces, StoredSettings
from zsad_agent.spool import SpoolClock

NOW_S = 1_800_000_000.0


class Clocks:
    def __init__(self) -> None:
        self.now_s = NOW_S
        self.monotonic_s = 0.0

    def monotonic(self) -> float:
        """Clocks that advance by a second at each call, so that no test exceeds the limit of commands a second."""
        self.monotonic_s += 1
        return self.monotonic_s


class Plant:
    """A controller with fake parts around it; a second `start` is a restart with the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bundles = folder / "bundles"
        for name in ("v2", "bad", "slow"):
            (self.bundles / name).mkdir(parents=True)
        self.clocks = Clocks()
        self.next_id = 0
        self.plain = False
        self.bundle_dir: Path | None = self.bundles
        self.heatmap = HeatmapConfig()

    def start(
        self,
        controls: FakeControls | None = None,
        *,
        monotonic: Callable[[], float] | None = None,
        **more: Any,
    ) -> Controller:
        self.controls = controls or FakeControls()
        self.publisher = FakePublisher()
        clock = SpoolClock(wall_s=lambda: self.clocks.now_s, boot_s=lambda: self.clocks.now_s, boot_id="boot")
        self.stored = StoredSettings(self.folder / "settings.json", clock=clock)
        self.nonces = Nonces()
        self.clocks.now_s += 1
        control = ControlConfig(enabled=True, max_age_s=30.0, plain=self.plain, bundle_dir=self.bundle_dir)
        return Controller(
            self.controls,
            self.publisher,
            AgentConfig(device_id="line3", control=control, heatmap=self.heatmap),
            self.stored,
            nonces=self.nonces,
            clock=clock,
            monotonic=monotonic or self.clocks.monotonic,
            **more,
        )

    def payload(self, value: object, **fields: object) -> bytes:
        self.next_id += 1
        return json.dumps({"value": value, "id": f"c{self.next_id}", "sent_at": self.clocks.now_s} | fields).encode()

    def ask(self, setting: str, value: object, **fields: object) -> dict[str, Any]:
        return self.publisher.ask(setting, self.payload(value, **fields))
