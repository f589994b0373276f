"""An agent that a PLC triggers. Its camera is a folder of two pictures; the second is defective."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from agent_process import AgentProcess
from mqtt_listener import MqttListener

VERDICTS = {"ok": "ok", "ng": "anomalous", "unknown": "unknown"}  # of a `ModbusPlc` -> of a result


def plc_agent(
    folder: Path, bundle: Path, broker: str, port: int, *, plant: str = "", more: str = "", host: str = "127.0.0.1",
    wrapper: Sequence[str] = (),
) -> AgentProcess:  # fmt: skip
    """Not started yet. Modbus is at `port`; `plant` are further lines of that section, `more` other sections."""
    return AgentProcess(
        folder,
        bundle,
        settings=f"mqtt:\n  broker: {broker}\n"
        f"source: {{source: {two_pictures(folder / 'pictures')}, loop: true, trigger: plc}}\n"
        f"plant:\n  modbus: {{listen: '{host}:{port}'}}\n  {plant}\n{more}",
        wrapper=wrapper,
    )


def two_pictures(folder: Path) -> Path:
    """A good and a defective one."""
    folder.mkdir(exist_ok=True)
    for number in range(2):
        image = np.full((240, 320, 3), 250, np.uint8)
        cv2.circle(image, (160, 120), 100, (200, 200, 200), 5)
        if number:
            image[60:120, 80:160] = 0
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def plc_results(listener: MqttListener) -> dict[str, dict[str, Any]]:
    """The different results of triggers of a PLC, by their id."""
    results = [json.loads(payload) for topic, payload in list(listener.messages) if topic.endswith("/result")]
    return {result["id"]: result for result in results if result.get("trigger_id", "").startswith("plc-")}


def results_by_part(listener: MqttListener) -> dict[int, list[dict[str, Any]]]:
    """Part number -> its different results."""
    found = defaultdict(list)
    for result in plc_results(listener).values():
        if part := result["trigger_id"].partition("-part-")[2]:
            found[int(part)].append(result)
    return dict(found)
