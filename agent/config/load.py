"""Merges the config file and the command-line flags into one checked `AgentConfig`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsad_agent.config.agent import AgentConfig
from zsad_agent.config.paths import DEFAULT_CONFIG_PATH
from zsad_core.config import Location, read_yaml, validate

# Keys of `source` that hold for the camera of the file, not for one that the command line names.
_OF_THE_CAMERA = frozenset({"aravis", "aravis_trigger", "pixel_format", "exposure_us", "gain", "snapshot"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The config, and where each of its keys was set."""

    config: AgentConfig
    path: Path | None  # None: there is no config file
    lines: Mapping[Location, int]  # 1-based line of every key in the file

    def where(self, *location: str | int) -> str:
        """`file:line: key`, or `file: key` for a key that is not in the file."""
        key = ".".join(map(str, location))
        if self.path is None:
            return key
        line = self.lines.get(location)
        return f"{self.path}:{line}: {key}" if line is not None else f"{self.path}: {key} (not set, the default)"


def load_settings(path: Path | None, flags: Mapping[str, Any] | None = None) -> Settings:
    """Reads the file, then applies the flags.

    Args:
        path: the config file; None: `/etc/zsad-agent/agent.yaml` if there is one, else the defaults.
        flags: section -> key -> value, or a key without a section -> value; only flags that were given.

    Raises:
        ConfigError: one line per fault, naming the file or the command line.
    """
    if path is None and DEFAULT_CONFIG_PATH.exists():
        path = DEFAULT_CONFIG_PATH
    values: dict[str, Any] = {}
    lines: dict[Location, int] = {}
    if path is not None:
        values, lines = read_yaml(path)
        validate(AgentConfig, values, str(path), lines)  # before the flags, so that a fault names its line
    for section, given in (flags or {}).items():
        if not isinstance(given, Mapping):
            values[section] = given
            continue
        merged = {**(values.get(section) or {}), **given}
        if section == "source" and given.keys() & {"camera", "source"}:
            values.pop("cameras", None)
            merged = {key: value for key, value in merged.items() if key not in _OF_THE_CAMERA}
            merged |= {key: given.get(key) for key in ("camera", "source")}
        if cameras := values.get("cameras"):
            values["cameras"] = [_with_flags(camera, section, given) for camera in cameras]
        if given and not (cameras and section == "source"):
            values[section] = merged
    return Settings(config=validate(AgentConfig, values, "command line"), path=path, lines=lines)


def _with_flags(camera: Mapping[str, Any], section: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """One of `cameras`, in which the flags of a section replace its own values."""
    if section == "source":
        return {**camera, **given}
    if section == "inference" and "product" in given:
        return {key: value for key, value in camera.items() if key != "product"}
    if section == "decision" and camera.get("decision") is not None:
        return {**camera, "decision": {**camera["decision"], **given}}
    return dict(camera)
