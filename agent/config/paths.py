"""The folders of the agent: state, cache, config, and the bundles that ship."""

import os
from pathlib import Path

from zsad_core.errors import ConfigError

DEFAULT_CONFIG_PATH = Path("/etc/zsad-agent/agent.yaml")

SHIPPED_BUNDLES = Path(__file__).parents[1] / "bundles"

SHIPPED_BUNDLE = SHIPPED_BUNDLES / "zsad-small"


def default_state_dir() -> Path:
    """The folder of the spool: systemd's StateDirectory, else the user's XDG state folder."""
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0])
    return _xdg_folder("XDG_STATE_HOME", ".local/state")


def default_cache_dir() -> Path:
    """The folder of compiled models: systemd's CacheDirectory, else the user's XDG cache folder."""
    if cache := os.environ.get("CACHE_DIRECTORY"):
        return Path(cache.split(":")[0])
    return _xdg_folder("XDG_CACHE_HOME", ".cache")


def _xdg_folder(variable: str, below_home: str) -> Path:
    """The agent's folder below the absolute path in `variable` (XDG base directories), else below the home folder.

    Raises:
        ConfigError: there is neither, for example for a user id without an account.
    """
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named / "zsad-agent"
    try:
        return Path.home() / below_home / "zsad-agent"
    except RuntimeError as error:
        raise ConfigError(f"this user has no home folder. Set {variable} to an absolute path.") from error
