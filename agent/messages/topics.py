"""The topics that messages travel on. Pure functions."""

from dataclasses import dataclass

from zsad_core.config import RecordModel

ONLINE, OFFLINE = "online", "offline"
AVAILABLE, STATS = "available", "stats"  # topics of the device


@dataclass(frozen=True, slots=True)
class Topics:
    """Every topic that the agent publishes on, under `<prefix>/<device_id>`."""

    prefix: str
    device_id: str

    @property
    def base(self) -> str:
        return f"{self.prefix}/{self.device_id}"

    @property
    def available(self) -> str:
        return self.below(AVAILABLE)

    def below(self, suffix: str) -> str:
        """`suffix` below the device's own topic."""
        return f"{self.prefix}/{self.device_id}/{suffix}"

    def result(self, camera: str) -> str:
        return f"{self.prefix}/{self.device_id}/{camera}/result"

    def heatmap(self, camera: str) -> str:
        return f"{self.prefix}/{self.device_id}/{camera}/heatmap"

    def evidence(self, camera: str, result_id: str) -> str:
        return f"{self.prefix}/{self.device_id}/{camera}/evidence/{result_id}"


class Published(RecordModel):
    """Where an agent has published last: the base of its topics, and its instance in the statistics there."""

    base: str
    instance: str
    elsewhere: tuple[str, ...] = ()  # further topics with retained messages, such as those for Home Assistant
