"""Debian 12 in a folder, as a device has it: the commands of its root folder, or a whole system that has booted."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest
from checkout import run

# Kept for the next run.
BASE = Path(tempfile.gettempdir()) / "zsad-debian-12-systemd"
MIRROR = "http://deb.debian.org/debian"
ENVIRONMENT = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]
# $1: the root folder, $2: a group of processes, whose part of the tree systemd gets.
BOOT = r"""
echo $$ >"$2/cgroup.procs"
exec unshare --pid --fork --kill-child --mount --uts --ipc --net --cgroup --mount-proc bash -ec '
cd "$1"
mount --bind . . && cd "$1"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for folder in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$folder"; done
for name in null zero full random urandom tty; do touch "dev/$name" && mount --bind "/dev/$name" "dev/$name"; done
mkdir dev/shm run/before
ip link set lo up
pivot_root . run/before
umount -l run/before
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --log-target=null
' boot "$1"
"""

needs_debian = pytest.mark.skipif(
    shutil.which("debootstrap") is None or os.geteuid() != 0, reason="needs debootstrap and root"
)


class Device:
    """A root folder with Debian 12, until the `with` ends: it has 700 MB. Its commands run without a network."""

    def __init__(self, folder: Path) -> None:
        """Copies the system to `folder`/root."""
        if not (BASE / "lib/systemd/systemd").exists():
            shutil.rmtree(BASE, ignore_errors=True)
            run(["debootstrap", "--variant=minbase", "--include=python3,systemd-sysv,dbus", "bookworm", BASE, MIRROR])
        self.root = folder / "root"
        run(["cp", "-a", BASE, self.root])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.root)

    def run(self, *command: str | Path, exit_code: int = 0) -> str:
        isolated = ["unshare", "--net", "--mount", "--pid", "--fork", f"--root={self.root}", "--mount-proc"]
        return run([*isolated, *ENVIRONMENT, *command], exit_code=exit_code)

    def as_service(self, *command: str) -> str:
        service = ["setpriv", "--reuid=zsad-agent", "--regid=zsad-agent", "--clear-groups"]
        return self.run(*service, "env", "STATE_DIRECTORY=/var/lib/zsad-agent", *command)

    def left(self) -> list[str]:
        """Every path that has to do with the agent."""
        return sorted(
            f"/{path.relative_to(self.root)}"
            for folder in ("etc", "opt", "usr", "var/lib", "var/cache")
            for path in (self.root / folder).rglob("*zsad-agent*")
            if "dpkg/info" not in str(path)
        )


class BootedDevice(Device):
    """A device whose systemd runs, from `boot` until it is switched off or the `with` ends. It has no network."""

    def __enter__(self) -> Self:
        self._group = _cgroups() / f"zsad-test-{os.getpid()}"
        self._group.mkdir()
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self._outer.kill()  # and with it its systemd
        self._outer.wait()
        folders = sorted(self._group.rglob("*/"), reverse=True)
        self.until(lambda: not _is_populated(self._group))
        for folder in (*folders, self._group):
            if folder.is_dir():
                folder.rmdir()
        super().__exit__()

    def boot(self) -> None:
        """Returns when systemd has started everything."""
        self._outer = subprocess.Popen(["bash", "-c", BOOT, "bash", self.root, self._group])
        self.until(lambda: self._init() is not None and self.ask("is-system-running") in ("running", "degraded"))

    def reboot(self) -> None:
        self.ask("reboot")
        self._outer.wait(60)
        self.boot()

    def run(self, *command: str | Path, exit_code: int = 0) -> str:
        return run([*self._inside(), *command], exit_code=exit_code)

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([*self._inside(), *command])

    def ask(self, *arguments: str) -> str:
        """What `systemctl` says, whatever its exit code."""
        command = [*self._inside(), "systemctl", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def until(self, met: Callable[[], Any], timeout_s: float = 180.0) -> None:
        end_s = time.monotonic() + timeout_s
        while not met():
            assert time.monotonic() < end_s, f"not met within {timeout_s} s"
            time.sleep(0.2)

    def _inside(self) -> list[str | Path]:
        return ["nsenter", f"--target={self._init()}", "--all", "--root", "--wd", *ENVIRONMENT]

    def _init(self) -> str | None:
        """Its process 1, as this machine numbers it."""
        path = Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children")
        assert self._outer.poll() is None, "it does not boot"
        children = path.read_text().split()
        is_systemd = children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n"
        return children[0] if is_systemd else None


def _cgroups() -> Path:
    """The root of the control groups, version 2."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    found = [Path(mount[1]) for mount in mounts if mount[2] == "cgroup2" and "rw" in mount[3].split(",")]
    if not found:
        pytest.skip("needs control groups, version 2, that can be changed")
    return found[0]


def _is_populated(group: Path) -> bool:
    return "populated 1" in (group / "cgroup.events").read_text()
