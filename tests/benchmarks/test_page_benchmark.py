"""The benchmark of the page runs: each part measures something, and writes the rows that it prints."""

import json
import math
import sys
from pathlib import Path

import page as benchmark
import pytest
from mosquitto_broker import free_port
from page_parts import browser


@pytest.mark.chaos
def test_table_and_rows_have_a_number_for_each_part(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.json"
    quick = ["--pages", "3", "--rounds", "1", "--seconds", "1.5", "--screen-seconds", "2", "--tab-seconds", "3"]
    bundles = ["--bundle", str(tiny_bundle), "--quick-bundle", str(tiny_bundle)]
    monkeypatch.setattr(benchmark, "COLD_LOADS", 2)
    monkeypatch.setattr(sys, "argv", ["page.py", *bundles, *quick, "--port", str(free_port()), "--json", str(out)])
    assert benchmark.main() == 0
    rows = {row["measure"]: row for row in json.loads(out.read_text())}
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1] for line in printed[2:]] == list(rows)
    many = "3 pages and a slow client"
    wanted = [
        "inspection without pages",
        f"agent's CPU for a result, {many}",
        "events that a page got",
        "pictures that a page got",
        f"frame to picture, {many}, p95",
        "agent's memory after pages",
    ]
    if browser.executable() is not None:
        wanted += ["cold load until usable, median", "frame to screen in Chromium, p95"]
        wanted += ["tab: results", "tab: frames", "tab: JavaScript's heap, last third", "tab: memory, last third"]
    assert all(rows[measure]["value"] > 0 for measure in wanted), rows
    assert not any(math.isnan(row["value"]) for row in rows.values()), rows
    assert rows[f"fall with {many}"]["most"] == 5.0
