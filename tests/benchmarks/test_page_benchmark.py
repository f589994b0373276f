"""The benchmark of the page runs: every kind of turn has results, and pages see them."""

import sys
from pathlib import Path

import page as benchmark
import pytest
from mosquitto_broker import free_port


def test_every_turn_has_results_and_the_pages_see_them(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark.os, "nice", lambda more: 0)  # of this process, which runs other tests too
    arguments = ["--bundle", str(tiny_bundle), "--pages", "3", "--seconds", "1.5", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["page.py", *arguments, "--port", str(free_port())])
    assert benchmark.main() == 0
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["no page", "1 page", "3 pages, 1 slow client"]
    assert all(float(row[1]) > 0 for row in rows)
    assert rows[0][4] == "nan ms" and all(float(row[column].split()[0]) > 0 for row in rows[1:] for column in (4, 5))
