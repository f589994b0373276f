"""The pictures of `teach.py`: seeded draws of good parts for the teach-in, and the pictures that test it.

A draw takes K pictures of `train/good`; others of that folder are held out, for the found rate of false rejects.
The draw of a larger K holds that of a smaller one. Products without `train/good` (most of mvtec_ad_mini) give at most
half of `test/good` to the draw, and the rest of it is tested.

A stream is a draw with defective pictures among the good ones, taken from the tests: at most half of these.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zsad_core.data import Sample, raise_faults, scan_dataset
from zsad_core.errors import DatasetError

MASK_FOLDERS = {"deeppcb": "ground_truth_xor"}  # pixel masks; the layout's own are boxes
PER_FOLDER_SEED = 0
STREAM = 200  # pictures


@dataclass(frozen=True, kw_only=True)
class Product:
    """A product of a data set."""

    name: str  # data set and product
    goods: tuple[Sample, ...]  # a draw chooses among them
    tests: tuple[Sample, ...]
    from_tests: bool  # `goods` are also in `tests`
    per_folder: int  # most pictures of a folder, in `tests` and held out

    @property
    def most(self) -> int:
        """The largest number of goods that a draw may take."""
        return len(self.goods) // 2 if self.from_tests else len(self.goods)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """The pictures of one teach-in and its test."""

    goods: tuple[Sample, ...]  # of a stream: all pictures, in its order
    held_out: tuple[Sample, ...]  # good pictures of `train/good` that were not drawn
    tests: tuple[Sample, ...]


def read_products(dataset: Path, per_folder: int) -> list[Product]:
    """The products of a data set; at most `per_folder` pictures of each folder are tested, chosen by a fixed seed.

    Raises:
        DatasetError: it cannot be read, or a product has no good pictures.
    """
    found, faults = scan_dataset(dataset, mask_folder=MASK_FOLDERS.get(dataset.name))
    raise_faults(faults)
    products = []
    for name in sorted({sample.product for sample in found}):
        own = [sample for sample in found if sample.product == name]
        train = [sample for sample in own if sample.split == "train" and not sample.is_anomalous]
        tests = [sample for sample in own if sample.split == "test"]
        goods = train or [sample for sample in tests if not sample.is_anomalous]
        if not goods:
            raise DatasetError(f"{dataset}: {name} has no pictures of good parts")
        chosen = [one for defect in sorted({s.defect for s in tests}) for one in _some(tests, defect, per_folder)]
        products.append(
            Product(
                name=f"{dataset.name}/{name}",
                goods=tuple(goods),
                tests=tuple(sorted(chosen)),
                from_tests=not train,
                per_folder=per_folder,
            )
        )
    return products


def possible_counts(product: Product, asked: Iterable[int]) -> list[int]:
    """The numbers of goods to draw: those asked, each at most what the product has, none twice."""
    return sorted({min(count, product.most) for count in asked})


def draw_goods(product: Product, count: int, number: int) -> Draw:
    """Draw `number` of `count` good pictures."""
    rng = np.random.default_rng([number, zlib.crc32(product.name.encode())])
    order = [product.goods[index] for index in rng.permutation(len(product.goods))]
    drawn, others = order[:count], order[count:]
    taken = {sample.key for sample in drawn}
    return Draw(
        goods=tuple(drawn),
        held_out=() if product.from_tests else tuple(others[: product.per_folder]),
        tests=tuple(sample for sample in product.tests if sample.key not in taken),
    )


def stream_length(product: Product, share: float) -> int:
    """The most pictures, up to `STREAM`, of a stream with this share of defective ones; 0: no stream is possible."""
    defective = sum(sample.is_anomalous for sample in product.tests) // 2
    return 0 if product.from_tests else int(min(STREAM, len(product.goods) / (1 - share), defective / share))


def draw_stream(product: Product, share: float, number: int) -> Draw:
    """Stream `number` with a share of defective pictures, in (0, 1)."""
    length = stream_length(product, share)
    bad = [sample for sample in product.tests if sample.is_anomalous]
    rng = np.random.default_rng([number, round(1000 * share), zlib.crc32(product.name.encode())])
    taken = [bad[index] for index in rng.permutation(len(bad))[: round(length * share)]]
    clean = draw_goods(product, length - len(taken), number)
    stream = [*clean.goods, *taken]
    return Draw(
        goods=tuple(stream[index] for index in rng.permutation(len(stream))),
        held_out=clean.held_out,
        tests=tuple(sample for sample in product.tests if sample not in taken),
    )


def _some(tests: Sequence[Sample], defect: str, count: int) -> list[Sample]:
    own = [sample for sample in tests if sample.defect == defect]
    rng = np.random.default_rng([PER_FOLDER_SEED, zlib.crc32(f"{own[0].dataset}/{own[0].product}/{defect}".encode())])
    return [own[index] for index in rng.permutation(len(own))[:count]]
