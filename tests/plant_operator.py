"""An operator who sends commands to an agent over MQTT and receives all its messages."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from agent_process import DEVICE
from mqtt_listener import MqttListener

BASE = f"zsad/{DEVICE}"
PATIENCE_S = 120.0


class PlantOperator(MqttListener):
    """A listener that sends commands and waits for their answers."""

    sent = 0

    def send(self, setting: str, value: object, *, retain: bool = False) -> bytes:
        """Sends a command with the id `command-N`; gives its payload."""
        self.sent += 1
        payload = json.dumps({"value": value, "id": f"command-{self.sent}", "sent_at": time.time()}).encode()
        self.publish(f"{BASE}/{setting}/set", payload, retain=retain)
        return payload

    def command(self, setting: str, value: object = None) -> dict[str, Any]:
        """Sends a command; gives the state that answers it."""
        command_id = json.loads(self.send(setting, value))["id"]
        return self.state_where(setting, lambda state: state["id"] == command_id)

    def reload(self) -> None:
        """Sends `reload`; returns when the agent accepts commands again."""
        topic = f"{BASE}/reload/state"
        assert self.command("reload")["error"] is None
        self.wait_for(lambda: json.loads(self.payloads(topic)[-1])["id"] is None, PATIENCE_S)

    def wait_until_heard(self, starts: int) -> None:
        """Waits until the agent accepts commands in its `starts`th process; states of earlier ones do not count."""

        def heard() -> bool:
            came = [number for number, (topic, text) in enumerate(self.messages) if text == b"online"]
            return len(came) >= starts and f"{BASE}/bundle/state" in self.topics[came[starts - 1] :]

        self.wait_for(heard, PATIENCE_S)

    def state_where(self, setting: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """The first state of the setting that fits, received before or after the call."""
        found: list[dict[str, Any]] = []

        def arrived() -> bool:
            found[:] = [state for state in map(json.loads, self.payloads(f"{BASE}/{setting}/state")) if holds(state)]
            return bool(found)

        self.wait_for(arrived, PATIENCE_S)
        return found[0]

    def results_of(self, camera: str = "cam0") -> list[dict[str, Any]]:
        return [json.loads(payload) for payload in self.payloads(f"{BASE}/{camera}/result")]

    def next_results(self, count: int, camera: str = "cam0") -> list[dict[str, Any]]:
        """The next results; the first few may be of frames that the model already had."""
        before = len(self.results_of(camera))
        self.wait_for(lambda: len(self.results_of(camera)) >= before + count, PATIENCE_S)
        return self.results_of(camera)[before:]

    def result_where(self, holds: Callable[[dict[str, Any]], object], camera: str = "cam0") -> dict[str, Any]:
        """The first result that fits, from now on."""
        before = len(self.results_of(camera))
        self.wait_for(lambda: any(map(holds, self.results_of(camera)[before:])), PATIENCE_S)
        return next(filter(holds, self.results_of(camera)[before:]))


def write_part(path: Path, *, grey: int = 250, blot: int | None = None) -> Path:
    """Writes an image of 64x48 of one grey, with a spot that makes it no plain picture, and with a blot at the left if
    `blot` is given. The file appears complete.
    """
    image = np.full((48, 64, 3), grey, np.uint8)
    image[36:40, 48:56] = grey + 40 if grey < 200 else grey - 40
    if blot is not None:
        image[12:36, 4:28] = blot
    partial = path.with_name(f".{path.name}")
    partial.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return partial.rename(path)


def write_parts(folder: Path, count: int = 4, **look: Any) -> Path:
    """Writes or overwrites images of equal parts in a folder."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        write_part(folder / f"{number}.png", **look)
    return folder


def without_gap(results: list[dict[str, Any]]) -> bool:
    """Whether the only camera's results of each process are numbered 1, 2, 3 … without a gap."""
    return all(found == list(range(1, len(found) + 1)) for found in seqs_of(results).values())


def seqs_of(results: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The numbers of the results of each process, by the beginning of their ids."""
    seqs: dict[str, list[int]] = {}
    for result in results:
        seqs.setdefault(result["id"].rsplit("-", 1)[0], []).append(result["seq"])
    return seqs
