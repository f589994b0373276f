"""Results in the inspector's form."""

from datetime import UTC, datetime, timedelta
from typing import Any

from zsad_agent.messages import BundleName, FoundRegion, Latency, Result
from zsad_agent.mqtt import Publisher
from zsad_core.types import Verdict

START = datetime(2026, 11, 25, 10, 28, 3, tzinfo=UTC)
SCORES = {Verdict.OK: 0.1, Verdict.ANOMALOUS: 0.9, Verdict.UNKNOWN: None}


def make_result(seq: int = 1, *, verdict: Verdict = Verdict.ANOMALOUS, **changes: Any) -> Result:
    """Result `seq` of cam0 of line3, captured `seq` milliseconds after `START`. The score fits the verdict."""
    fields: dict[str, Any] = {
        "id": f"line3-b1-{seq}",
        "device_id": "line3",
        "camera": "cam0",
        "seq": seq,
        "captured_at": START + timedelta(milliseconds=seq),
        "product": "object",
        "anomaly_score": SCORES[verdict],
        "threshold": 0.5,
        "verdict": verdict,
        "reason": "dark" if verdict is Verdict.UNKNOWN else None,
        "regions": (FoundRegion(bbox_xywh=(1, 2, 3, 4), peak=0.9),) if verdict is Verdict.ANOMALOUS else (),
        "frame_wh": (640, 480),
        "bundle": BundleName(name="test", version="1", sha256="0" * 64),
        "latency_ms": Latency(capture_to_result=4.0, inference=3.0),
    }
    return Result(**(fields | changes))


def accept(publisher: Publisher, result: Result, heatmap: bytes | None) -> None:
    """Passes one result as the pipeline passes many."""
    publisher.accept_all([(result, heatmap)], [None])
