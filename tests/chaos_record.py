"""Records the counts of the chaos tests: one JSON object a line in the file that ZSAD_CHAOS_RESULTS names."""

import json
import os
from pathlib import Path


def record(fault: str, *, tried: int, lost: int, doubled: int, recover_s: list[float] | None, note: str = "") -> None:
    """Appends one line; does nothing without ZSAD_CHAOS_RESULTS.

    Args:
        tried: number of faults.
        lost: accepted results that were not found afterwards, in all tries.
        doubled: results that arrived more than once with the same id.
        recover_s: seconds from the end of each fault to normal work; None if there is no wait.
        note: further facts for the reader.
    """
    target = os.environ.get("ZSAD_CHAOS_RESULTS")
    if not target:
        return
    seconds = None if recover_s is None else [round(value, 3) for value in recover_s]
    line = json.dumps(
        {"fault": fault, "tried": tried, "lost": lost, "doubled": doubled, "recover_s": seconds, "note": note}
    )
    with Path(target).open("a", encoding="utf-8") as file:
        file.write(line + "\n")
