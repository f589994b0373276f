"""Age and memory of a process, and energy of the machine."""

import os
import time
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


def process_age_s() -> float:
    """Seconds since the kernel started this process."""
    started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started_ticks / os.sysconf("SC_CLK_TCK")


def status_mb(key: str, pid: int | None = None) -> float:
    """A line of a process's status, such as VmRSS, in MB; NaN if there is none. Without a pid: this process."""
    for line in Path(f"/proc/{pid or 'self'}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return round(int(line.split()[1]) / 1024, 1)
    return float("nan")


class EnergyMeter:
    """Joules that all processor packages used (RAPL), for all processes."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        # `intel-rapl:0` is a package, also on AMD; `intel-rapl:0:0` is a part of it and would be counted twice
        self._zones = [zone for zone in sorted(powercap.glob("*-rapl:*")) if zone.name.count(":") == 1]
        self._before_uj = self._read_uj()

    def since_last_j(self) -> float | None:
        """Joules since the previous call, or since the constructor; None if the machine does not report them."""
        now_uj = self._read_uj()
        before_uj, self._before_uj = self._before_uj, now_uj
        if now_uj is None or before_uj is None:
            return None
        spent_uj = 0
        for zone, before, now in zip(self._zones, before_uj, now_uj, strict=True):
            wraps = now < before  # the counter wraps at the end of its range
            spent_uj += now - before + (int((zone / "max_energy_range_uj").read_text()) if wraps else 0)
        return spent_uj / 1e6

    def _read_uj(self) -> list[int] | None:
        try:
            return [int((zone / "energy_uj").read_text()) for zone in self._zones] or None
        except (OSError, ValueError):  # on many systems only root can read it
            return None
