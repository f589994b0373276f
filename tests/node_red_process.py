"""A real Node-RED from npm in a folder of the test. Fetches Node-RED, and the Node.js that it needs."""

import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Self

import pytest
from mosquitto_broker import free_port

PACKAGES = ("node-red@5.0.7", "node@22.23.3")  # Debian's Node.js is too old for it
INSTALL_S, START_S = 600.0, 120.0


def install_node_red(folder: Path, *nodes: str, overrides: dict[str, str] | None = None) -> Path:
    """Installs Node-RED with further `nodes` of npm, and gives the folder."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm: apt-get install npm")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps({"name": "test", "private": True, "overrides": overrides or {}}))
    command = [npm, "install", "--no-audit", "--no-fund", "--omit=optional", *PACKAGES, *nodes]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class NodeRed:
    """Runs a file of flows.

    Args:
        installed: of `install_node_red`.
        folder: for its settings.
        flows: content of the file.
    """

    def __init__(self, installed: Path, folder: Path, flows: list[dict[str, Any]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "flows.json").write_text(json.dumps(flows))
        self._port = free_port()
        (folder / "settings.js").write_text(
            f'module.exports = {{flowFile: "flows.json", uiHost: "127.0.0.1", uiPort: {self._port}, '
            f"nodesDir: {json.dumps(str(installed / 'node_modules'))}, httpAdminRoot: false}}\n"
        )
        modules = installed / "node_modules"
        self._command = [str(modules / "node/bin/node"), str(modules / "node-red/red.js"), "--userDir", str(folder)]
        self._log = folder / "log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "HOME": str(self._log.parent)}
            )
        end_s = time.monotonic() + START_S
        while "Started flows" not in self.log:
            assert self._process.poll() is None and time.monotonic() < end_s, self.log
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(10)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str, body: bytes | None = None) -> str:
        """The body of an answer of the flows; with a `body` the request is a POST."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}{path}", body, timeout=30) as answer:
            return answer.read().decode()  # type: ignore[no-any-return]
