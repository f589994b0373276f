"""Makes the table of docs/reliability.md from the lines of `chaos_record`: `python chaos_table.py FILE`."""

import json
import statistics
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEAD = "| Fault | Tried | Lost | Doubled | Time to recover, s (median / worst) | |\n|---|---:|---:|---:|---|---|\n"


def as_table(lines: Iterable[str]) -> str:
    """Markdown, one row for each line, in their order."""
    return HEAD + "".join(_row(json.loads(line)) for line in lines if line.strip())


def _row(entry: dict[str, Any]) -> str:
    seconds = entry["recover_s"]
    recovery = f"{statistics.median(seconds):.2f} / {max(seconds):.2f}" if seconds else "-"
    cells = [entry["fault"], entry["tried"], entry["lost"], entry["doubled"], recovery, entry["note"]]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    sys.stdout.write(as_table(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()))
