"""The broker's password, from a file: never from the command line, never in a log."""

import logging

from zsad_agent.mqtt_config import MqttConfig
from zsad_core.errors import ConfigError

logger = logging.getLogger(__name__)

OTHERS = 0o007  # permission bits of users that are neither the owner nor of the group


def read_password(config: MqttConfig) -> str | None:
    """The first line of `config.password_file`; None without one. A file that everybody can read is warned of.

    Raises:
        ConfigError: the file cannot be read or is empty, or there is one without a username.
    """
    path = config.password_file
    if path is None:
        return None
    if config.username is None:
        raise ConfigError(f"mqtt.password_file is {path}, but there is no mqtt.username: MQTT needs both")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"mqtt.password_file: {path}: cannot be read: {reason}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"mqtt.password_file: {path}: no password on the first line")
    if mode & OTHERS:
        logger.warning("mqtt.password_file %s is open to every user of this machine: chmod o-rwx it", path)
    return lines[0]
