from pathlib import Path

import cv2
import numpy as np
import pytest

from zsad_agent.config import SourceConfig
from zsad_agent.probing import probe_source
from zsad_core.errors import SourceError


def test_a_damaged_first_picture_is_passed_over_and_named_if_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"\x89PNG\r\n\x1a\ncut")
    with pytest.raises(SourceError, match="1\\.png"):
        probe_source(SourceConfig(source=str(tmp_path)))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((48, 64, 3), 90, np.uint8))
    assert probe_source(SourceConfig(source=str(tmp_path))).startswith(b"\xff\xd8")
