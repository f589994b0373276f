"""Merges the config file and the command-line flags into one checked `AgentConfig`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsad_agent.config.agent import AgentConfig
from zsad_agent.config.paths import DEFAULT_CONFIG_PATH
from zsad_core.config import Location, read_yaml, validate


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


def load_settings(path: Path | None, flags: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Reads the file, then applies the flags.

    Args:
        path: the config file; None: `/etc/zsad-agent/agent.yaml` if there is one, else the defaults.
        flags: section -> key -> value, only flags that were given.

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
        merged = dict(values.get(section) or {})
        if section == "source" and ("camera" in given or "source" in given):
            merged = {key: value for key, value in merged.items() if key not in ("camera", "source")}
            values.pop("cameras", None)
        if cameras := values.get("cameras"):
            given, values["cameras"] = _laid_over_cameras(section, given, cameras)
        if given:
            values[section] = {**merged, **given}
    return Settings(config=validate(AgentConfig, values, "command line"), path=path, lines=lines)


def _laid_over_cameras(
    section: str, given: Mapping[str, Any], cameras: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], list[dict[str, Any]]]:
    """The flags for the sections, and the cameras with the flags that each camera can have itself."""
    of_cameras = [dict(camera) for camera in cameras]
    if section == "source":
        return {}, [{**camera, **given} for camera in of_cameras]
    for camera in of_cameras:
        if section == "inference" and "product" in given:
            camera.pop("product", None)
        if section == "decision" and camera.get("decision") is not None:
            camera["decision"] = {**camera["decision"], **given}
    return given, of_cameras
