"""The shipped bundles on the pictures of the demo."""

import json
from pathlib import Path

import pytest

from zsad_agent.cli.main import main

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("bundle", sorted((ROOT / "agent/bundles").iterdir()), ids=lambda path: path.name)
def test_every_cracked_part_of_the_demo_scores_above_every_good_one(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    assert main(["score", str(ROOT / "demo/stream"), "--bundle", str(bundle), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    cracked = [row for row in rows if "cracked" in row["path"]]
    whole = [row for row in rows if "whole" in row["path"]]
    assert (len(cracked), len(whole)) == (6, 6)
    assert min(row["anomaly_score"] for row in cracked) > max(row["anomaly_score"] for row in whole)
    assert {row["verdict"] for row in cracked} == {"anomalous"}
    assert {row["verdict"] for row in whole} == {"ok"}
