from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference_dir(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.getoption("--reference-dir"))
