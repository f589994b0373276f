from pathlib import Path

import pytest
from chaos_record import record
from chaos_table import HEAD, as_table


def test_no_records_make_an_empty_table() -> None:
    assert as_table([]) == HEAD


def test_each_record_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "chaos.jsonl"
    monkeypatch.setenv("ZSAD_CHAOS_RESULTS", str(file))
    record("broker killed", tried=3, lost=0, doubled=2, recover_s=[1.0, 4.0, 2.0], note="a | b")
    record("soak", tried=1, lost=0, doubled=0, recover_s=None)
    assert as_table(file.read_text().splitlines()) == HEAD + (
        "| broker killed | 3 | 0 | 2 | 2.00 / 4.00 | a \\| b |\n| soak | 1 | 0 | 0 | - |  |\n"
    )
