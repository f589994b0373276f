import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tiny_bundle_maker import make_tiny_bundle
from tiny_features import add_tiny_features

from zsad_agent.cli.main import main
from zsad_agent.tools import bench


def test_bench_reports_every_figure_of_the_contract(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    asked: list[str] = []
    monkeypatch.setattr("zsad_agent.tools.bench.keep_memory_small", lambda: asked.append("memory as in the daemon"))
    assert main(["bench", "--bundle", str(tiny_bundle), "--seconds", "1", "--threads", "1", "--json"]) == 0
    assert asked == ["memory as in the daemon"]
    report = json.loads(capsys.readouterr().out)
    for key in ("raw", "pipeline", "after_1_s_idle"):
        latency_ms = report[key]["latency_ms"]
        assert 0 < latency_ms["p50"] <= latency_ms["p95"] <= latency_ms["p99"]
    assert report["raw"]["per_second"] > 1 and report["pipeline"]["per_second"] > 1
    assert report["pipeline_to_raw"] == pytest.approx(
        report["pipeline"]["per_second"] / report["raw"]["per_second"], rel=0.01
    )
    assert report["levels"] == []  # the bundle has no feature networks
    assert report["energy_j"] is None or report["energy_j"] > 0  # many machines have no energy counter
    assert report["start_up_s"] > 0 and 10 < report["rss_mb"] <= report["peak_rss_mb"]


def test_raw_inference_and_pipeline_take_turns_so_that_load_affects_both(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(bench, "ROUND_S", 0.1)
    turns: list[str] = []

    def noted(name: str, turn: Callable[..., Any]) -> Callable[..., Any]:
        def take(*arguments: Any) -> Any:
            turns.append(name)
            return turn(*arguments)

        return take

    monkeypatch.setattr(bench, "_turn", noted("raw", bench._turn))
    monkeypatch.setattr(bench, "_pipeline_turn", noted("pipeline", bench._pipeline_turn))
    assert main(["bench", "--bundle", str(tiny_bundle), "--seconds", "1", "--threads", "1", "--json"]) == 0
    assert turns == ["raw", "pipeline"] * 4 + ["raw"]  # the last one measures idle gaps
    report = json.loads(capsys.readouterr().out)
    assert report["raw"]["pictures"] >= 4 and report["pipeline"]["pictures"] >= 4


def test_bench_prints_a_readable_table(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    assert main(["bench", "--bundle", str(tiny_bundle), "--seconds", "1"]) == 0
    table = capsys.readouterr().out
    for text in (
        "darkness 0.0.1 on CPU",
        "raw inference",
        "whole pipeline",
        "on 1 thread",
        "energy",
        "start-up",
        "memory",
    ):
        assert text in table


def test_bench_stores_the_faster_of_two_models_and_later_runs_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle", slow=True, int8_scale=0.5)
    picture = tmp_path / "black.png"
    cv2.imwrite(str(picture), np.zeros((64, 64, 3), np.uint8))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))

    def score() -> float:
        assert main(["score", str(picture), "--bundle", str(bundle), "--json", "--unchecked"]) == 0
        return float(json.loads(capsys.readouterr().out)["anomaly_score"])

    assert score() == pytest.approx(1.0, abs=1e-6)  # the main model
    assert main(["bench", "--bundle", str(bundle), "--seconds", "2", "--threads", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    medians = {name: figures["latency_ms"]["p50"] for name, figures in report["models"].items()}
    assert medians["int8"] < 0.95 * medians["fp"]
    assert report["model"] == "int8"
    assert score() == pytest.approx(0.5, abs=1e-6)
    assert main(["bench", "--bundle", str(bundle), "--seconds", "2", "--threads", "1"]) == 0
    assert "int8 model" in capsys.readouterr().out


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "much"])
def test_bench_refuses_an_invalid_time(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--seconds", seconds]) == 2
    assert "--seconds" in capsys.readouterr().err


def test_bench_shows_the_time_of_each_level_of_a_taught_product(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    bundle = add_tiny_features(make_tiny_bundle(tmp_path / "bundle"))
    assert main(["bench", "--bundle", str(bundle), "--seconds", "1", "--threads", "1", "--json"]) == 0
    levels = json.loads(capsys.readouterr().out)["levels"]
    assert [level["scales"] for level in levels] == [["colour-whole"], ["colour-whole", "colour-tiles"]]
    assert all(level["pictures"] > 0 and level["latency_ms"]["p50"] > 0 for level in levels)
