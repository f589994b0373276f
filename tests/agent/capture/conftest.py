"""Fixtures of the capture's tests."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from controlled_capture import Rig


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    started: list[Rig] = []

    def start(**settings: Any) -> Rig:
        started.append(Rig(**settings))
        return started[-1]

    yield start
    for one in started:
        one.end()
