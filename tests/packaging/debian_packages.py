"""The Debian packages of this checkout, and the same with a higher version."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from checkout import ROOT, copy_checkout, run

BUILD = ROOT / "packaging/deb/build.sh"


@dataclass(frozen=True, kw_only=True)
class Packages:
    agent: Path
    plant: Path
    newer_agent: Path
    newer_plant: Path

    def put_into(self, root: Path) -> None:
        """As /one.deb, /plant.deb, /two.deb and /two-plant.deb."""
        for package, name in (
            (self.agent, "one"),
            (self.plant, "plant"),
            (self.newer_agent, "two"),
            (self.newer_plant, "two-plant"),
        ):
            shutil.copy(package, root / f"{name}.deb")


def build_packages(folder: Path, python: str) -> Packages:
    """Builds them in a folder."""
    checkout = copy_checkout(folder / "checkout")
    run([checkout / BUILD.relative_to(ROOT), "--out", folder], PYTHON=python)
    (agent,), (plant,) = folder.glob("zsad-agent_*.deb"), folder.glob("zsad-agent-plant_*.deb")
    return Packages(agent=agent, plant=plant, newer_agent=_newer(agent), newer_plant=_newer(plant))


def _newer(package: Path) -> Path:
    content, newer = package.with_suffix(""), package.with_name(f"newer-{package.name}")
    run(["dpkg-deb", "-R", package, content])
    control = content / "DEBIAN/control"
    control.write_text(control.read_text().replace("\nVersion: ", "\nVersion: 99.").replace("(= ", "(= 99."))
    run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", content, newer])
    shutil.rmtree(content)
    return newer
