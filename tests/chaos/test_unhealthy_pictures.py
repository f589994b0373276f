"""A camera that is moved, dirty, covered or frozen, compared with a reference that the agent's own command made.

The images are real: the sample stream's baking tray is the machine, and its cookies move across it.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from agent_process import AgentProcess
from mosquitto_broker import MosquittoBroker
from network_camera import MjpegServer
from test_camera_faults import BACK_WITHIN_S, Scene
from witness import Witness

from zsad_agent.config import HealthConfig
from zsad_agent.picture_health import PictureHealth, make_reference
from zsad_agent.picture_health.health import REFERENCE_EVERY_S

SAMPLES = Path(__file__).parents[2] / "demo" / "stream"
FROZEN_AFTER_S = 0.5
SOON_S = 3.0  # three checks take a third of a second; the machine is busy


def a_line(parts: int = 24) -> list[np.ndarray]:
    """Images with moving parts, slightly changing light and sensor noise."""
    tray, *_, source = (cv2.imread(str(path)) for path in sorted(SAMPLES.glob("*-whole.jpg")))
    part = cv2.resize(source, (180, 240))
    chance = np.random.default_rng(3)
    pictures = []
    for index in range(parts):
        picture = tray.copy()
        x = index * (tray.shape[1] - 180) // parts
        picture[200:440, x : x + 180] = part
        light, noise = chance.uniform(0.95, 1.05), chance.normal(0, 2, picture.shape)
        pictures.append(np.clip(picture * light + noise, 0, 255).astype(np.uint8))
    return pictures


def knocked(picture: np.ndarray) -> np.ndarray:
    return np.roll(picture, (40, 60), axis=(0, 1))


def defocused(picture: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), 6)


def darkened(picture: np.ndarray) -> np.ndarray:
    return (picture // 100).astype(np.uint8)


def covered(picture: np.ndarray) -> np.ndarray:
    """By a hand: its light from one side, and the noise of the sensor."""
    light = np.linspace(0.6, 1.2, picture.shape[1])[:, None]
    noise = np.random.default_rng(int(picture.sum())).normal(0, 6, picture.shape)
    return np.clip(np.array((110, 140, 190)) * light + noise, 0, 255).astype(np.uint8)


def dazzled(picture: np.ndarray) -> np.ndarray:
    return (255 - picture // 100).astype(np.uint8)


FAULTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "moved camera": knocked,
    "out of focus": defocused,
    "black picture": darkened,
    "picture without structure": covered,
    "overexposed picture": dazzled,
}


def command_reference(camera: MjpegServer, path: Path) -> str:
    command = [sys.executable, "-m", "zsad_agent.cli", "reference", "--source", camera.url, "--out", str(path)]
    made = subprocess.run([*command, "--frames", "24", "--every", "0"], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    return made.stdout


def states(scene: Scene) -> list[tuple[str, str | None]]:
    """State and reason of each status, in order."""
    arrived = [arrival for arrival in scene.witness.arrivals if arrival.topic.endswith("/cam0/status")]
    bodies = [json.loads(arrival.payload) for arrival in arrived]
    return [(body["state"], body["reason"]) for body in bodies]


def run_fault(scene: Scene, name: str) -> None:
    """Checks one unknown and `degraded` for this reason, no other verdict during the fault, and inspection after it."""
    began_s = time.time()
    scene.camera.alter, scene.camera.mode = FAULTS.get(name), "good" if name in FAULTS else "frozen"
    stated = scene.witness.wait_for(lambda: states(scene)[-1][0] == "degraded", SOON_S + FROZEN_AFTER_S)
    stated_s = time.time()
    assert stated, f"{name}: {states(scene)}, {scene.agent.output[-1000:]}"
    assert (states(scene)[-1][1] or "").startswith(name)
    time.sleep(0.3)
    ended_s = time.time()
    scene.camera.alter, scene.camera.mode = None, "good"
    scene.await_verdict(ended_s, False, BACK_WITHIN_S)
    assert scene.witness.wait_for(lambda: states(scene)[-1] == ("ok", None), BACK_WITHIN_S), str(states(scene))
    unknown = [body for when, verdict, body in scene.results if began_s < when < ended_s and verdict == "unknown"]
    assert len(unknown) == 1 and unknown[0]["reason"].startswith(name)
    others = [body for when, _, body in scene.results if stated_s < when < ended_s and body["id"] != unknown[0]["id"]]
    assert others == []  # the one result may arrive after the status


def test_a_camera_without_parts_in_view_is_reported_and_recovers(tmp_path: Path, tiny_bundle: Path) -> None:
    reference = tmp_path / "reference.npz"
    with (
        MjpegServer(good=a_line()) as camera,
        MosquittoBroker(tmp_path) as broker,
        Witness(broker.port) as witness,
    ):
        told = command_reference(camera, reference)
        assert "moved camera, changed scene: checked\n" in told and "out of focus: checked, by what is fixed" in told
        settings = f"source:\n  health:\n    reference: {reference}\n    frozen_after_s: {FROZEN_AFTER_S}\n"
        arguments = ["--source", camera.url, "--broker", broker.url]
        with AgentProcess(tmp_path, tiny_bundle, *arguments, settings=settings) as agent:
            scene = Scene(camera, agent, witness)
            scene.await_verdict(0.0, False, 30.0)
            assert not any(verdict == "unknown" for _, verdict, _ in scene.results)
            for name in [*FAULTS, "frozen picture"]:
                run_fault(scene, name)
        assert "Traceback" not in agent.output


def test_changing_light_raises_no_false_alarm() -> None:
    pictures = a_line()
    health = PictureHealth(HealthConfig(), make_reference(pictures))
    chance = np.random.default_rng(4)
    for index in range(150):
        picture = pictures[index % len(pictures)] * chance.uniform(0.8, 1.2)
        said = health.judge(np.clip(picture, 0, 255).astype(np.uint8), index * REFERENCE_EVERY_S)
        assert said is None, f"picture {index}: {said}"
