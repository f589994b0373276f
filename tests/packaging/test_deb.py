"""The Debian packages in a clean Debian 12 without a network: install, use, upgrade, remove, purge."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import ROOT, run
from debian_device import Device, needs_debian
from debian_packages import BUILD, Packages

CONFIG = "etc/zsad-agent/agent.yaml"
PYTHON = "/opt/zsad-agent/venv/bin/python"
OPENS_DOORS = "import gpiod, zsad_agent.plant.opcua_server"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    with Device(tmp_path) as device:
        yield device


@needs_debian
@pytest.mark.chaos
def test_install_use_upgrade_remove_and_purge(device: Device, packages: Packages) -> None:
    root = device.root
    assert "/site-packages/torch" not in run(["dpkg-deb", "-c", packages.agent])
    packages.put_into(root)
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

    # The libraries for PLCs come and go without the agent.
    before = sorted(root.glob("opt/**/site-packages/*"))
    assert "No module named" in device.run(PYTHON, "-c", OPENS_DOORS, exit_code=1)
    device.run("dpkg", "-i", "/plant.deb")
    device.run(PYTHON, "-c", OPENS_DOORS)
    device.run("dpkg", "-i", "/two.deb", "/two-plant.deb")
    assert device.run("dpkg-query", "-W", "zsad-agent", "zsad-agent-plant").count("\t99.") == 2
    device.run(PYTHON, "-c", OPENS_DOORS)
    device.run("dpkg", "--remove", "zsad-agent-plant")
    assert sorted(root.glob("opt/**/site-packages/*")) == before
    device.run("dpkg", "--purge", "zsad-agent-plant")

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
def test_the_package_refuses_beside_an_installation_by_script(device: Device, packages: Packages) -> None:
    unit = device.root / "etc/systemd/system/zsad-agent.service"
    unit.parent.mkdir(parents=True, exist_ok=True)
    unit.touch()
    packages.put_into(device.root)
    assert "Run systemd/uninstall.sh first" in device.run("dpkg", "-i", "/one.deb", exit_code=1)


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
    assert {file.name for file in BUILD.parent.iterdir()} >= {
        "preinst",
        "postinst",
        "prerm",
        "postrm",
        "plant-postinst",
        "plant-prerm",
    }
