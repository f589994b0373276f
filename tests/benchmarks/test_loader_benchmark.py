"""The benchmark of the loader runs on a small data set."""

import re
import sys

import pytest

pytest.importorskip("torch")

import loader as benchmark
from mvtec_tree import make_mvtec_tree


def test_the_loader_is_measured_with_and_without_augmentation(tmp_path, monkeypatch, capsys):
    data = make_mvtec_tree(tmp_path / "drawn", good=2, bad=2)
    flags = ["--images", "8", "--batch-size", "4", "--workers", "1", "--input-size", "64", "--gpu-rate", "1e9"]
    monkeypatch.setattr(sys, "argv", ["loader.py", "--data", str(data), *flags])
    benchmark.main()
    rows = re.findall(r"^\| (none|full) \| 1 \| (\d+) \| ([\d.]+) \| (\d+) \|$", capsys.readouterr().out, re.MULTILINE)
    assert [row[0] for row in rows] == ["none", "full"]
    for _, rate, of_worker, needed in rows:
        assert float(rate) > 0
        assert int(needed) == pytest.approx(1e9 / float(of_worker), rel=0.05)
