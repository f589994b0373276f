"""Teaches or runs one method in its own process, so the process's memory is that of the method. `teach.py` starts it.

METHOD FOLDER teach THREADS    reads one line of JSON, teaches, and prints one line of JSON
METHOD FOLDER serve THREADS    reads lines of JSON, and prints the answer to each as a line of JSON
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from speed_parts.contenders import Predict
from speed_parts.worker import turn
from teach_parts.methods import Lesson, Method, load_taught, teach

from zsad_agent.system import status_mb
from zsad_core.data import Sample
from zsad_core.errors import ImageError, ZsadError
from zsad_core.judging import PixelMetrics
from zsad_core.picture import resize_map

TIMED_PICTURES = 8


def as_sample(fields: Mapping[str, Any]) -> Sample:
    """A sample from the JSON of its fields."""
    mask = fields["mask"]
    return Sample(**{**fields, "image": Path(fields["image"]), "mask": None if mask is None else Path(mask)})


def judge(predict: Predict, samples: Sequence[Sample], *, pixels: bool) -> dict[str, Any]:
    """The score of each picture, the number of pictures without a verdict, and (`pixels`) the AP of all their pixels.

    A picture that a method refuses, because it sees no part, counts as a reject: score and map are 1. The AP is None
    without masks; defective pictures without one are left out of it.
    """
    scores, unknown, metrics = [], 0, PixelMetrics()
    for sample in samples:
        image, mask = sample.load()
        try:
            score, anomaly_map = predict(image)
        except ImageError:
            score, anomaly_map, unknown = 1.0, np.ones((1, 1), np.float32), unknown + 1
        if not np.isfinite(anomaly_map).all():
            raise SystemExit("the map has values that are not finite")
        scores.append(score)
        if pixels and sample.has_pixel_truth:
            metrics.update(resize_map(anomaly_map, mask.shape[::-1]), mask)
    found = metrics.result()
    return {"scores": scores, "unknown": unknown, "pixel_ap": found.ap if found else None}


def main() -> None:
    """See the module's docstring."""
    method, folder, action = Method(**json.loads(sys.argv[1])), Path(sys.argv[2]), sys.argv[3]
    threads = int(sys.argv[4])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries goes to stderr, away from the answers

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    if action == "teach":
        asked = json.loads(sys.stdin.readline())
        goods, weights = [Path(path) for path in asked.pop("goods")], asked.pop("weights")
        lesson = Lesson(goods=goods, weights=weights and Path(weights), threads=threads, **asked)
        try:
            facts = teach(method, lesson, folder)
            answer({"teach_rss_mb": status_mb("VmHWM")} | facts)
        except ZsadError as error:
            answer({"refused": str(error)})
        return
    predict = load_taught(method, folder, threads)
    for line in sys.stdin:
        asked = json.loads(line)
        samples = [as_sample(fields) for fields in asked["samples"]]
        if "seconds" in asked:
            pictures = [sample.load()[0] for sample in samples[:TIMED_PICTURES]]
            answer(turn(predict, pictures, asked["seconds"], gaps=0))
        else:
            answer(judge(predict, samples, pixels=asked["pixels"]))


if __name__ == "__main__":
    main()
