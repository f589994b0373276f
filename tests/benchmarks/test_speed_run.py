import json
import subprocess
import sys
from pathlib import Path

import pytest
from speed_parts.contenders import Contender, build, cost, frames, load

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_missing_bundle_is_a_row_with_the_reason(tiny_bundle: Path, tmp_path: Path) -> None:
    report_file = tmp_path / "speed.json"
    command = [sys.executable, str(BENCHMARKS / "speed.py"), str(tiny_bundle), str(tmp_path / "nothing"), "--against"]
    command += ["--threads", "1", "--rounds", "2", "--turn", "0.05", "--gaps", "0", "--starts", "1"]
    command += ["--work", str(tmp_path / "work"), "--json", str(report_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    report = json.loads(report_file.read_text())
    darkness, missing, sgemm = report["rows"]
    assert "nothing" in missing["error"] and "did not run" in done.stdout
    for row in (darkness, sgemm):
        assert row["error"] is None and row["latency_ms"]["p50"] > 0 and len(row["round_p50_ms"]) == 2
    assert darkness["agent"]["rss_mb"] > 50 and darkness["agent"]["first_verdict_s"]["median"] > 0
    assert sgemm["share_of_sgemm"] == pytest.approx(1)
    assert "| darkness |" in done.stdout


def test_a_vit_with_random_weights_is_built_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setattr("speed_parts.contenders.VIT_SIDE", 128)
    monkeypatch.chdir(tmp_path)  # the compiled models are cached in the current folder
    vit = Contender(name="vit", kind="vit", what="test_vit")
    build(vit, tmp_path)
    score, anomaly_map = load(vit, tmp_path, threads=1)(frames()[0])
    assert 0 <= score <= 1 and anomaly_map.shape == (128, 128)
    assert cost(vit, tmp_path)["gflop"] > 0.01


@pytest.mark.parametrize("flag", ["--rounds", "--turn", "--starts", "--threads"])
def test_invalid_counts_are_refused(flag: str) -> None:
    command = [sys.executable, str(BENCHMARKS / "speed.py"), flag, "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and flag in done.stderr
