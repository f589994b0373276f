"""Many devices in one process: real publishers, commands, updates and bundle stores; the model and camera are fake.

Run as `python fleet_devices.py JSON`, see `main`. Prints "ready" when all are connected. A line on stdin ends it; it
then prints one JSON object: device -> number of results, and the number of unsent results.
"""

import json
import logging
import sys
import threading
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from result_maker import accept, make_result
from stats_maker import make_stats

from zsad_agent.config import AgentConfig, ControlConfig, InferenceConfig, MqttConfig, UpdateConfig
from zsad_agent.control import FILE_NAME, Controller, Nonces, ReloadRequest, RunningAgent, StoredSettings
from zsad_agent.messages import BundleName, BundleStats
from zsad_agent.model import BundleStore, BundleUpdater, CameraInUse, Model, ModelInUse
from zsad_agent.mqtt import Publisher
from zsad_agent.spool import Spool
from zsad_agent.updating import Updates
from zsad_core.bundle import Bundle
from zsad_core.errors import DeviceError
from zsad_core.types import Prediction, Verdict

FRAME_S, RESULT_S, STATS_S = 0.2, 1.0, 5.0
SLOW_S = 4.0  # to compile
IMAGE = np.zeros((4, 4, 3), np.uint8)
ANSWER = Prediction(anomaly_map=np.zeros((4, 4), np.float32), anomaly_score=0.1)


class FakePredictor:
    """Answers; one that is bad gives no answer after its trial."""

    def __init__(self, bad: bool) -> None:
        self._left = 3 if bad else -1

    def prepare(self, product: str) -> None:
        pass

    def is_taught(self, product: str) -> bool:
        return False

    def predict(self, image_bgr: np.ndarray, product: str | None = None) -> Prediction:
        if self._left == 0:
            raise DeviceError("the model gave no answer")
        self._left -= 1
        return ANSWER


class Device:
    """One device. `how`: `slow`, or `bad <version>`: that version fails on this device."""

    def __init__(self, name: str, how: str, asked: dict[str, Any], results: int = 0) -> None:
        self.name, self.how, self.results = name, how, results
        folder = Path(asked["folder"]) / name
        folder.mkdir(exist_ok=True)
        self._boot = f"{time.time_ns():x}"
        config = AgentConfig(
            device_id=name,
            mqtt=MqttConfig(broker=f"mqtt://127.0.0.1:{asked['port']}"),
            inference=InferenceConfig(bundle=Path(asked["bundle"]), trusted_keys=(Path(asked["key"]),)),
            control=ControlConfig(enabled=True),
            update=UpdateConfig(enabled=True, ca_file=Path(asked["ca"])),
        )
        store = BundleStore(folder / "bundles", config.inference)
        started = store.start(self._compile)
        self.models = ModelInUse(Model(bundle=started.bundle, predictor=started.detector))
        updater = BundleUpdater(
            store=store,
            models=self.models,
            compile_bundle=self._compile,
            cameras=lambda: [CameraInUse(name="cam0", product="object", images_bgr=[IMAGE])],
        )
        self.restart = ReloadRequest(lambda: config, again=False, fault=None)
        self._nonces, self._stats_s, self._result_s = Nonces(), 0.0, 0.0
        station = SimpleNamespace(
            name="cam0",
            inspector=SimpleNamespace(
                threshold=None, product="object", own_threshold=lambda model, product, *, taught: (0.5, None)
            ),
            capture=SimpleNamespace(paused=False, newest_images=lambda count: [IMAGE]),
        )
        self._stack = ExitStack()
        enter = self._stack.enter_context
        spool = enter(Spool(folder / "spool.sqlite3", max_results=1_000_000, fsync="periodic"))
        self.publisher = enter(Publisher(config.mqtt, name, spool))
        updates = enter(Updates(config.update, folder))
        stored = StoredSettings(folder / FILE_NAME)
        agent = RunningAgent([station], self.models, updater, store, self.restart, None, updates)
        enter(Controller(agent, self.publisher, config, stored, nonces=self._nonces))

    def close(self) -> None:
        self._stack.close()

    def frame(self, now_s: float) -> None:
        """One picture; from time to time a result and statistics."""
        model, reason = self.models.current, None
        try:
            with self.models.model_lock:
                model.predictor.predict(IMAGE)
        except DeviceError as error:
            reason = str(error)
        self.models.on_answer(model.bundle.sha256, reason is None, reason)
        manifest = model.bundle.manifest
        about = {"name": manifest.name, "version": manifest.version, "sha256": model.bundle.sha256}
        if now_s >= self._result_s:
            self._result_s = now_s + RESULT_S
            self.results += 1
            result = make_result(
                self.results,
                id=f"{self.name}-{self._boot}-{self.results}",
                device_id=self.name,
                captured_at=datetime.now(UTC),
                bundle=BundleName(**about),
                verdict=Verdict.OK if reason is None else Verdict.UNKNOWN,
            )
            accept(self.publisher, result, None)
        if now_s >= self._stats_s:
            self._stats_s = now_s + STATS_S
            stats = make_stats(
                device_id=self.name,
                instance=self.publisher.published.instance,
                at=datetime.now(UTC),
                bundle=BundleStats(**about, device="CPU"),
                command_nonce=self._nonces.current(),
                faults=(),
            )
            self.publisher.set_retained("stats", stats.encode())

    def _compile(self, bundle: Bundle) -> FakePredictor:
        if self.how == "slow":
            time.sleep(SLOW_S)
        return FakePredictor(self.how == f"bad {bundle.manifest.version}")


def main(asked: dict[str, Any]) -> None:
    """`asked`: port, folder, bundle, key, ca: of all; devices: name -> how."""
    logging.basicConfig(level=logging.ERROR)
    devices = [Device(name, how, asked) for name, how in asked["devices"].items()]
    while not all(device.publisher.connected for device in devices):
        time.sleep(0.05)
    print("ready", flush=True)
    end = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), end.set()), daemon=True).start()
    while not end.wait(FRAME_S):
        for number, device in enumerate(devices):
            if device.restart.event.is_set():
                device.close()
                devices[number] = device = Device(device.name, device.how, asked, device.results)
            device.frame(time.monotonic())
    unsent = sum(device.publisher.flush(10.0) for device in devices)
    for device in devices:
        device.close()
    print(json.dumps({"results": {device.name: device.results for device in devices}, "unsent": unsent}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
