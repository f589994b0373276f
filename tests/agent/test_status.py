from typing import Any

from zsad_agent.status import CAMERA, INFERENCE, CameraStatus


def test_status_is_published_at_changes_only() -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    status = CameraStatus("cam0", lambda camera, state: said.append((camera, state)))
    status.clear(INFERENCE)
    assert said == []
    status.clear(CAMERA)
    status.clear(CAMERA)
    status.fault(CAMERA, "gone")
    status.fault(CAMERA, "gone, attempt 2")
    assert status.text == "degraded: gone"
    status.fault(INFERENCE, "NaN")
    status.clear(CAMERA)
    status.clear(INFERENCE)
    assert [(state["state"], state["reason"]) for _, state in said] == [
        ("ok", None),
        ("degraded", "gone"),
        ("degraded", "gone; NaN"),
        ("degraded", "NaN"),
        ("ok", None),
    ]
    assert status.text == "ok"
    assert all(camera == "cam0" and state["since"].endswith("Z") for camera, state in said)
