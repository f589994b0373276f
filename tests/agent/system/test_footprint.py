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


def test_a_machine_without_energy_counters_reports_no_energy(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).since_last_j() is None


def test_energy_of_packages_is_added_without_their_parts(tmp_path: Path) -> None:
    for name in ("intel-rapl:0", "intel-rapl:0:0", "intel-rapl:1"):
        zone(tmp_path, name, 1_000_000)
    meter = EnergyMeter(tmp_path)
    for name, energy_uj in (("intel-rapl:0", 3_000_000), ("intel-rapl:0:0", 2_000_000), ("intel-rapl:1", 1_500_000)):
        zone(tmp_path, name, energy_uj)
    assert meter.since_last_j() == pytest.approx(2.5)
    assert meter.since_last_j() == 0


def test_energy_continues_after_a_counter_restarts_at_zero(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 9_000_000)
    meter = EnergyMeter(tmp_path)
    zone(tmp_path, "intel-rapl:0", 1_000_000)
    assert meter.since_last_j() == pytest.approx(2.0)


def test_an_energy_counter_that_disappears_reports_no_energy(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", 1)
    meter = EnergyMeter(tmp_path)
    (folder / "energy_uj").unlink()
    assert meter.since_last_j() is None


def test_age_and_memory_of_this_process() -> None:
    assert process_age_s() > 0
    assert status_mb("VmRSS", os.getpid()) > 5
    assert status_mb("VmRSS") == pytest.approx(status_mb("VmRSS", os.getpid()), rel=0.2)
