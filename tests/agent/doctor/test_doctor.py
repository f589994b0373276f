"""`zsad-agent doctor`: its findings, and what it does when a check crashes or hangs."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import fake_gpiod
import pytest
from certificate_maker import DAY, Authority
from fake_gpiod import FakeChip
from mjpeg_server import MjpegServer
from mosquitto_broker import MosquittoBroker

from zsad_agent.cli.main import main
from zsad_agent.config import AgentConfig, Settings
from zsad_agent.doctor import (
    Check,
    Finding,
    check_certificates,
    check_clock,
    check_devices,
    check_folders,
    check_inference,
    check_lines,
    check_ports,
    check_receiving,
    check_source,
    examine,
    service_finding,
)
from zsad_agent.probing import Device
from zsad_core.errors import SourceError

DRIVER = Path(__file__).parents[2] / "v4l2_driver.c"
FORMATS = "import sys; from zsad_agent.doctor.cameras import formats_of; print(formats_of(sys.argv[1]))"


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "cache"))


def config_of(**sections: object) -> AgentConfig:
    return AgentConfig.model_validate({"http": {"listen": "off"}, **sections})


def settings_of(**sections: object) -> Settings:
    return Settings(config=config_of(**sections), path=None, lines={})


def states(findings: Iterator[Finding]) -> dict[str, str]:
    return {finding.check: finding.state for finding in findings}


def test_a_crash_and_a_hang_are_findings_and_the_next_check_runs() -> None:
    def fault() -> Iterator[Finding]:
        raise SourceError("camera lost")

    def good() -> Iterator[Finding]:
        yield Finding(check="good", state="ok", text="fine")

    hang = threading.Event()
    begun_s = time.monotonic()
    found = list(
        examine(
            [
                Check(name="crash", run=lambda: [1 / 0]),  # type: ignore[list-item]
                Check(name="hang", run=lambda: [hang.wait(60)], limit_s=0.2),  # type: ignore[list-item]
                Check(name="fault", run=fault),
                Check(name="good", run=good),
            ]
        )
    )
    assert time.monotonic() - begun_s < 40
    hang.set()
    assert [(finding.check, finding.state) for finding in found] == [
        ("crash", "fail"),
        ("hang", "fail"),
        ("fault", "fail"),
        ("good", "ok"),
    ]
    assert "ZeroDivisionError" in found[0].text and "0.2 s" in found[1].text and found[2].text == "camera lost"


def test_a_camera_without_permission_says_which_group_is_missing(tmp_path: Path) -> None:
    device = Device(id="0", path=str(tmp_path / "video0"), by_id=None, name="USB camera")
    (found,) = check_devices(lambda: [device], list)
    assert found.state == "fail" and "usermod -aG video" in found.advice
    genicam = Device(key="aravis", id="Basler-1", path="Basler-1", by_id=None, name="GenICam")
    (answers,) = check_devices(list, lambda: [genicam])
    assert answers.state == "ok" and "aravis: Basler-1" in answers.text
    (none,) = check_devices(list, list)
    assert none.state == "warn" and "no V4L2 camera" in none.text


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the driver is compiled with gcc")
def test_formats_and_sizes_of_a_camera_are_listed(tmp_path: Path) -> None:
    driver, device = tmp_path / "driver.so", tmp_path / "video0"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(driver), str(DRIVER), "-ldl"], check=True)
    device.touch()
    size = {"FAKE_V4L2_WIDTH": "1280", "FAKE_V4L2_HEIGHT": "720"}
    told = subprocess.run(
        [sys.executable, "-c", FORMATS, str(device)],
        env={**os.environ, **size, "LD_PRELOAD": str(driver)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.strip() == "['MJPG 1280x720 640x360']"


def test_the_frame_rate_of_a_stream_is_measured() -> None:
    with MjpegServer() as server:
        server.every_s = 0.1
        config = config_of(source={"source": server.url, "fps": 30.0})
        (found,) = check_source(config.every_camera[0], config)
        assert found.state == "warn" and "fewer than fps: 30" in found.text, found
        rate = float(found.text.partition(" frames a second")[0].rpartition(" ")[2])
        assert 0 < rate < 12, found  # 10, less on a loaded machine
        assert "64 x 48" in found.text


def test_a_source_that_does_not_answer_fails_without_its_password(tmp_path: Path) -> None:
    with MjpegServer() as server:
        server.password = "right"
        url = f"http://me:wrong@{server.address}"
        config = config_of(source={"source": url})
        (found,) = check_source(config.every_camera[0], config)
    assert found.state == "fail" and found.advice
    assert "wrong user name or password" in found.text and "me:wrong" not in found.text


def test_a_folder_opens() -> None:
    folder = Path(__file__).parents[3] / "demo/stream"
    config = config_of(source={"source": str(folder)})
    (found,) = check_source(config.every_camera[0], config)
    assert found.state == "ok" and "opens, 480 x 640" in found.text


def test_inference_is_measured_with_the_bundle_of_the_config(tiny_bundle: Path) -> None:
    config = config_of(inference={"bundle": tiny_bundle}, source={"source": "x", "fps": 1000.0})
    devices, model = check_inference(config)
    assert "CPU" in devices.text
    assert " ms a picture" in model.text and model.state in ("ok", "warn")


def test_an_expired_certificate_fails_and_one_that_soon_expires_warns(tmp_path: Path) -> None:
    authority = Authority(tmp_path)  # valid for 30 days
    expired = authority.sign("expired", valid_from=-3 * DAY, valid_to=-DAY)
    soon = authority.sign("soon", valid_to=20 * DAY)
    web = {"certificate": soon.cert, "key": soon.key}
    tls = {"cert_file": expired.cert, "key_file": expired.key, "ca_file": tmp_path / "none"}
    found = list(check_certificates(settings_of(web=web, mqtt={"broker": "mqtts://h", "tls": tls})))
    assert states(iter(found)) == {"web.certificate": "warn", "mqtt.tls.cert_file": "fail", "mqtt.tls.ca_file": "fail"}
    assert all(finding.advice for finding in found)
    several = tmp_path / "several.pem"  # one of its authorities has expired, as in those of an operating system
    several.write_bytes(expired.cert.read_bytes() + authority.cert.read_bytes())
    only_ca = {"broker": "mqtts://h", "tls": {"ca_file": several}}
    assert states(check_certificates(settings_of(mqtt=only_ca))) == {"mqtt.tls.ca_file": "warn"}
    long = authority.sign("long", valid_to=timedelta(days=400))
    web = {"certificate": long.cert, "key": long.key}
    assert states(check_certificates(settings_of(web=web))) == {"web.certificate": "ok"}


def test_a_port_is_free_or_says_that_another_program_has_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        threading.Thread(target=lambda: [other.accept()[0].close() for _ in range(2)], daemon=True).start()
        (taken,) = check_ports(config_of(web={"listen": listen}))
    assert taken.state == "fail" and "web.listen" in taken.advice
    assert states(check_ports(config_of(web={"listen": listen}))) == {"page": "ok"}


def test_folders_that_cannot_be_written_and_a_full_disk_fail(
    tmp_path: Path, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    found = states(check_folders(settings_of(profiles=tmp_path / "file" / "profiles")))
    assert found["profiles"] == "fail" and found["state"] == "ok" and found["disk"] in ("ok", "warn")
    monkeypatch.setenv("STATE_DIRECTORY", str(tiny_disk))
    assert states(check_folders(settings_of()))["disk"] == "fail"


def test_a_clock_that_was_never_set_fails() -> None:
    (found,) = check_clock(lambda: 86_400.0)
    assert found.state == "fail" and "1970" in found.text and "timedatectl" in found.advice
    (now,) = check_clock()
    assert now.state in ("ok", "warn")


@pytest.mark.parametrize(
    ("changed", "state", "part"),
    [
        ({}, "ok", "active, enabled"),
        ({"ActiveState": "failed", "Result": "exit-code"}, "fail", "journalctl"),
        ({"ActiveState": "inactive"}, "warn", "systemctl enable --now"),
        ({"UnitFileState": "disabled"}, "warn", "systemctl enable --now"),
        ({"NRestarts": "3"}, "warn", "why it was restarted"),
    ],
    ids=str,
)
def test_the_state_of_the_service_says_what_to_do(changed: dict[str, str], state: str, part: str) -> None:
    unit = {"ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0", "Result": "success"} | changed
    found = service_finding(unit)
    assert found.state == state and part in found.text + found.advice


def test_the_command_prints_a_line_a_check_and_fails_if_one_fails(
    tmp_path: Path, tiny_bundle: Path, mosquitto: Callable[..., MosquittoBroker], capsys: pytest.CaptureFixture[str]
) -> None:
    broker = mosquitto(password=("user", "secret"))
    (tmp_path / "password").write_text("secret")
    config = tmp_path / "agent.yaml"
    text = (
        f"source: {{source: {Path(__file__).parents[3] / 'demo/stream'}}}\ninference: {{bundle: {tiny_bundle}}}\n"
        f"http: {{listen: 'off'}}\n"
        f"mqtt: {{broker: '{broker.url}', username: user, password_file: {tmp_path}/password}}\n"
    )
    config.write_text(text)
    assert main(["doctor", "--config", str(config)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("ok    broker: connected") for line in lines), lines
    assert any(line.startswith("ok    source cam0: ") for line in lines) and " 0 failed" in lines[-1]

    (tmp_path / "password").write_text("wrong")
    assert main(["doctor", "--config", str(config), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (failed,) = [check for check in report["checks"] if check["state"] == "fail"]
    assert not report["ok"] and failed["check"] == "broker" and failed["advice"]
    assert "secret" not in str(report)

    config.write_text(f"{text}no_such_key: 1\n")
    assert main(["doctor", "--config", str(config)]) == 1
    told = capsys.readouterr().out
    assert "FAIL  config: " in told and "no_such_key" in told and "clock: " in told


@pytest.mark.parametrize(
    ("buffer_bytes", "mtu", "state", "advice"),
    [
        (33_554_432, 9000, "ok", ""),
        (212_992, 9000, "warn", "sysctl -w net.core.rmem_max=33554432"),
        (33_554_432, 1500, "warn", "MTU 9000"),
    ],
)
def test_what_a_network_camera_needs_of_the_machine(
    tmp_path: Path, buffer_bytes: int, mtu: int, state: str, advice: str
) -> None:
    for name, value in (("lo", 65_536), ("eth0", mtu)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mtu").write_text(f"{value}\n")
    (tmp_path / "rmem_max").write_text(f"{buffer_bytes}\n")
    (finding,) = check_receiving(tmp_path / "rmem_max", tmp_path)
    assert finding.state == state
    assert advice in finding.advice
    assert f"eth0 {mtu}" in finding.text


def test_gpio_lines_are_there_and_free(monkeypatch: pytest.MonkeyPatch) -> None:
    chips = fake_gpiod.install(monkeypatch)
    config = config_of(plant={"gpio": ({"chip": "/dev/gpiochip0", "ok": 1, "ng": "LINE2"},)})

    def found() -> tuple[str, str]:
        (finding,) = check_lines(config)
        return finding.state, finding.text

    assert found() == ("fail", "No such file or directory")
    chips["/dev/gpiochip0"] = FakeChip(2)
    assert found() == ("fail", "No such file or directory")  # no line has this name
    chips["/dev/gpiochip0"] = FakeChip()
    assert found() == ("ok", "ok 1, ng LINE2")
    chips["/dev/gpiochip0"].lines[2].used = True
    assert found() == ("fail", "line LINE2 is used by the kernel")
    monkeypatch.setitem(sys.modules, "gpiod", None)
    assert found() == ("fail", "gpiod is not installed")
