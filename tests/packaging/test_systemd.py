"""The service: unit, example config, and install and uninstall in a folder instead of the system's root."""

import functools
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ROOT, run

from zsad_agent.cli.main import COMMANDS
from zsad_agent.config import AgentConfig, CameraConfig
from zsad_core.config import read_yaml, validate

SYSTEMD = ROOT / "systemd"
UNIT = SYSTEMD / "zsad-agent.service"
INSTALL, UNINSTALL = SYSTEMD / "install.sh", SYSTEMD / "uninstall.sh"
MAX_EXPOSURE = 1.5  # exposure level of systemd-analyze security, 0 to 10

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs the package systemd")

Install = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture(scope="session")
def install_into(wheel: Path, dependencies: Path) -> Install:
    """Runs install.sh for a root folder; dependencies come from this environment and not from a registry."""

    def install(root: Path, *arguments: str, exit_code: int = 0, python: str = sys.executable) -> str:
        return run(
            [INSTALL, "--root", root, "--wheel", wheel, "--python", python, *arguments],
            exit_code=exit_code,
            PIP_NO_DEPS="1",
            PIP_NO_INDEX="1",
            PYTHONPATH=dependencies,
        )

    return install


@pytest.fixture
def install(root: Path, install_into: Install) -> Install:
    return functools.partial(install_into, root)


@pytest.fixture(scope="session")
def first_install(tmp_path_factory: pytest.TempPathFactory, install_into: Install) -> tuple[Path, str]:
    """(root, output of install.sh); tests may read and copy it."""
    root = tmp_path_factory.mktemp("first") / "root"
    return root, install_into(root)


@pytest.fixture
def installed(root: Path, first_install: tuple[Path, str]) -> Path:
    """A copy of that root. Its program starts from the path of its installation."""
    return Path(shutil.copytree(first_install[0], root, symlinks=True))


@needs_systemd
def test_unit_is_valid(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    # `verify` requires that the program exists, which is true only after an installation.
    unit.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text(), flags=re.MULTILINE))
    assert run(["systemd-analyze", "verify", unit]) == ""


@needs_systemd
def test_unit_is_hardened() -> None:
    report = run(["systemd-analyze", "security", "--offline=yes", "--no-pager", UNIT])
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", report)
    assert exposure is not None
    assert float(exposure[1]) <= MAX_EXPOSURE, report


def test_unit_allows_writable_executable_memory_for_openvino() -> None:
    assert not re.search(r"^MemoryDenyWriteExecute=", UNIT.read_text(), flags=re.MULTILINE)


def test_example_config_is_valid() -> None:
    values, lines = read_yaml(SYSTEMD / "agent.yaml")
    assert validate(AgentConfig, values, "agent.yaml", lines).source.camera == "0"


def test_example_config_shows_every_key_and_the_true_defaults(tmp_path: Path) -> None:
    body = (SYSTEMD / "agent.yaml").read_text().partition("\n\n")[2]  # without the header
    settings = re.sub(r"^# ", "", body, flags=re.MULTILINE)
    (tmp_path / "all.yaml").write_text(settings)
    values, lines = read_yaml(tmp_path / "all.yaml")
    examples = {number for number, line in enumerate(settings.splitlines(), 1) if "# e.g." in line}

    shown = {path for path in lines if len(path) == (2 if isinstance(values[path[0]], dict) else 1)}
    defaults = AgentConfig().model_dump(mode="json")
    assert shown == {
        (section, key) if key else (section,)
        for section, value in defaults.items()
        for key in (value if isinstance(value, dict) else [None])
    }
    for path in shown:
        value, default = values, defaults
        for part in path:
            value, default = value[part], default[part]
        if lines[path] not in examples and path != ("source", "camera"):
            assert value == default, path

    assert set(values["cameras"][0]) | set(values["source"]) == set(CameraConfig.model_fields)
    del values["source"]["source"], values["source"]["aravis"], values["mqtt"]["password_credential"]  # alternatives
    cameras = values.pop("cameras")
    validate(AgentConfig, values, "all.yaml", lines)
    del values["source"]
    values["plant"]["gpio"][0]["camera"] = cameras[0]["name"]
    validate(AgentConfig, values | {"cameras": cameras}, "all.yaml", lines)


def test_install_creates_program_config_and_unit(first_install: tuple[Path, str], dependencies: Path) -> None:
    root, told = first_install
    assert "systemctl enable --now zsad-agent" in told
    assert "--camera" in run([root / "opt/zsad-agent/venv/bin/zsad-agent", "--help"], PYTHONPATH=dependencies)
    assert (root / "usr/local/bin/zsad-agent").readlink() == Path("/opt/zsad-agent/venv/bin/zsad-agent")
    assert (root / "etc/zsad-agent/agent.yaml").read_text() == (SYSTEMD / "agent.yaml").read_text()
    assert (root / "etc/systemd/system/zsad-agent.service").read_text() == UNIT.read_text()


