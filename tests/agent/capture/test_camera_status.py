from typing import Any

from zsad_agent.capture import INFERENCE, CameraStatus
from zsad_agent.capture.camera_status import CAMERA


def test_status_is_published_only_when_it_changes() -> None:
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


def test_pause_is_reported_and_does_not_hide_a_fault() -> None:
    said: list[dict[str, Any]] = []
    status = CameraStatus("cam0", lambda camera, state: said.append(state))
    status.clear(CAMERA)
    status.pause(True)
    status.pause(True)
    status.fault(CAMERA, "gone")
    assert status.text == "paused: gone"
    status.pause(False)
    status.clear(CAMERA)
    assert [(state["state"], state["reason"]) for state in said] == [
        ("ok", None),
        ("paused", None),
        ("paused", "gone"),
        ("degraded", "gone"),
        ("ok", None),
    ]


def test_reason_is_replaced_only_on_request() -> None:
    status = CameraStatus("cam0", lambda camera, state: None)
    assert status.fault(CAMERA, "first")
    assert not status.fault(CAMERA, "second")
    assert status.text == "degraded: first"
    status.fault(CAMERA, "third", replace=True)
    assert status.text == "degraded: third"
    assert status.clear(CAMERA) and not status.clear(CAMERA)
