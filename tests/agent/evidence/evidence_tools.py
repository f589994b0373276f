"""Evidence sets for several test files."""

from pathlib import Path
from typing import Any

import numpy as np

from zsad_agent.config import EvidenceConfig

PICTURE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)


def config(**changes: Any) -> EvidenceConfig:
    return EvidenceConfig(**({"enabled": True, "min_free_bytes": 0} | changes))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def put_set(folder: Path, day: str, time_of_day: str = "120000.000", size: int = 100, camera: str = "cam0") -> Path:
    path = folder / camera / day / f"{time_of_day}-line3-b0-1.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path
