"""Which version of MQTT to speak with a broker of which we do not know what it speaks."""

import time
from collections.abc import Callable
from typing import Literal

from paho.mqtt.enums import MQTTProtocolVersion

Setting = Literal["auto", "5", "3.1.1"]

MEMORY_S = 3600.0  # a broker that was updated, or was only starting up when it hung up on us, gets MQTT 5 again


class ProtocolChoice:
    """MQTT 5 first; 3.1.1 for a while with a broker that let us in only so."""

    def __init__(
        self, setting: Literal["auto", "5", "3.1.1"], *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._setting = setting
        self._clock_s = clock_s
        self._old_until_s: float | None = None

    def to_try(self) -> tuple[MQTTProtocolVersion, ...]:
        """Versions for the next attempt, one after the other as long as the broker does not know the one before."""
        old, new = MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5
        if self._setting != "auto":
            return (new,) if self._setting == "5" else (old,)
        if self._old_until_s is not None and self._clock_s() < self._old_until_s:
            return (old,)
        return (new, old)

    def worked(self, protocol: MQTTProtocolVersion) -> None:
        """The broker has let us in."""
        if protocol == MQTTProtocolVersion.MQTTv5:
            self._old_until_s = None
        elif self._old_until_s is None or self._clock_s() >= self._old_until_s:
            self._old_until_s = self._clock_s() + MEMORY_S

    def failed(self) -> None:
        """The broker has let us in with none."""
        self._old_until_s = None
