"""Folders, disk, clock and service of this machine."""

import ctypes
import getpass
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from zsad_agent.config import DEFAULT_CONFIG_PATH, AgentConfig, Settings, default_cache_dir, default_state_dir
from zsad_agent.doctor.finding import Finding

SERVICE = "zsad-agent"  # unit and user
UNITS = [Path(folder) / f"{SERVICE}.service" for folder in ("/etc/systemd/system", "/usr/lib/systemd/system")]
MIN_FREE_BYTES, LOW_FREE_BYTES = 100_000_000, 1_000_000_000
PLAUSIBLE_YEARS = range(2026, 2100)
_TIMEX_BYTES, _NOT_SYNCHRONISED = 512, 5  # more than struct timex has; TIME_ERROR
_ADVICE_OF_CLOCK = "timedatectl set-ntp true, or set it by hand: results and certificates need it"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the agent stores data."""

    state: Path
    cache: Path
    user: str  # who runs it


def place_of(settings: Settings) -> Place:
    """That of the service if it is installed and the config is its own, else that of this user."""
    if settings.path == DEFAULT_CONFIG_PATH and is_installed() and "STATE_DIRECTORY" not in os.environ:
        return Place(state=Path("/var/lib") / SERVICE, cache=Path("/var/cache") / SERVICE, user=SERVICE)
    return Place(state=default_state_dir(), cache=default_cache_dir(), user=getpass.getuser())


def is_installed() -> bool:
    """Whether there is a unit of the service."""
    return any(unit.exists() for unit in UNITS)


def check_folders(settings: Settings) -> Iterator[Finding]:
    """State, cache and profiles: can the agent's user write there, and is there room?"""
    place, config = place_of(settings), settings.config
    folders = {"state": place.state, "cache": place.cache, "profiles": config.profiles_folder(place.state)}
    for name, folder in folders.items():
        if folder is None:
            continue
        existing = _existing(folder)
        if not _may_write(existing, place.user, is_made=existing == folder):
            advice = f"sudo chown -R {place.user} {existing if existing == folder else folder}"
            text = f"{folder}: the user {place.user} cannot write there"
            yield Finding(check=name, state="fail", text=text, advice=advice)
        else:
            yield Finding(check=name, state="ok", text=f"{folder}: writable for {place.user}")
    yield _disk(place.state, config)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _may_write(folder: Path, user: str, *, is_made: bool) -> bool:
    """`is_made`: whether it exists. systemd makes the service's folders before its start."""
    if user == getpass.getuser():
        return os.access(folder, os.W_OK | os.X_OK) and folder.is_dir()
    if not is_made:
        return True
    try:
        account, status = pwd.getpwnam(user), folder.stat()
    except (KeyError, OSError):
        return False
    if status.st_uid == account.pw_uid:
        return bool(status.st_mode & 0o200)
    return bool(status.st_mode & (0o020 if status.st_gid == account.pw_gid else 0o002))


def _disk(folder: Path, config: AgentConfig) -> Finding:
    free = shutil.disk_usage(_existing(folder)).free
    text = f"{free / 1e9:.1f} GB free at {folder}"
    advice = "delete what is not needed, or lower spool.max_bytes, evidence.max_bytes and history.max_bytes"
    low = max(LOW_FREE_BYTES, config.evidence.min_free_bytes if config.keeps_evidence else 0)
    if free < MIN_FREE_BYTES:
        return Finding(check="disk", state="fail", text=text, advice=advice)
    return Finding(check="disk", state="warn" if free < low else "ok", text=text, advice=advice if free < low else "")


def check_clock(now_s: Callable[[], float] = time.time) -> Iterator[Finding]:
    """A plausible year, synchronised with a time server."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s()))
    if time.gmtime(now_s()).tm_year not in PLAUSIBLE_YEARS:
        yield Finding(check="clock", state="fail", text=f"{shown}: cannot be right", advice=_ADVICE_OF_CLOCK)
    elif ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) in (-1, _NOT_SYNCHRONISED):
        yield Finding(check="clock", state="warn", text=f"{shown}: not synchronised", advice=_ADVICE_OF_CLOCK)
    else:
        yield Finding(check="clock", state="ok", text=f"{shown}: synchronised")


def check_service() -> Iterator[Finding]:
    """The unit's state."""
    if not is_installed():
        advice = "systemd/install.sh or the Debian package installs it"
        yield Finding(check="service", state="ok", text="not installed as a service", advice=advice)
    elif not Path("/run/systemd/system").exists():
        yield Finding(check="service", state="ok", text="installed; systemd does not run here")
    else:
        keys = "ActiveState,UnitFileState,NRestarts,Result"
        command = ["systemctl", "show", SERVICE, "--property", keys]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=8, check=True).stdout
        yield service_finding(dict(line.split("=", 1) for line in shown.splitlines()))


def service_finding(unit: dict[str, str]) -> Finding:
    """Of the properties that `systemctl show` prints."""
    active, enabled, restarts = unit["ActiveState"], unit["UnitFileState"], unit["NRestarts"]
    text = f"{active}, {enabled}, restarts: {restarts}"
    if active == "failed":
        advice = "journalctl -u zsad-agent -n 50 says why"
        return Finding(check="service", state="fail", text=f"{text}, result: {unit['Result']}", advice=advice)
    if active != "active" or enabled != "enabled":
        advice = "to run it now and at each start: sudo systemctl enable --now zsad-agent"
        return Finding(check="service", state="warn", text=text, advice=advice)
    if restarts != "0":
        advice = "journalctl -u zsad-agent says why it was restarted"
        return Finding(check="service", state="warn", text=text, advice=advice)
    return Finding(check="service", state="ok", text=text)
