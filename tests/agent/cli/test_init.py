"""`zsad-agent init`: the config that it writes, and its questions on a terminal."""

import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from zsad_agent.cli.main import main
from zsad_agent.config import load_settings
from zsad_agent.probing import Device


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


def answer_on_terminal(answers: list[str], *arguments: str) -> tuple[int, str]:
    """Exit code and output of `zsad-agent init` on a terminal where `answers` are typed."""
    ours, theirs = pty.openpty()
    os.write(ours, "".join(f"{answer}\n" for answer in answers).encode())
    command = [sys.executable, "-m", "zsad_agent.cli", "init", *arguments]
    done = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=180, check=False)
    os.close(ours)
    os.close(theirs)
    return done.returncode, done.stdout + done.stderr


def test_defaults_give_a_config_without_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "agent.yaml"
    assert main(["init", "--yes", "--camera", "0", "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert f"zsad-agent --config {out}" in told and f"zsad-agent doctor --config {out}" in told
    assert "http://127.0.0.1:8080" in told
    assert main(["check", "--config", str(out)]) == 0
    config = load_settings(out).config
    assert (config.source.camera, config.inference.product, config.source.trigger) == ("0", "object", "free")
    assert config.web.listen == "127.0.0.1:8080" and config.keeps_history
    assert stat.S_IMODE(out.stat().st_mode) & 0o007 == 0  # the address of a camera may hold a password


def test_the_page_of_an_installed_service_can_write_the_config(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc").chmod(0o2775)  # as `install.sh` makes it
    out = tmp_path / "etc" / "agent.yaml"
    assert main(["init", "--yes", "--camera", "0", "--out", str(out)]) == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o660


def test_every_question_is_also_a_flag(tmp_path: Path) -> None:
    out, parts = tmp_path / "agent.yaml", tmp_path / "my parts"
    parts.mkdir()
    flags = ["--source", str(parts), "--trigger", "folder", "--product", "bottle"]
    flags += ["--broker", "mqtts://broker:8884", "--page", "off"]
    assert main(["init", "--yes", "--out", str(out), *flags]) == 0
    config = load_settings(out).config
    assert (config.source.source, config.source.trigger) == (str(parts), "folder")
    assert (config.inference.product, config.mqtt.broker) == ("bottle", "mqtts://broker:8884")
    assert not config.web.on


def test_a_genicam_camera_is_found_and_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, device = tmp_path / "agent.yaml", Device(key="aravis", id="B-1", path="B-1", by_id=None, name="GenICam")
    monkeypatch.setattr("zsad_agent.probing.list_devices", list)
    monkeypatch.setattr("zsad_agent.probing.list_genicam", lambda: [device])
    assert main(["init", "--yes", "--product", "gear7", "--out", str(out)]) == 0
    assert load_settings(out).config.source.aravis == "B-1"
    assert f"zsad-agent teach --config {out} --product gear7" in capsys.readouterr().out
    assert main(["init", "--yes", "--aravis", "10.0.0.7", "--out", str(out), "--force"]) == 0
    assert load_settings(out).config.source.aravis == "10.0.0.7"


def test_a_plc_gets_the_door_that_it_needs(tmp_path: Path) -> None:
    out = tmp_path / "agent.yaml"
    assert main(["init", "--yes", "--camera", "0", "--trigger", "plc", "--out", str(out)]) == 0
    config = load_settings(out).config
    assert (config.source.trigger, config.plant.modbus.listen) == ("plc", "127.0.0.1:1502")


def test_teaching_a_new_product_is_the_next_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "agent.yaml"
    assert main(["init", "--yes", "--camera", "0", "--product", "gädget 7", "--out", str(out)]) == 0
    assert "zsad-agent teach --camera 0 --product 'gädget 7'" in capsys.readouterr().out
    assert load_settings(out).config.inference.product == "gädget 7"


def test_a_product_with_which_the_agent_does_not_start_is_a_comment(tmp_path: Path) -> None:
    out = tmp_path / "agent.yaml"
    assert main(["init", "--yes", "--camera", "0", "--product", "bottle7", "--out", str(out)]) == 0
    assert '  # product: "bottle7"' in out.read_text(encoding="utf-8")
    assert load_settings(out).config.inference.product == "object"


def test_a_file_that_is_there_is_kept_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "agent.yaml"
    out.write_text("device_id: mine\n")
    assert main(["init", "--yes", "--out", str(out)]) == 2
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "device_id: mine\n"
    assert main(["init", "--yes", "--camera", "0", "--out", str(out), "--force"]) == 0
    assert "device_id" not in out.read_text()


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--source", "/no/such/folder"], "no such video, picture or folder"),
        (["--camera", "cam"], "expected an index such as 0"),
        (["--camera", "0", "--trigger", "folder"], "trigger: folder needs source"),
        (["--product", "a/b"], "holds no slash"),
        (["--broker", "broker"], "expected mqtt://host[:port]"),
        (["--page", "8080"], "expected off or host:port"),
    ],
    ids=" ".join,
)
def test_a_wrong_answer_writes_nothing(
    flags: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "agent.yaml"
    assert main(["init", "--yes", "--out", str(out), *flags]) == 2
    assert part in capsys.readouterr().err
    assert not out.exists()


def test_without_a_terminal_it_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zsad_agent.cli", "init", "--out", str(tmp_path / "agent.yaml")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "--yes" in done.stderr
    assert not (tmp_path / "agent.yaml").exists()


def test_questions_are_asked_again_until_the_answer_can_be_used(tmp_path: Path) -> None:
    out, parts = tmp_path / "agent.yaml", tmp_path / "parts"
    parts.mkdir()
    answers = ["rtsp:camera", str(parts), "a/b", "bottle", "mqtt://127.0.0.1:1", "sometimes", "folder", "8080", ""]
    code, told = answer_on_terminal(answers, "--out", str(out))
    assert code == 0, told
    assert "Connection refused" in told  # the broker was tried
    assert [told.count(f"{number}/5 ") for number in range(1, 6)] == [2, 2, 1, 2, 2]
    config = load_settings(out).config
    assert (config.source.source, config.source.trigger) == (str(parts), "folder")
    assert (config.inference.product, config.mqtt.broker) == ("bottle", "mqtt://127.0.0.1:1")
    assert config.web.listen == "127.0.0.1:8080"


def test_a_terminal_that_ends_writes_nothing(tmp_path: Path) -> None:
    code, told = answer_on_terminal(["0", "\x04"], "--out", str(tmp_path / "agent.yaml"))
    assert code == 2 and "nothing was written" in told
    assert not (tmp_path / "agent.yaml").exists()
