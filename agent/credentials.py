"""The broker's password, from a file or a systemd credential: never from the command line, never in a log."""

import logging
import os
from pathlib import Path

from zsad_agent.mqtt_config import MqttConfig
from zsad_core.errors import ConfigError

logger = logging.getLogger(__name__)

OTHERS = 0o007  # permission bits of users that are neither the owner nor of the group
MAX_BYTES = 65_535  # longest password in MQTT


def password_key(config: MqttConfig) -> str:
    """The key below `mqtt` that names where the password is."""
    return "password_credential" if config.password_credential is not None else "password_file"


def read_password(config: MqttConfig) -> str | None:
    """The first line of the file that `config` names; None if it names none (a username may go without a password).

    Read anew for every connection, so that a changed password needs no restart.

    Raises:
        ConfigError: the file cannot be read or is empty, or there is one without a username.
    """
    path = _path(config)
    if path is None:
        return None
    where = f"mqtt.{password_key(config)}: {path}"
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 2)
        line = content.decode("utf-8").splitlines()[:1]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{where}: cannot be read: {reason}") from None  # a decoding error holds the bytes
    if not line or not line[0]:
        raise ConfigError(f"{where}: no password on the first line")
    if len(line[0].encode()) > MAX_BYTES:
        raise ConfigError(f"{where}: the first line is longer than the {MAX_BYTES} bytes that a password may have")
    return line[0]


def warn_of_open_file(config: MqttConfig) -> None:
    """Logs a warning if every user of the machine can read the password."""
    path = _path(config)
    if path is not None and path.exists() and path.stat().st_mode & OTHERS:
        logger.warning("mqtt.%s %s is open to every user of this machine: chmod o-rwx it", password_key(config), path)


def _path(config: MqttConfig) -> Path | None:
    named = config.password_credential if config.password_file is None else config.password_file
    if named is None:
        return None
    if config.username is None:
        raise ConfigError(f"mqtt.{password_key(config)} is {named}, but there is no mqtt.username: MQTT needs both")
    if config.password_file is not None:
        return config.password_file
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise ConfigError(
            f"mqtt.password_credential is {named}, but systemd passed no credentials: add "
            f"LoadCredential={named}:/path/of/the/file to the service, or set mqtt.password_file"
        )
    return Path(folder) / str(named)
