"""Runs one contender in its own process, so the process's memory is that of the contender. `speed.py` starts it.

CONTENDER FOLDER build|cost      builds or counts FLOP, then prints one line of JSON
CONTENDER FOLDER serve THREADS   prints a line of JSON after the first frame; then reads lines of JSON, runs a turn for
                                 each, and prints its result as a line of JSON
"""

import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from speed_parts.contenders import FRAME_WH, Contender, Predict, build, cost, frames, load, timed

from zsad_agent.system import EnergyMeter, process_age_s, status_mb

GAP_S = 1.0
FEWEST_FRAMES = 2  # per turn, also for a slow contender


def turn(predict: Predict, pictures: list[np.ndarray], seconds: float, gaps: int) -> dict[str, Any]:
    """Frames without pauses for about `seconds`, then frames after pauses.

    The first frame is not timed: the CPU caches still hold data of the previous contender.
    """
    predict(pictures[0])
    energy = EnergyMeter()
    cpu_started_s, deadline_s = time.process_time(), time.perf_counter() + seconds
    loop_ms: list[float] = []
    for picture in itertools.cycle(pictures):
        loop_ms.append(timed(predict, picture))
        if len(loop_ms) >= FEWEST_FRAMES and time.perf_counter() >= deadline_s:
            break
    energy_j = energy.since_last_j()
    cpu_ms = (time.process_time() - cpu_started_s) * 1000 / len(loop_ms)
    gap_ms = []
    for index in range(gaps):
        time.sleep(GAP_S)
        gap_ms.append(timed(predict, pictures[index % len(pictures)]))
    return {
        "loop_ms": loop_ms,
        "gap_ms": gap_ms,
        "cpu_ms": cpu_ms,
        "energy_j": None if energy_j is None else energy_j / len(loop_ms),
        "rss_mb": status_mb("VmRSS"),
        "peak_rss_mb": status_mb("VmHWM"),
    }


def main() -> None:
    """See the module's docstring."""
    contender, folder, action = Contender(**json.loads(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries goes to stderr, away from the answers

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    if action == "build":
        build(contender, folder)
        answer({})
    elif action == "cost":
        answer(cost(contender, folder))
    else:
        predict = load(contender, folder, int(sys.argv[4]))
        _, anomaly_map = predict(np.full((FRAME_WH[1], FRAME_WH[0], 3), 127, np.uint8))
        answer({"first_verdict_s": process_age_s(), "map_shape": list(anomaly_map.shape)})
        pictures = frames()
        for line in sys.stdin:
            answer(turn(predict, pictures, **json.loads(line)))


if __name__ == "__main__":
    main()
