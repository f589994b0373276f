from pathlib import Path

import cv2
import numpy as np
import pytest
from taught_fakes import good_part

from zsad_agent.config import HealthConfig
from zsad_agent.teaching import LeftOut, why_not_good
from zsad_agent.teaching.goods import (
    Picture,
    check_number,
    far_ones,
    find_strangers,
    find_suspects,
    screen,
    set_by_one,
    smaller_group,
    stand_apart,
)
from zsad_core.errors import ImageError, ZsadError
from zsad_core.picture import with_comment


def screened(pictures: list[tuple[str, Picture]], *, unchecked: bool = False) -> tuple[list[str], dict[str, str]]:
    left_out: list[LeftOut] = []
    seen: list[int] = []
    kept = screen(pictures, HealthConfig(), left_out, seen.append, unchecked=unchecked)
    assert seen == list(range(1, len(pictures) + 1))
    return [name for name, _ in kept], {entry.name: entry.reason for entry in left_out}


def unreadable() -> np.ndarray:
    raise ImageError("cut.png: the file is empty")


def test_pictures_that_cannot_be_learned_are_named_with_the_reason() -> None:
    kept, left_out = screened(
        [
            ("1.png", good_part(1)),
            ("cut.png", unreadable),
            ("black.png", np.zeros((96, 96, 3), np.uint8)),
            ("2.png", lambda: good_part(2)),
        ]
    )
    assert kept == ["1.png", "2.png"]
    assert left_out["cut.png"] == "the file is empty"
    assert "black picture" in left_out["black.png"]


def test_part_taken_or_saved_several_times_counts_once() -> None:
    part = good_part(1)
    noisy = np.clip(part + np.random.default_rng(0).normal(0, 1.5, part.shape), 0, 255).astype(np.uint8)
    encoded = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    pictures: list[tuple[str, Picture]] = [
        ("1", part),
        ("same", part.copy()),
        ("again", noisy),
        ("saved", cv2.imdecode(encoded, cv2.IMREAD_COLOR)),
        ("2", good_part(2)),
    ]
    kept, left_out = screened(pictures)
    assert kept == ["1", "2"]
    assert left_out["again"].startswith("the same part as 1.")
    assert screened(pictures, unchecked=True)[0] == [name for name, _ in pictures]


def test_overlays_and_rejects_of_the_agent_are_no_goods(tmp_path: Path) -> None:
    overlay, reject = tmp_path / "a.jpg", tmp_path / "b.jpg"
    jpeg = cv2.imencode(".jpg", good_part(1))[1].tobytes()
    overlay.write_bytes(with_comment(jpeg, "overlay"))
    reject.write_bytes(with_comment(jpeg, "anomalous"))
    kept, left_out = screened([(str(overlay), good_part(1)), (str(reject), good_part(2)), ("c", good_part(3))])
    assert kept == ["c"]
    assert "an overlay of the agent" in left_out[str(overlay)] and "was anomalous" in left_out[str(reject)]
    assert why_not_good(reject, unchecked=True) is None


def test_distance_far_above_the_others_is_that_of_a_stranger() -> None:
    scores = np.array([1.0, 1.2, 0.9, 1.1, 1.0, 5.0])
    assert far_ones(scores) == {5: pytest.approx(5 / 1.05, rel=0.01)}
    assert far_ones(np.array([1.0, 1.0, 1.0, 1.0, 1.9])) == {}  # less than twice the median
    assert far_ones(np.array([1.0, 4.0, 0.3, 9.0, 2.0, 0.1, 20.0])) == {}  # scores that differ this much anyway
    assert far_ones(np.array([1.0, 1.0, 1.0, 9.0])) == {}  # too few


