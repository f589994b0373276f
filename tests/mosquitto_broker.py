"""A real mosquitto for tests, on a free port, with its own settings; it can be started, stopped and killed."""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import pytest

START_S = 60.0


def mosquitto_binary() -> str:
    """The path of the binary. If it is missing, the test is skipped; in CI it fails."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if found is not None:
        return found
    reason = "needs a real broker: apt-get install mosquitto"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    """A port that nobody uses. No outgoing connection can take it later: these get ports from 32768."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class MosquittoBroker:
    """One broker, started by `start` or `with`; `port` does not change over restarts.

    Args:
        folder: for its config, log and database.
        persistent: keeps retained messages, sessions and queues over a `stop`.
        password: (user, password); other clients are refused.
        users: likewise, several users.
        anonymous: accepts clients without a password; default: only if there are no users.
        extra: further lines of its config.
        port: None: a free one.
    """

    def __init__(
        self,
        folder: Path,
        *,
        persistent: bool = False,
        password: tuple[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        anonymous: bool | None = None,
        extra: str = "",
        port: int | None = None,
    ) -> None:
        self._binary = mosquitto_binary()
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "mosquitto.log"
        self._config = folder / "mosquitto.conf"
        self.port = port if port is not None else free_port()
        users = dict([password]) if password else users or {}
        anonymous = not users if anonymous is None else anonymous
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {str(anonymous).lower()}"]
        lines += ["max_queued_messages 0", "log_type all"]
        if os.geteuid() == 0:
            lines.append("user root")  # otherwise it changes to a user without access to the folder
        if persistent:
            lines += ["persistence true", f"persistence_location {folder}/", "autosave_interval 1"]
        if users:
            store = folder / "passwords"
            store.touch(0o600)
            for user in users.items():
                subprocess.run(["mosquitto_passwd", "-b", str(store), *user], check=True, capture_output=True)
            lines.append(f"password_file {store}")
        self._config.write_text("\n".join([*lines, extra, ""]))

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Returns when it accepts connections."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binary, "-c", str(self._config)], stdout=log, stderr=subprocess.STDOUT
            )
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        raise AssertionError(f"mosquitto did not start:\n{self.log}")

    def stop(self) -> None:
        """Stops it in an orderly way; it saves its persistent state."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def reload(self) -> None:
        """Makes it read users and ACL again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def freeze(self) -> None:
        """Makes it hang: it accepts connections and bytes and does nothing with them."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def save(self) -> None:
        """Makes a persistent broker save its state, so that a later kill does not lose the sessions."""
        assert self._process is not None
        end_s = time.monotonic() + START_S
        for _ in range(2):  # it logs the beginning: the second one shows that the first has ended
            stored = self.log.count("Saving in-memory database")
            self._process.send_signal(signal.SIGUSR1)
            while self.log.count("Saving in-memory database") == stored:
                assert time.monotonic() < end_s, self.log
                time.sleep(0.01)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(START_S)
            self._process = None
