"""Chooses the validation part of the training data by a hash of names. It is the same on every machine."""

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


def split_groups(
    items: Iterable[T], key: Callable[[T], str], group: Callable[[T], object], fraction: float, seed: int
) -> tuple[list[T], list[T]]:
    """As `split`, but a group of two or more items has at least one in each part.

    Args:
        items: in any order; the parts keep it.
        key: unique for each item.
        group: the group of an item.
        fraction: share of validation items, 0 to 1.
        seed: of the hash.
    """
    groups: dict[object, list[T]] = defaultdict(list)
    for item in (items := list(items)):
        groups[group(item)].append(item)
    held_out: set[str] = set()
    for members in groups.values():
        keys = sorted(map(key, members), key=lambda name: _unit_hash(name, seed))
        count = sum(_unit_hash(name, seed) < fraction for name in keys)
        held_out.update(keys[: min(max(count, 1), len(keys) - 1)] if len(keys) > 1 else keys[:count])
    parts: tuple[list[T], list[T]] = ([], [])
    for item in items:
        parts[key(item) in held_out].append(item)
    return parts


def at_most(
    items: Iterable[T], key: Callable[[T], str], group: Callable[[T], object], count: int, seed: int
) -> list[T]:
    """At most `count` items of each group, those with the lowest hash."""
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
