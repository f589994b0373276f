"""The service of the Debian package under a real systemd: it comes back, loses no part, stops in time and boots."""

import shutil
import time
from pathlib import Path

import pytest
from checkout import ROOT
from debian_device import BootedDevice, needs_debian
from debian_packages import Packages

CONFIG = "etc/zsad-agent/agent.yaml"
STATE = "var/lib/zsad-agent"
STOP_S = 10.0  # TimeoutStopSec of the unit
PARTS = 60  # of each feed
SETTINGS = f"""\
device_id: bench
source: {{source: /{STATE}/parts, trigger: folder}}
inference: {{bundle: zsad-tiny}}
mqtt: {{broker: "mqtt://127.0.0.1:1"}}
web: {{listen: "127.0.0.1:8080"}}
"""
FEED = f"""
for number in $(seq $1 $2); do
    cp /parts/0$((number % 8 + 1))-*.jpg /{STATE}/parts/.next && mv /{STATE}/parts/.next /{STATE}/parts/$number.jpg
    sleep 0.1
done
"""
INSPECTED = """
import json, urllib.request
names, before = set(), ""
while before is not None:
    url = "http://127.0.0.1:8080/api/v1/results?limit=500" + (before and f"&before={before}")
    answer = json.load(urllib.request.urlopen(url))
    names |= {result["source_name"] for result in answer["results"]}
    before = answer["next"]
print(len(names))
"""


class Service:
    """The installed service, and the parts that it has to inspect."""

    def __init__(self, device: BootedDevice) -> None:
        self._device = device
        self._fed = 0

    def feed(self, *, kill: str | None = None) -> None:
        """Writes parts into the watched folder. `kill`: a signal that the agent gets meanwhile."""
        first, self._fed = self._fed, self._fed + PARTS
        feed = self._device.start("sh", "-c", FEED, "feed", str(first), str(self._fed - 1))
        if kill is not None:
            inspected = self._device.root / STATE / "parts/inspected"
            self._device.until(lambda: len(list(inspected.glob("*"))) > first + 5)
            self._device.run("systemctl", "kill", f"--signal={kill}", "--kill-who=main", "zsad-agent")
        assert feed.wait(120) == 0

    def says(self, name: str) -> str:
        """A property of the unit."""
        return self._device.ask("show", "--value", f"--property={name}", "zsad-agent")

    def wait_restarted(self, restarts: int) -> None:
        self._device.until(lambda: (self.says("NRestarts"), self.says("ActiveState")) == (str(restarts), "active"))

    def wait_all_inspected(self) -> None:
        """Each part that was written has a result."""
        self._device.until(lambda: self._device.run("python3", "-c", INSPECTED) == f"{self._fed}\n")


@needs_debian
@pytest.mark.chaos
def test_systemd_keeps_the_service_running_and_nothing_is_lost(tmp_path: Path, packages: Packages) -> None:
    with BootedDevice(tmp_path) as device:
        packages.put_into(device.root)
        shutil.copytree(ROOT / "demo/stream", device.root / "parts")
        device.run("dpkg", "-i", "/one.deb")
        (device.root / CONFIG).write_text(SETTINGS)
        device.run("install", "-d", "-o", "zsad-agent", "-g", "zsad-agent", f"/{STATE}", f"/{STATE}/parts")
        device.run("systemctl", "enable", "--now", "zsad-agent")
        service = Service(device)
        assert service.says("ActiveState") == "active"  # it has said that it is ready

        for restarts, signal in enumerate(("KILL", "KILL", "STOP"), 1):  # a stopped one is ended by the watchdog
            service.feed(kill=signal)
            service.wait_restarted(restarts)
            service.wait_all_inspected()

        process = service.says("MainPID")
        device.run("systemctl", "reload", "zsad-agent")
        device.until(lambda: "the config file is read again" in device.run("journalctl", "-u", "zsad-agent"))
        assert service.says("MainPID") == process
        device.run("dpkg", "-i", "/two.deb")
        assert service.says("ActiveState") == "active" and service.says("MainPID") != process

        begun_s = time.monotonic()
        device.run("systemctl", "stop", "zsad-agent")
        assert time.monotonic() - begun_s < STOP_S
        assert (service.says("Result"), service.says("ActiveState")) == ("success", "inactive")

        device.reboot()
        device.until(lambda: service.says("ActiveState") == "active")
        service.feed()
        service.wait_all_inspected()
        device.run("dpkg", "--purge", "zsad-agent")
        assert service.says("ActiveState") == "inactive" and device.left() == []
