"""The commands of docs/fleet.md run, in their order, against two real agents with the config of the document."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from agent_process import AgentProcess
from bundle_attacks import change_manifest, copy_bundle
from bundle_store_server import BundleStoreServer
from certificate_maker import Authority
from fleet_plant import Watcher, sha256_of
from mosquitto_broker import MosquittoBroker
from plant_operator import write_parts

DOCUMENT = (Path(__file__).parents[3] / "docs/fleet.md").read_text()
PROGRAMS = {"zsad-fleet": "zsad_convert.fleet.cli", "zsad-convert": "zsad_convert.cli"}


def test_every_command_of_the_document_works(
    mosquitto: Callable[..., MosquittoBroker], tiny_bundle: Path, tmp_path: Path
) -> None:
    broker, authority = mosquitto(), Authority(tmp_path)
    (tmp_path / "served").mkdir()
    for program, module in PROGRAMS.items():
        (tmp_path / program).write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        (tmp_path / program).chmod(0o755)
    first, new = (copy_bundle(tiny_bundle, tmp_path / name) for name in ("first", "mine"))
    old = sha256_of(first)
    change_manifest(new, version="0.0.2")
    blocks = re.findall(r"^```bash\n(.*?)^```$", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    (config,) = re.findall(r"^```yaml\n(.*?)^```$", DOCUMENT, flags=re.MULTILINE | re.DOTALL)
    with BundleStoreServer(tmp_path / "served", authority.sign("store")) as store:
        places = {
            "mqtts://broker.plant": broker.url,
            "https://store.plant/bundles": store.url,
            "/srv/bundles/": f"{tmp_path}/served/",
            "/etc/zsad-agent/line.pub": f"{tmp_path}/line.pub",
            "/etc/zsad-agent/plant-ca.pem": str(authority.cert),
        }

        def run(script: str) -> str:
            environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
            ran = subprocess.run(
                ["bash", "-euc", replaced(script)],
                cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stdout + ran.stderr
            return ran.stdout

        def replaced(text: str) -> str:
            for place, here in places.items():
                text = text.replace(place, here)
            return text

        run(blocks[0])
        run("zsad-convert sign first --key line.key")
        assert shutil.which("zsad-fleet", path=str(tmp_path)) and len(blocks) == 3
        agents = [agent_of(tmp_path / name, first, yaml.safe_load(replaced(config)), broker) for name in "ab"]
        with agents[0] as one, agents[1] as two, Watcher(broker.port) as watcher:
            watcher.wait_ready("a", "b")
            assert "done: 2 done" in (said := run(blocks[1])), said
            watcher.wait_for(lambda: all(watcher.bundles_of(name) == [old, sha256_of(new)] for name in "ab"))
            assert "done: 2 done" in run(blocks[2])
            watcher.wait_for(lambda: all(watcher.bundles_of(name) == [old, sha256_of(new), old] for name in "ab"))
            assert "Traceback" not in one.output + two.output


def agent_of(folder: Path, bundle: Path, config: dict[str, object], broker: MosquittoBroker) -> AgentProcess:
    """A device with the document's config, and what only its place decides."""
    folder.mkdir()
    write_parts(folder / "parts", blot=120)
    agent = AgentProcess(folder, bundle, device_id=folder.name)
    own = yaml.safe_load((folder / "agent.yaml").read_text())
    own["inference"] |= config.pop("inference")
    own["source"] = {"source": str(folder / "parts"), "loop": True, "fps": 60}
    own["mqtt"] = {"broker": broker.url}
    (folder / "agent.yaml").write_text(yaml.safe_dump(own | config))
    return agent
