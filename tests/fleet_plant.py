"""A plant for tests of zsad-fleet: a broker, an HTTPS store, a key, and devices below one folder."""

import json
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agent_process import AgentProcess
from bundle_attacks import change_manifest, copy_bundle, make_key, sign_folder, write_public_key, zip_folder
from bundle_store_server import BundleStoreServer
from certificate_maker import Authority
from mosquitto_broker import MosquittoBroker
from mqtt_listener import MqttListener
from plant_operator import write_parts

from zsad_core.bundle import load_bundle

PATIENCE_S = 120.0


class FleetPlant:
    """`store` serves `served`; bundles are signed with one key, which the devices trust."""

    def __init__(self, folder: Path, broker: MosquittoBroker, tiny_bundle: Path) -> None:
        self.folder, self.broker, self._tiny = folder, broker, tiny_bundle
        self.key = make_key(1)
        self.public_key = write_public_key(folder / "line.pub", self.key)
        self.authority = Authority(folder)
        (folder / "served").mkdir()
        self.store = BundleStoreServer(folder / "served", self.authority.sign("store"))
        self.old = sign_folder(copy_bundle(tiny_bundle, folder / "old"), self.key)

    def offer(self, name: str, bundle: Path | None = None, *, padding: int = 0, **changes: object) -> Path:
        """Puts a signed bundle into the store. `padding`: bytes beside its files; `changes`: of its manifest."""
        made = copy_bundle(bundle or self._tiny, self.folder / f"made-{name}")
        sign_folder(change_manifest(made, **changes), self.key)
        if padding:
            (made / "padding").write_bytes(random.Random(0).randbytes(padding))
        return zip_folder(made, self.folder / f"served/{name}.zip")

    def agent(self, device_id: str, *, tags: str = "", fps: float = 30) -> AgentProcess:
        """A real agent on images of parts in `<folder>/<device_id>/parts`; not started yet."""
        folder = self.folder / device_id
        folder.mkdir(exist_ok=True)
        if not (folder / "parts").exists():
            write_parts(folder / "parts", blot=120)
        settings = (
            f"mqtt:\n  broker: {self.broker.url}\ncontrol:\n  enabled: true\n"
            f"update:\n  enabled: true\n  ca_file: {self.authority.cert}\n  tags: [{tags}]\n"
            f"source:\n  source: {folder / 'parts'}\n  loop: true\n  fps: {fps}\n"
        )
        made = AgentProcess(folder, self.old, settings=settings, device_id=device_id)
        config = folder / "agent.yaml"
        trusted = f"  threads: 1\n  trusted_keys: [{self.public_key}]\n"
        config.write_text(config.read_text().replace("  threads: 1\n", trusted))
        return made

    def command(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "zsad_convert.fleet.cli", *map(str, words), "--broker", self.broker.url]

    def run(self, *words: object) -> "subprocess.CompletedProcess[str]":
        """Runs zsad-fleet in `folder`."""
        return subprocess.run(
            self.command(*words), cwd=self.folder, capture_output=True, text=True, timeout=300, check=False
        )


class Watcher(MqttListener):
    """Receives everything."""

    def update_of(self, device_id: str) -> dict[str, Any]:
        """The last update/state of a device, its value; empty before the first."""
        found = self.payloads(f"zsad/{device_id}/update/state")
        return dict(json.loads(found[-1])["value"]) if found else {}

    def bundles_of(self, device_id: str) -> list[str]:
        """The bundle of each result, without repetitions in a row."""
        topic = f"zsad/{device_id}/cam0/result"
        shas = [json.loads(payload)["bundle"]["sha256"] for payload in self.payloads(topic)]
        return [sha for number, sha in enumerate(shas) if number == 0 or shas[number - 1] != sha]

    def update_done_at(self, device_id: str) -> str:
        """Time of its first update/state that is done."""
        states = map(json.loads, self.payloads(f"zsad/{device_id}/update/state"))
        return next(str(state["at"]) for state in states if state["value"]["phase"] == "done")

    def when_on_probation(self, device_id: str, sha256: str, act: Callable[[], object]) -> None:
        """Calls `act` in a thread when the device has this bundle on probation."""

        def wait() -> None:
            self.wait_for(
                lambda: (
                    (update := self.update_of(device_id)).get("phase") == "probation" and update["bundle"] == sha256
                ),
                PATIENCE_S,
            )
            act()

        threading.Thread(target=wait, daemon=True).start()

    def wait_ready(self, *device_ids: str) -> None:
        """Waits until the devices inspect and take commands."""
        self.wait_for(
            lambda: all(self.bundles_of(one) and self.update_of(one).get("phase") for one in device_ids), PATIENCE_S
        )


def sha256_of(bundle: Path) -> str:
    return load_bundle(bundle).sha256