def test_outliers_stand_apart_from_the_tail_of_the_goods() -> None:
    goods = [2.5, 3.0, 2.8, 3.5, 4.0, 4.7, 2.6, 3.1, 2.9, 3.3]
    assert stand_apart(np.array([*goods, 10.3]), 2) == {10: pytest.approx(10.3 / 3.1)}
    assert sorted(stand_apart(np.array([*goods, 10.3, 7.5]), 2)) == [10, 11]
    assert stand_apart(np.array([*goods, 10.3, 9.8]), 1) == {}  # more of them than may be left out
    assert stand_apart(np.array([*goods, 6.9]), 2) == {}  # a tail
    assert stand_apart(np.array([1.0, 1.2, 1.0, 0.9, 1.1, 1.9]), 1) == {}  # less than twice the median
    assert stand_apart(np.array([3.0, 3.0, 3.0, 30.0]), 1) == {}  # too few
    assert stand_apart(np.array([-1.0, -1.0, -2.0, -1.0, -1.0, 0.6]), 1) == {}


def test_a_part_that_sets_the_threshold_alone_is_named() -> None:
    goods = {f"{place}.png": score for place, score in enumerate((3.1, 3.3, 2.9, 3.2, 3.0))}
    (note,) = set_by_one({**goods, "odd.png": 6.1}, 6.101)
    assert note.startswith("odd.png alone sets the threshold: its score is 1.8 times the next one")
    assert set_by_one({**goods, "tail.png": 4.5}, 4.501) == []
    assert set_by_one({**goods, "odd.png": 6.1}, 3.4) == []  # many parts: it is above the threshold
    assert set_by_one({"1.png": 3.0, "2.png": 30.0}, 30.1) == []  # too few


def test_strangers_are_found_also_where_two_look_alike() -> None:
    random = np.random.default_rng(0)
    distances = random.uniform(0.09, 0.11, (12, 12, 49))
    distances[10:, :10] = distances[:10, 10:] = 0.5
    distances[10:, 10:] = 0.05
    assert sorted(find_strangers(distances)) == [10, 11]
    assert find_strangers(distances[:10, :10]) == {}


def test_two_groups_are_found_and_a_tail_is_none() -> None:
    random = np.random.default_rng(0)
    distances = random.uniform(0.09, 0.11, (12, 12, 49))
    assert smaller_group(distances) == []
    distances[:5, 5:] = distances[5:, :5] = 0.25
    assert smaller_group(distances) == [0, 1, 2, 3, 4]
    distances[:5, 5:] = distances[5:, :5] = 0.15
    assert smaller_group(distances) == []
    chain = np.abs(np.subtract.outer(np.arange(12.0), np.arange(12.0)))[:, :, None] * np.ones(49)
    assert smaller_group(chain) == []


def test_too_few_goods_and_a_mixture_are_refused() -> None:
    check_number(10, 2, [])
    with pytest.raises(ZsadError, match="more than one product: 3 of 10 look different"):
        check_number(10, 3, [])
    with pytest.raises(ZsadError, match=r"good parts can be learned: 2. At least 3 .*\(x: black\)"):
        check_number(2, 0, [LeftOut(name="x", reason="black")])


def shared_defect(bads: int, *, goods: int = 13, tokens: int = 100) -> np.ndarray:
    """Distances [K, K, N] of goods, and of parts at the end that have the same defect, in three tokens."""
    count = goods + bads
    distances = np.random.default_rng(0).uniform(0.04, 0.06, (count, count, tokens)).astype(np.float32)
    distances[goods:, :goods, :3] = 0.5
    return distances


@pytest.mark.parametrize("bads", [1, 2, 3])
def test_several_bad_parts_with_one_defect_are_suspects_if_the_bundle_agrees(bads: int) -> None:
    distances = shared_defect(bads)
    zero_shot = np.random.default_rng(1).uniform(-4, -3, len(distances))
    zero_shot[13:] = np.median(zero_shot[:13])
    assert find_suspects(distances, zero_shot) == []
    zero_shot[13:] = 0
    assert sorted(find_suspects(distances, zero_shot)) == list(range(13, 13 + bads))
    assert find_suspects(distances[:13, :13], zero_shot[:13]) == []
    assert find_suspects(distances[-4:, -4:], zero_shot[-4:]) == []  # too few to compare
