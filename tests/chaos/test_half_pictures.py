"""A truncated image is never judged ok."""

import time

from test_camera_faults import BACK_WITHIN_S, Scene, scene  # noqa: F401


def test_half_an_image_is_not_ok(scene: Scene) -> None:  # noqa: F811
    began_s = time.time()
    scene.camera.mode = "half a picture"
    scene.await_verdict(began_s, True, BACK_WITHIN_S)
    time.sleep(1.0)  # further truncated images
    ended_s = time.time()
    scene.camera.mode = "good"
    scene.await_verdict(ended_s, False, BACK_WITHIN_S)
    verdicts = [(when - began_s, verdict) for when, verdict, _ in scene.results if began_s < when < ended_s]
    assert verdicts[-1][1] == "unknown"
    assert all(verdict == "unknown" for since_s, verdict in verdicts if since_s > 0.3)
    statuses = [arrival.payload for arrival in scene.witness.arrivals if arrival.topic.endswith("/cam0/status")]
    assert any(b"pictures are damaged" in status and b"the JPEG is truncated" in status for status in statuses)
