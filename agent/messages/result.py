"""The result message, schema `zsad.result/1`, and the topics that messages travel on. Pure functions."""

import json
import math
from datetime import datetime
from importlib import resources
from typing import Any

from zsad_agent.system import utc_text
from zsad_core.types import Region, Verdict

RESULT_SCHEMA = "zsad.result/1"


def build_result(
    *,
    result_id: str,
    device_id: str,
    camera: str,
    seq: int,
    captured_at: datetime,
    product: str,
    prediction_score: float | None,
    threshold: float,
    verdict: Verdict,
    reason: str | None,
    regions: list[Region],
    frame_wh: tuple[int, int] | None,
    bundle_name: str,
    bundle_version: str,
    bundle_sha256: str,
    capture_to_result_ms: float | None,
    inference_ms: float | None,
    trigger_id: str | None = None,
) -> dict[str, Any]:
    """The result message of one part, valid under `result.schema.json`, ready for `json.dumps`.

    A score that is no score (NaN, infinite, outside [0, 1]) makes the message `unknown` with a null score, a reason
    and no regions, whatever verdict was passed in: it must not become a pass on its way out.

    Args:
        result_id: unique over restarts; the same when the result is sent again.
        captured_at: with a time zone; sent as UTC with milliseconds.
        prediction_score: anomaly score in [0, 1]; None where there was nothing to score (`verdict` is then `unknown`).
        reason: why the verdict is `unknown`; None with every other verdict.
        frame_wh: pixels; None where there was no frame.
        capture_to_result_ms: milliseconds; None where unknown. Likewise `inference_ms`.
        trigger_id: of the trigger that the result answers; the message has the property only where there is one.

    Raises:
        ValueError: a naive time, an unknown verdict without a reason, a reason or no score with another verdict, a
            threshold outside [0, 1], a negative latency, or a region that has no area.
    """
    if captured_at.tzinfo is None:
        raise ValueError(f"captured_at {captured_at.isoformat()} has no time zone: pass UTC")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")
    if verdict is Verdict.UNKNOWN and not reason:
        raise ValueError("an unknown verdict needs a reason")
    if verdict is not Verdict.UNKNOWN and reason is not None:
        raise ValueError(f"verdict {verdict.value!r} takes no reason, got {reason!r}")
    if verdict is not Verdict.UNKNOWN and prediction_score is None:
        raise ValueError(f"verdict {verdict.value!r} without a score: without one it is 'unknown'")
    score = None if prediction_score is None else float(prediction_score)
    if score is not None and not 0 <= score <= 1:  # true for NaN too
        reason = reason or f"the model's score is no number in [0, 1]: {score}"
        verdict, score, regions = Verdict.UNKNOWN, None, []
    message = {
        "schema": RESULT_SCHEMA,
        "id": result_id,
        "device_id": device_id,
        "camera": camera,
        "seq": int(seq),
        "captured_at": utc_text(captured_at),
        "product": product,
        "anomaly_score": score,
        "threshold": float(threshold),
        "verdict": verdict.value,
        "reason": reason,
        "regions": [_region(region) for region in regions],
        "frame_wh": None if frame_wh is None else [int(side) for side in frame_wh],
        "bundle": {"name": bundle_name, "version": bundle_version, "sha256": bundle_sha256},
        "latency_ms": {
            "capture_to_result": _latency(capture_to_result_ms),
            "inference": _latency(inference_ms),
        },
        "replayed": False,
    }
    return message if trigger_id is None else message | {"trigger_id": trigger_id}


def encode(message: dict[str, Any]) -> bytes:
    """UTF-8 JSON without spaces; of a text, as of a file's name, that is no UTF-8 with a `?` for what is not.

    Raises:
        ValueError: the message holds NaN or infinity, for which JSON has no word.
    """
    return json.dumps(message, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def mark_replayed(body: bytes) -> bytes:
    """The encoded result with `"replayed": true`."""
    return encode(json.loads(body) | {"replayed": True})


def result_json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every published result is valid under."""
    text = resources.files(__package__).joinpath("result.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _region(region: Region) -> dict[str, Any]:
    x, y, w, h = (int(value) for value in region.bbox_xywh)
    peak = float(region.peak)
    if x < 0 or y < 0 or w < 1 or h < 1 or not 0 <= peak <= 1:
        raise ValueError(f"a region needs x, y >= 0, w, h >= 1 and a peak in [0, 1], got {region}")
    return {"bbox_xywh": [x, y, w, h], "peak": peak}


def _latency(latency_ms: float | None) -> float | None:
    if latency_ms is None:
        return None
    if not (math.isfinite(latency_ms) and latency_ms >= 0):
        raise ValueError(f"a latency is a number of milliseconds from 0, got {latency_ms}")
    return round(float(latency_ms), 3)