def test_install_adds_a_manual_page_of_every_command(first_install: tuple[Path, str]) -> None:
    page = first_install[0] / "usr/local/share/man/man1/zsad-agent.1"
    text = page.read_text()
    for command in COMMANDS:
        assert f".SH ZSAD-AGENT {command.upper()}\n" in text
    assert r"\-\-max\-frames" in text
    if shutil.which("groff") is not None:
        assert "warning" not in run(["groff", "-man", "-Tutf8", "-ww", page])


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["zsad-agent", "d"], {"doctor"}),
        (["zsad-agent", "--max"], {"--max-frames"}),
        (["zsad-agent", "score", "--js"], {"--json"}),
        (["zsad-agent", "score", "pict"], set()),  # bash completes a file name
    ],
    ids=" ".join,
)
def test_bash_completes_commands_and_flags(
    words: list[str], offered: set[str], first_install: tuple[Path, str], dependencies: Path
) -> None:
    root = first_install[0]
    file = root / "usr/local/share/bash-completion/completions/zsad-agent"
    typed = f"COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}"
    script = f'. {file}; {typed}; _zsad_agent; echo "${{COMPREPLY[@]}}"'
    told = run(["bash", "-c", script], PYTHONPATH=dependencies, PATH=f"{root}/opt/zsad-agent/venv/bin:/usr/bin:/bin")
    assert set(told.split()) == offered


def test_install_refuses_beside_the_debian_package(root: Path, install: Install) -> None:
    unit = root / "usr/lib/systemd/system/zsad-agent.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert "apt-get remove zsad-agent" in install(exit_code=1)
    assert [path for path in root.rglob("*") if path.is_file()] == [unit]


def test_the_page_can_write_the_config() -> None:
    unit = UNIT.read_text()
    assert re.search(r"^ReadWritePaths=/etc/zsad-agent$", unit, flags=re.MULTILINE)
    assert re.search(r"^ConfigurationDirectoryMode=2775$", unit, flags=re.MULTILINE)


def test_second_install_keeps_the_config_and_one_program(installed: Path, install: Install) -> None:
    root = installed
    first = (root / "opt/zsad-agent/venv").resolve()
    config = root / "etc/zsad-agent/agent.yaml"
    config.write_text("device_id: mine\n")
    install()
    assert config.read_text() == "device_id: mine\n"
    assert [path.name for path in (root / "opt/zsad-agent").glob("venv-*")] == [
        (root / "opt/zsad-agent/venv").readlink().name
    ]
    assert (root / "opt/zsad-agent/venv").resolve() != first


def test_install_with_an_invalid_config_changes_nothing(installed: Path, install: Install) -> None:
    root = installed
    first = (root / "opt/zsad-agent/venv").resolve()
    (root / "etc/zsad-agent/agent.yaml").write_text("no_such_key: 1\n")
    told = install(exit_code=1)
    assert "no_such_key" in told
    assert "nothing was replaced" in told
    assert (root / "opt/zsad-agent/venv").resolve() == first
    assert [path.resolve() for path in (root / "opt/zsad-agent").glob("venv-*")] == [first]


def test_a_dry_run_prints_the_steps_and_changes_nothing(root: Path, install: Install) -> None:
    told = install("--dry-run")
    assert f"would run: install -m 644 {UNIT} {root}/etc/systemd/system/zsad-agent.service" in told
    assert not root.exists()


def test_uninstall_keeps_config_and_data_unless_purged(installed: Path) -> None:
    root = installed
    spool = root / "var/lib/zsad-agent/spool.sqlite3"
    spool.parent.mkdir(parents=True)
    spool.touch()
    run([UNINSTALL, "--root", root])
    assert not [path for path in root.rglob("*") if path.is_symlink()]
    assert {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()} == {
        "etc/zsad-agent/agent.yaml",
        "var/lib/zsad-agent/spool.sqlite3",
    }
    run([UNINSTALL, "--root", root, "--purge"])
    assert not [file for file in root.rglob("*") if file.is_file()]
    run([UNINSTALL, "--root", root, "--purge"])  # a second purge is no failure


@pytest.mark.parametrize("script", [INSTALL, UNINSTALL])
def test_scripts_refuse_to_change_the_system_without_root(script: Path, tmp_path: Path) -> None:
    fake_id = tmp_path / "id"
    fake_id.write_text("#!/bin/sh\necho 1000\n")
    fake_id.chmod(0o755)
    assert "must be root" in run([script], exit_code=1, PATH=f"{tmp_path}:/usr/bin:/bin")


def test_install_refuses_an_old_python(root: Path, install: Install, tmp_path: Path) -> None:
    old_python = tmp_path / "python3"
    old_python.write_text("#!/bin/sh\nexit 1\n")
    old_python.chmod(0o755)
    assert "needed is Python >= 3.11" in install(python=str(old_python), exit_code=1)
    assert not root.exists()


@pytest.mark.parametrize("arguments", [["--whel", "x"], ["--root"]])
def test_install_refuses_wrong_usage(arguments: list[str]) -> None:
    assert arguments[0] in run([INSTALL, *arguments], exit_code=2)
