import os
from pathlib import Path

import pytest

from zsad_agent.system import EnergyMeter, process_age_s, status_mb


def zone(powercap: Path, name: str, energy_uj: int) -> Path:
    folder = powercap / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "max_energy_range_uj").write_text("10000000\n")
    return folder


def test_a_machine_without_meters_tells_nothing(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).since_last_j() is None


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):
        zone(tmp_path, name, 1_000_000)
    meter = EnergyMeter(tmp_path)
    for name, energy_uj in (("intel-rapl:0", 3_000_000), ("intel-rapl:0:0", 2_000_000), ("intel-rapl:1", 1_500_000)):
        zone(tmp_path, name, energy_uj)
    assert meter.since_last_j() == pytest.approx(2.5)
    assert meter.since_last_j() == 0


def test_a_counter_that_began_again_counts_on(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 9_000_000)
    meter = EnergyMeter(tmp_path)
    zone(tmp_path, "intel-rapl:0", 1_000_000)
    assert meter.since_last_j() == pytest.approx(2.0)


def test_a_meter_that_goes_away_tells_nothing(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 1)
    meter = EnergyMeter(tmp_path)
    (folder / "energy_uj").unlink()
    assert meter.since_last_j() is None


def test_age_and_memory_of_this_process() -> None:
    assert process_age_s() > 0
    assert status_mb("VmRSS", os.getpid()) > 5
    assert status_mb("VmRSS") == pytest.approx(status_mb("VmRSS", os.getpid()), rel=0.2)
