"""Whether a PLC may ask for the next part."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from mqtt_listener import wait_until

from zsad_agent.capture import CAMERA, INFERENCE, MODEL, CameraStatus
from zsad_agent.plant import PlantStations


@pytest.mark.parametrize(("part", "is_ready"), [(INFERENCE, True), (MODEL, False), (CAMERA, False)])
def test_a_single_failed_inference_does_not_close_the_handshake(part: str, is_ready: bool) -> None:
    """Nothing but the next part can show that the inference works again."""
    status = CameraStatus("cam0", lambda camera, said: None)
    capture = SimpleNamespace(trigger=lambda trigger_id: None, paused=False)
    station: Any = SimpleNamespace(
        name="cam0", status=status, capture=capture, inspector=SimpleNamespace(product="object")
    )
    commands: Any = None
    plant = PlantStations([station], lambda: commands, programs=(), result_timeout_s=1, ack_timeout_s=60)
    machine = plant.machines["cam0"]
    plant.start()
    try:
        machine.touch("modbus")
        wait_until(lambda: machine.outputs.trigger_ready)
        status.fault(part, "device GPU: out of memory")
        for _ in range(10):
            machine.touch("modbus")
            time.sleep(0.05)
        assert machine.outputs.trigger_ready == is_ready
        status.clear(part)
        wait_until(lambda: (machine.touch("modbus"), machine.outputs.trigger_ready)[1])
    finally:
        plant.stop(time.monotonic() + 10)
