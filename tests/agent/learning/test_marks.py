"""Marks of people as a data set that training reads."""

from pathlib import Path

import numpy as np
import pytest
from profile_maker import make_profile

from zsad_agent.learning import RecentPart, export_dataset, mark, marked
from zsad_agent.learning.recent import PartFacts
from zsad_agent.teaching import KeptPicture, ProfileStore
from zsad_core.data import scan_dataset
from zsad_core.errors import ProfileError
from zsad_core.types import Verdict


def part(part_id: str, product: str = "nut") -> RecentPart:
    facts = PartFacts(camera="cam0", product=product, verdict=Verdict.OK, score=0.3, taught=None)
    picture = KeptPicture.of(part_id, np.full((40, 60, 3), 90, np.uint8))
    return RecentPart(id=part_id, facts=facts, picture=picture, anomaly_map=np.zeros((4, 6), np.float16))


def test_a_mark_moves_when_a_person_changes_it(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path)
    mark(store, part("a"), good=True)
    mark(store, part("a"), good=False)
    assert marked(store, "nut", good=True) == []
    assert [picture.name for picture in marked(store, "nut", good=False)] == ["a"]
    assert sorted(path.name for path in (tmp_path / "nut/feedback/bad").iterdir()) == ["a.jpg", "a.npy"]
    assert not store.has("nut")  # marks alone teach nothing


def test_the_exported_data_set_is_read_like_any_other(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    store.add(make_profile("nut", goods=10))
    store.add(make_profile("screw", goods=2))
    for name, good in (("a", True), ("b", False), ("c", False)):
        mark(store, part(name), good=good)
    assert export_dataset(store, tmp_path / "set") == 10 + 2 + 3
    samples, faults = scan_dataset(tmp_path / "set")
    assert faults == []
    found = [(sample.product, sample.split, sample.defect) for sample in samples]
    assert found.count(("nut", "train", "good")) == 8 and found.count(("screw", "train", "good")) == 1
    assert found.count(("nut", "test", "good")) == 2 + 1 and found.count(("nut", "test", "bad")) == 2
    assert all(sample.load()[0].ndim == 3 for sample in samples)


def test_export_refuses_an_empty_store_and_a_folder_that_exists(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="nothing was taught"):
        export_dataset(ProfileStore(tmp_path / "none"), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ProfileError, match="is there already"):
        export_dataset(ProfileStore(tmp_path / "none"), tmp_path)


def test_one_product_is_exported_alone(tmp_path: Path) -> None:
    store = ProfileStore(tmp_path / "profiles")
    store.add(make_profile("nut", goods=10))
    store.add(make_profile("screw", goods=2))
    assert export_dataset(store, tmp_path / "set", "screw") == 2
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["screw"]
    with pytest.raises(ProfileError, match="product 'bolt' is not taught; taught are: nut, screw"):
        export_dataset(store, tmp_path / "other", "bolt")
    assert not (tmp_path / "other").exists()
