"""A network namespace joined to this one by a virtual cable. All frames on the cable can be dropped silently."""

import itertools
import os
import subprocess
from typing import Self

import pytest

_MADE = itertools.count()
NOBODY = "02:00:00:00:00:99"  # no interface has this address: frames are sent and never received


class Namespace:
    """Needs root. `here` and `there` are the addresses of the two ends."""

    def __init__(self) -> None:
        number = os.getpid() + next(_MADE)  # the kernel removes an earlier one when its last process has ended
        self._name = f"zsad-{number}"
        self._ends = (f"za{number}", f"zb{number}")
        subnet = f"10.{200 + number // 250 % 50}.{number % 250}"
        self.here, self.there = f"{subnet}.1", f"{subnet}.2"

    @property
    def wrapper(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self._name)

    def __enter__(self) -> Self:
        here, there = self._ends
        try:
            _ip("netns", "add", self._name)
            _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", self._name)
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            pytest.skip(f"needs root and the right to make a network namespace: {error}")
        _ip("addr", "add", f"{self.here}/30", "dev", here)
        _ip("link", "set", here, "up")
        _ip("-n", self._name, "addr", "add", f"{self.there}/30", "dev", there)
        for device in ("lo", there):
            _ip("-n", self._name, "link", "set", device, "up")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "del", self._name], capture_output=True, check=False)

    def black_hole(self) -> None:
        """Drops all frames in both directions from now on. Links, addresses and routes do not change."""
        here, there = self._ends
        _ip("neigh", "replace", self.there, "lladdr", NOBODY, "nud", "permanent", "dev", here)
        _ip("-n", self._name, "neigh", "replace", self.here, "lladdr", NOBODY, "nud", "permanent", "dev", there)

    def heal(self) -> None:
        here, there = self._ends
        _ip("neigh", "del", self.there, "dev", here)
        _ip("-n", self._name, "neigh", "del", self.here, "dev", there)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
