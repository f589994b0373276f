import socket
from pathlib import Path

import pytest

from zsad_agent.config import AgentConfig, default_device_id, keep_device_id


class Machine:
    """The files that identify a machine, and its state folder."""

    def __init__(self, folder: Path, *, serial: str = "", addresses: tuple[str, ...] = ()) -> None:
        self.root, self.state = folder / "root", folder / "state"
        self.write("etc/machine-id", "of the image\n")
        if serial:
            self.write("sys/firmware/devicetree/base/serial-number", f"{serial}\0")
        for number, address in enumerate(addresses):
            self.add_card(f"eth{number}", address)

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def add_card(self, name: str, address: str, *, assigned: int = 0, real: bool = True) -> None:
        self.write(f"sys/class/net/{name}/address", f"{address}\n")
        self.write(f"sys/class/net/{name}/addr_assign_type", f"{assigned}\n")
        if real:
            (self.root / f"sys/class/net/{name}/device").mkdir()

    @property
    def device_id(self) -> str:
        return default_device_id(self.state, self.root)

    def start(self) -> str:
        """The id with which the daemon starts."""
        device_id = self.device_id
        keep_device_id(self.state, self.root)
        (self.state / "spool.sqlite3").touch()
        assert self.device_id == device_id
        return device_id

    def copy_disk_to(self, other: "Machine") -> None:
        other.state.mkdir(parents=True)
        for file in self.state.iterdir():
            (other.state / file.name).write_bytes(file.read_bytes())


@pytest.fixture(autouse=True)
def host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "raspberrypi")


@pytest.mark.parametrize("kind", ["serial", "addresses"])
def test_copies_of_a_disk_have_different_ids_whether_or_not_it_was_started_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    first, second, third = (
        Machine(
            tmp_path / name, **({"serial": name} if kind == "serial" else {"addresses": (f"02:00:00:00:00:{name}",)})
        )
        for name in ("a1", "b2", "c3")
    )
    ids = {first.start(), second.start()}
    first.copy_disk_to(third)
    ids.add(third.start())
    assert len(ids) == 3
    assert all(device_id.startswith("raspberrypi-") for device_id in ids)
    assert caplog.text.count("is a copy of another machine") == 1
    assert third.start() in ids
    assert caplog.text.count("is a copy of another machine") == 1


def test_the_id_does_not_change_when_the_host_name_or_one_network_card_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, addresses=("02:00:00:00:00:01", "02:00:00:00:00:02"))
    device_id = machine.start()
    monkeypatch.setattr(socket, "gethostname", lambda: "renamed")
    machine.write("sys/class/net/eth0/address", "02:00:00:00:00:03")
    assert machine.start() == device_id
    machine.write("sys/class/net/eth1/address", "02:00:00:00:00:04")
    assert machine.start() == device_id
    for name in ("eth0", "eth1"):  # not there yet, early in the boot
        machine.write(f"sys/class/net/{name}/addr_assign_type", "1")
    assert machine.start() == device_id


def test_the_id_does_not_change_when_each_start_finds_another_network_card(tmp_path: Path) -> None:
    machine = Machine(tmp_path, addresses=("02:01", "02:02"))
    device_id = machine.start()
    for hidden in ("eth0", "eth1"):
        card = machine.root / "sys/class/net" / hidden
        card.rename(tmp_path / hidden)
        assert machine.start() == device_id
        (tmp_path / hidden).rename(card)


def test_a_damaged_record_is_written_again_with_the_same_id(tmp_path: Path) -> None:
    machine = Machine(tmp_path, addresses=("02:01",))
    device_id = machine.start()
    (machine.state / "device.json").write_text("{")
    assert machine.start() == device_id


def test_an_agent_of_an_earlier_version_keeps_the_host_name_as_its_id(tmp_path: Path) -> None:
    machine = Machine(tmp_path, serial="10000000a1b2c3d4")
    machine.state.mkdir()
    (machine.state / "lost+found").mkdir()
    assert machine.device_id != "raspberrypi"
    (machine.state / "spool.sqlite3").touch()
    assert machine.start() == "raspberrypi"
    assert machine.start() == "raspberrypi"


def test_addresses_that_are_not_of_the_hardware_are_not_recorded(tmp_path: Path) -> None:
    plain, other = Machine(tmp_path / "a"), Machine(tmp_path / "b", serial="0000000000000000")
    other.add_card("wlan0", "06:12:34:56:78:9a", assigned=3)
    other.add_card("docker0", "06:12:34:56:78:9b", real=False)
    other.add_card("dummy0", "00:00:00:00:00:00")
    assert plain.device_id == other.device_id
    plain.write("etc/machine-id", "another")
    assert plain.device_id != other.device_id


def test_the_longest_host_name_and_a_damaged_record_give_a_valid_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, serial="1")
    monkeypatch.setattr(socket, "gethostname", lambda: "\u00e9 x" * 64)
    device_id = machine.start()
    assert AgentConfig(device_id=device_id).device_id == device_id
    (machine.state / "device.json").write_bytes(b"\xff{")
    assert AgentConfig(device_id=machine.device_id)


def test_a_disk_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    machine = Machine(tmp_path, serial="1")
    machine.state.write_text("a file where the folder belongs")
    keep_device_id(machine.state, machine.root)
    assert machine.device_id.startswith("raspberrypi-")


def test_the_config_uses_the_device_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    (tmp_path / "device.json").write_text('{"device_id": "line9", "hardware": []}')
    assert AgentConfig().device_id == "line9"
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert AgentConfig().device_id.startswith("raspberrypi-")
