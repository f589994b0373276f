"""Marks of people: a part is good or bad. A mark changes the profile of the product at once.

`<profiles>/<product>/feedback/{good,bad}` hold `<id>.jpg` and `<id>.npy` of the marked parts.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from zsad_agent.learning.recent import RecentPart
from zsad_agent.system import write_whole
from zsad_agent.teaching import (
    KeptPicture,
    Networks,
    Observer,
    Picture,
    Profile,
    ProfileStore,
    Recall,
    distances_to,
    learn_good,
    teach_again,
    with_promise,
)
from zsad_core.data import GOOD
from zsad_core.errors import ImageError, ProfileError
from zsad_core.memory import recall_interval
from zsad_core.types import TAUGHT_THRESHOLD

BAD = "bad"
EVERY = 5  # every fifth taught picture is for tests
MAX_MARKED = 500  # of each kind and product; the oldest is deleted
MOST_SCORED = 50  # marked bad parts whose recall is measured, the newest
NEAREST = 3  # good parts that are named
HOT = 0.02  # share of a part's tokens: the most different ones

Named = tuple[str, Picture]


class Feedback:
    """Takes marks. For one thread at a time."""

    def __init__(self, store: ProfileStore, networks: Callable[[], Networks], prepare: Callable[[str], None]) -> None:
        """`store` and `prepare` as of `LineLearner`. `networks` gives those of the bundle in use."""
        self._store, self._networks, self._prepare = store, networks, prepare

    def give(self, part: RecentPart, *, good: bool) -> str:
        """Stores the mark and changes the profile. Returns the outcome as text.

        Raises:
            ZsadError: the profile cannot be used or stored; nothing has changed but the mark.
            OSError: the disk cannot store the mark.
        """
        mark(self._store, part, good=good)
        product = part.facts.product
        profile = self._store.current(product) if self._store.has(product) else None
        if profile is None:
            return f"{part.id}: kept as {'good' if good else 'bad'}. Nothing was taught about {product} yet"
        networks = self._networks()
        if not profile.fits(networks.features.bundle.sha256):
            raise ProfileError(
                f"the profile of {product} is being made again for this bundle. Mark the part again later"
            )
        change = _take_in if good else _take_out
        changed, text = change(profile, part, networks)
        changed, recall = _with_recall(changed, marked(self._store, product, good=False), networks)
        stored = self._store.add(replace(changed, made_of=None), instead_of=profile.sha256)
        self._prepare(product)
        return f"{part.id}: {text}. {recall}. Profile {stored.sha256[:12]} is in use"


def _take_in(profile: Profile, part: RecentPart, networks: Networks) -> tuple[Profile, str]:
    """The memory learns a good part."""
    score, _ = networks.score(profile, part.picture.image())
    if any(good.name == part.id for good in profile.goods):
        return profile, f"was already learned as good: its score is {score:.3f}"
    changed = learn_good(profile, part.picture, networks)
    now, now_z = networks.score(changed, part.picture.image())
    text = f"learned as good: its score was {score:.3f}, now it is {now:.3f}"
    if now >= TAUGHT_THRESHOLD:
        alone = networks.score(replace(changed, zero_shot_weight=0.0), part.picture.image())[1]
        limit = changed.levels[-1].scale
        why = "the bundle's own map sees a defect" if alone < limit else "the memory has no room for all of it"
        text += f", and it would still be rejected ({now_z:.1f}, the threshold is {limit:.1f}): {why}"
    return changed, text


def _take_out(profile: Profile, part: RecentPart, networks: Networks) -> tuple[Profile, str]:
    """The profile without a bad part, and which good parts it looks like."""
    image = part.picture.image()
    score, _ = networks.score(profile, image)
    others = [good for good in profile.goods if good.name != part.id]
    near = ", ".join(_nearest(profile, image, others, networks))
    text = (
        f"bad: its score is {score:.3f}, so it {'is rejected' if score >= TAUGHT_THRESHOLD else 'passes'}; the most "
        f"similar good parts are {near}"
    )
    if len(others) < len(profile.goods):
        rest = replace(profile, goods=tuple(others), apart=tuple(name for name in profile.apart if name != part.id))
        taught = teach_again(rest, networks)
        now, _ = networks.score(taught.profile, image)
        text += f". It was among the learned parts and was removed: its score is now {now:.3f}"
        if taught.outliers:
            text += f". Left out now, because they look different: {', '.join(one.name for one in taught.outliers)}"
        return taught.profile, text
    if part.id in profile.apart:
        profile = with_promise(replace(profile, apart=tuple(name for name in profile.apart if name != part.id)))
    return profile, text


def _nearest(profile: Profile, image: np.ndarray, goods: Sequence[KeptPicture], networks: Networks) -> list[str]:
    """The names of the good parts to which the part's most different tokens are nearest."""
    observer = Observer(networks.detector, networks.features)
    first, memory = next(iter(profile.scales.items()))
    tokens = observer.tokens(profile.part.locate(image), first).reshape(-1, memory.vectors.shape[1])
    away = distances_to(tokens, memory.vectors)
    hot = tokens[np.argsort(-away)[: max(1, round(HOT * len(tokens)))]]
    found = []
    for good in goods:
        try:
            theirs = observer.tokens(profile.part.locate(good.image()), first).reshape(-1, tokens.shape[1])
        except ImageError:
            continue
        found.append((float(distances_to(hot, theirs).mean()), good.name))
    return [name for _, name in sorted(found)[:NEAREST]]


