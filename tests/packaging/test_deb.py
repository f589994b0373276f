"""The Debian package in a clean Debian 12 without a network: install, use, upgrade, remove, purge."""

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from checkout import ROOT, copy_checkout, run

BUILD = ROOT / "packaging/deb/build.sh"
# Kept for the next run: Debian 12 with Python, as a device has it.
BASE = Path(tempfile.gettempdir()) / "zsad-debian-12"
MIRROR = "http://deb.debian.org/debian"
CONFIG = "etc/zsad-agent/agent.yaml"

needs_debian = pytest.mark.skipif(
    shutil.which("debootstrap") is None or os.geteuid() != 0, reason="needs debootstrap and root"
)


class Device:
    """A root folder with Debian 12. Its commands run without a network."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str | Path, exit_code: int = 0) -> str:
        inside = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", *command]
        return run(
            ["unshare", "--net", "--mount", "--pid", "--fork", f"--root={self.root}", "--mount-proc", *inside],
            exit_code=exit_code,
        )

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


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    checkout, out = copy_checkout(tmp_path_factory.mktemp("checkout")), tmp_path_factory.mktemp("deb")
    run([checkout / BUILD.relative_to(ROOT), "--out", out], PYTHON=sys.executable)
    (built,) = out.glob("zsad-agent_*.deb")
    return built


@pytest.fixture(scope="module")
def newer_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same program with a higher version."""
    folder = tmp_path_factory.mktemp("newer")
    run(["dpkg-deb", "-R", package, folder / "content"])
    control = folder / "content/DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 99."))
    run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", folder / "content", folder / "newer.deb"])
    return folder / "newer.deb"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Device:
    if not (BASE / "usr/bin/python3").exists():
        shutil.rmtree(BASE, ignore_errors=True)
        run(["debootstrap", "--variant=minbase", "--include=python3", "bookworm", BASE, MIRROR])
    root = tmp_path_factory.mktemp("device") / "root"
    run(["cp", "-a", BASE, root])
    return Device(root)


@needs_debian
@pytest.mark.chaos
def test_install_use_upgrade_remove_and_purge(device: Device, package: Path, newer_package: Path) -> None:
    root = device.root
    packed = run(["dpkg-deb", "-c", package])
    assert "/site-packages/torch" not in packed
    shutil.copy(package, root / "one.deb")
    shutil.copy(newer_package, root / "two.deb")
    shutil.copytree(ROOT / "demo/stream", root / "parts")

    assert "zsad-agent init" in device.run("dpkg", "-i", "/one.deb")
    assert (root / CONFIG).read_text() == (root / "usr/share/zsad-agent/agent.yaml").read_text()
    assert (root / "usr/lib/systemd/system/zsad-agent.service").is_file()
    told = device.run("zsad-agent", "score", "/parts", "--json")
    verdicts = {
        Path(line["path"]).stem.split("-")[1]: line["verdict"]
        for line in map(json.loads, filter(lambda line: line.startswith("{"), told.splitlines()))
    }
    assert verdicts == {"whole": "ok", "cracked": "anomalous"}

    # The user of the service inspects, and writes the config as the page does.
    device.run("install", "-d", "-o", "zsad-agent", "-g", "zsad-agent", "/var/lib/zsad-agent")
    told = device.as_service(
        "zsad-agent", "--source", "/parts", "--max-frames", "2", "--print-results", "--threshold", "0.4"
    )
    assert told.count("(threshold 0.400)") == 2
    device.as_service("sh", "-c", f"echo 'device_id: mine' >/{CONFIG}.new && mv /{CONFIG}.new /{CONFIG}")

    device.run("dpkg", "-i", "/two.deb")
    assert "99." in device.run("dpkg-query", "-W", "zsad-agent")
    assert (root / CONFIG).read_text() == "device_id: mine\n"
    assert (root / "var/lib/zsad-agent/spool.sqlite3").is_file()
    (root / CONFIG).write_text("no_such_key: 1\n")
    told = device.run("dpkg", "-i", "/two.deb")
    assert "no_such_key" in told and "systemctl restart" in told

    device.run("dpkg", "--remove", "zsad-agent")
    assert device.left() == ["/etc/zsad-agent", "/var/lib/zsad-agent"]
    assert (root / CONFIG).is_file()

    device.run("dpkg", "--purge", "zsad-agent")
    assert device.left() == []
    assert "zsad-agent" not in (root / "etc/passwd").read_text() + (root / "etc/group").read_text()


@needs_debian
@pytest.mark.chaos
def test_the_package_refuses_beside_an_installation_by_script(device: Device, package: Path) -> None:
    unit = device.root / "etc/systemd/system/zsad-agent.service"
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.touch()
    shutil.copy(package, device.root / "one.deb")
    assert "Run systemd/uninstall.sh first" in device.run("dpkg", "-i", "/one.deb", exit_code=1)
    unit.unlink()
    device.run("dpkg", "--purge", "zsad-agent")


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--arch", "mips"], "--arch mips"), (["--out"], "--out needs a value"), (["x"], "Usage")]
)
def test_build_refuses_wrong_usage(arguments: list[str], said: str) -> None:
    if shutil.which("dpkg") is None:
        pytest.skip("needs dpkg")
    assert said in run([BUILD, *arguments], exit_code=2)


def test_build_takes_files_that_exist() -> None:
    taken = set(re.findall(r"\$checkout/([\w./-]+)", BUILD.read_text())) - {"dist"}  # where the package goes
    assert "systemd/zsad-agent.service" in taken
    assert [name for name in taken if not (ROOT / name).exists()] == []
    assert {file.name for file in BUILD.parent.iterdir()} >= {"preinst", "postinst", "prerm", "postrm"}
