"""No file of a cracked part may pass, however damaged or unusual it is."""

import json
from collections import Counter
from pathlib import Path

import pytest
from cracked_parts import NOT_READ, SAVE_OPTIONS, cracked_parts

from zsad_agent.cli.main import main


@pytest.mark.parametrize(
    ("seed", "every"),  # the short version takes each fourth of the damaged files
    [(0, 4), *(pytest.param(seed, 1, marks=pytest.mark.chaos) for seed in range(6))],
)
def test_damaged_misdeclared_and_unusual_pictures_of_a_cracked_part_are_never_ok(
    seed: int, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, (name, data) in enumerate(cracked_parts(seed)):
        if number % every == 0 or name.startswith("whole-"):
            (parts / name).write_bytes(data)
    assert main(["score", str(parts), "--bundle", "zsad-tiny", "--json"]) == 1
    verdicts = {Path(row["path"]).name: row["verdict"] for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert set(verdicts) == {path.name for path in parts.iterdir()}  # none is skipped
    assert len(verdicts) > 1900 / every
    assert [name for name, verdict in verdicts.items() if verdict == "ok"] == []
    expected = {name: "unknown" if name in NOT_READ else "anomalous" for name in SAVE_OPTIONS}
    assert {name: verdicts[f"whole-{name}"] for name in SAVE_OPTIONS} == expected
    assert Counter(verdicts.values())["anomalous"] > 2 * len(SAVE_OPTIONS)
