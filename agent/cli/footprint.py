"""What a process, and the machine under it, says of itself: age, memory, energy."""

import os
import time
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def process_age_s() -> float:
    """Seconds since the kernel started this process."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


def status_mb(key: str, pid: int | None = None) -> float:
    """A line of a process's status, such as VmRSS, in MB; NaN where there is none. Without a pid: this process's."""
    for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024, 1)
    return float("nan")


class EnergyMeter:
    """Joules that all processor packages took (RAPL), whoever ran on them."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        # `intel-rapl:0` is a package, on AMD too; `intel-rapl:0:0`, a part of it, would count twice
        self._zones = [zone for zone in sorted(powercap.glob("*-rapl:*")) if zone.name.count(":") == 1]
        self._before_uj = self._read_uj()

    def since_last_j(self) -> float | None:
        """Joules since the call before, or since this was made; None where the machine does not tell."""
        now_uj = self._read_uj()
        before_uj, self._before_uj = self._before_uj, now_uj
        if now_uj is None or before_uj is None:
            return None
        spent_uj = 0
        for zone, before, now in zip(self._zones, before_uj, now_uj, strict=True):
            wraps = now < before  # the counter starts again at the end of its range
            spent_uj += now - before + (int((zone / "max_energy_range_uj").read_text()) if wraps else 0)
        return spent_uj / 1e6

    def _read_uj(self) -> list[int] | None:
        try:
            return [int((zone / "energy_uj").read_text()) for zone in self._zones] or None
        except (OSError, ValueError):  # for root alone on many systems
            return None
