"""The folders of the agent: state, cache, config, and the bundles that ship."""

import os
from pathlib import Path

from zsad_core.errors import ConfigError

DEFAULT_CONFIG_PATH = Path("/etc/zsad-agent/agent.yaml")
SHIPPED_BUNDLES = Path(__file__).parents[1] / "bundles"
SHIPPED_BUNDLE = SHIPPED_BUNDLES / "zsad-small"


def default_state_dir() -> Path:
    """The folder of the spool: systemd's StateDirectory, else the user's XDG state folder."""
    return _folder("STATE_DIRECTORY", "XDG_STATE_HOME", ".local/state")


def default_cache_dir() -> Path:
    """The folder of compiled models: systemd's CacheDirectory, else the user's XDG cache folder."""
    return _folder("CACHE_DIRECTORY", "XDG_CACHE_HOME", ".cache")


def _folder(of_service: str, variable: str, below_home: str) -> Path:
    """The first folder in `of_service`, else `zsad-agent` in the absolute path of `variable`, else below the home.

    Raises:
        ConfigError: there is none, for example for a user id without an account.
    """
    if folders := os.environ.get(of_service):
        return Path(folders.split(":")[0])
    named = Path(os.environ.get(variable, ""))
    if named.is_absolute():
        return named / "zsad-agent"
    try:
        return Path.home() / below_home / "zsad-agent"
    except RuntimeError as error:
        raise ConfigError(f"this user has no home folder. Set {variable} to an absolute path.") from error
