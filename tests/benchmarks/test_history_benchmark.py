"""The benchmark of the history runs, and its questions find what they should."""

import sys
from pathlib import Path

import history as benchmark
import pytest


def test_every_question_is_asked_and_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["history.py", "--results", "3000", "--repeats", "2", "--keep", str(tmp_path)]
    for _ in range(2):  # the second time it uses the file that is there
        monkeypatch.setattr(sys, "argv", arguments)
        assert benchmark.main() == 0
        lines = capsys.readouterr().out.splitlines()
        cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
        found = {words: int(count) for words, count, *_ in cells}
        assert set(found) == set(benchmark.questions(3000))
        assert found["page of 50: no filter"] == found["page of 50: name: part of half of them"] == 50
        assert found["page of 50: rare product"] == found["one result by its id"] == 1
        assert found["page of 50: name and camera that exclude each other"] == 0
        assert found["report by day, everything"] == 4