def _with_recall(profile: Profile, bad: Sequence[KeptPicture], networks: Networks) -> tuple[Profile, str]:
    """The profile with the recall of the marked bad parts, if they are at least as many as those of teach-in."""
    some = bad[-MOST_SCORED:]
    if not some:
        return profile, "No part was marked as bad, so the recall is unknown"
    found = sum(networks.score(profile, picture.image())[0] >= TAUGHT_THRESHOLD for picture in some)
    low, high = recall_interval(found, len(some))
    old = profile.levels[-1].recall
    if old is None or old.total <= len(some):
        top = profile.levels[-1].model_copy(update={"recall": Recall(found=found, total=len(some))})
        profile = replace(profile, levels=(*profile.levels[:-1], top))
    return profile, f"Of {len(some)} parts marked as bad {found} are found (90 % confidence: {low:.0%} to {high:.0%})"


def mark(store: ProfileStore, part: RecentPart, *, good: bool) -> None:
    """Stores a part's picture and map as good or as bad.

    Raises:
        OSError: the disk cannot store it.
    """
    product = part.facts.product
    folder, other = (_folder(store, product, kind) for kind in ((GOOD, BAD) if good else (BAD, GOOD)))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{part.id}.npy", part.anomaly_map)
    write_whole(folder / f"{part.id}.jpg", part.picture.jpeg)
    _delete(other, part.id)
    oldest = sorted(folder.glob("*.jpg"), key=lambda path: path.stat().st_mtime_ns)[:-MAX_MARKED]
    for path in oldest:
        _delete(folder, path.stem)


def keep_bad(store: ProfileStore, product: str, pictures: Sequence[KeptPicture]) -> None:
    """Keeps pictures of bad parts, by their ids, as if they were marked.

    Raises:
        OSError: the disk cannot store them.
    """
    folder = _folder(store, product, BAD)
    if pictures:
        folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures[-MAX_MARKED:]:
        write_whole(folder / f"{picture.name}.jpg", picture.jpeg)


def marked(store: ProfileStore, product: str, *, good: bool) -> list[KeptPicture]:
    """The pictures of this kind, by id."""
    folder = _folder(store, product, GOOD if good else BAD)
    return [KeptPicture(name=path.stem, jpeg=path.read_bytes()) for path in sorted(folder.glob("*.jpg"))]


def export_dataset(store: ProfileStore, folder: Path, product: str | None = None) -> int:
    """Writes what was taught and marked as a data set, as `zsad_core.data.scan_dataset` reads it.

    `<product>/train/good` has four of five pictures that were taught, `test/good` the fifth ones and those that people
    marked as good, `test/bad` those that people marked as bad. `product`: the only one; None: all.

    Returns:
        The number of pictures.

    Raises:
        ProfileError: nothing was taught, a profile is damaged, or the folder exists or cannot be written.
    """
    count = 0
    products = store.products()
    if product is not None and product not in products:
        raise store.nothing(product)
    try:
        folder.mkdir(parents=True)
        for name in products if product is None else (product,):
            profile = store.current(name)
            goods = () if profile is None else profile.goods
            splits = {
                f"train/{GOOD}": [good for number, good in enumerate(goods) if number % EVERY],
                f"test/{GOOD}": [*goods[::EVERY], *marked(store, name, good=True)],
                f"test/{BAD}": marked(store, name, good=False),
            }
            for split, pictures in splits.items():
                for number, picture in enumerate(pictures, start=1):
                    path = folder / name / split / f"{number:04}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(picture.jpeg)
                    count += 1
    except FileExistsError as error:
        raise ProfileError(f"{folder}: is there already. Name a new folder for the data set") from error
    except OSError as error:
        raise ProfileError(f"{folder}: the data set cannot be written: {error.strerror or error}") from error
    if not count:
        folder.rmdir()
        raise ProfileError(f"{store.folder}: nothing was taught yet")
    return count


def _folder(store: ProfileStore, product: str, kind: str) -> Path:
    return store.folder / product / "feedback" / kind


def _delete(folder: Path, part_id: str) -> None:
    for suffix in (".jpg", ".npy"):
        (folder / f"{part_id}{suffix}").unlink(missing_ok=True)
