"""The validation part of the training data: by hash of a name, so that it depends on no order and no machine."""

import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def split(items: Iterable[T], key: Callable[[T], str], fraction: float, seed: int) -> tuple[list[T], list[T]]:
    """(training part, validation part); an item is validation when the hash of its key is in the lowest `fraction`."""
    parts: tuple[list[T], list[T]] = ([], [])
    for item in items:
        parts[_unit_hash(key(item), seed) < fraction].append(item)
    return parts


def at_most(
    items: Iterable[T], key: Callable[[T], str], group: Callable[[T], object], count: int, seed: int
) -> list[T]:
    """At most `count` items of each group, those of the lowest hash."""
    groups: dict[object, list[T]] = defaultdict(list)
    for item in items:
        groups[group(item)].append(item)
    return [
        item
        for members in groups.values()
        for item in sorted(members, key=lambda member: _unit_hash(key(member), seed + 1))[:count]
    ]


def _unit_hash(key: str, seed: int) -> float:
    return zlib.crc32(f"{seed}:{key}".encode()) / 2**32
