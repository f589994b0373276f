import numpy as np
import pytest

from zsad_core.memory import coreset, coresets


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def one_at_a_time(points: np.ndarray, count: int, first: int) -> list[int]:
    chosen, distances = [first], 1 - points @ points[first]
    while len(chosen) < count:
        distances[chosen] = -9
        chosen.append(int(distances.argmax()))
        distances = np.minimum(distances, 1 - points @ points[chosen[-1]])
    return chosen


def test_few_vectors_are_all_kept() -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((7, 5)))
    assert coreset(vectors, 7, seed=0).tolist() == list(range(7))


def test_choice_is_that_of_the_plain_greedy_algorithm() -> None:
    random = np.random.default_rng(1)
    vectors = unit(random.standard_normal((400, 24)) + 3 * random.standard_normal((400, 1)))
    found = coreset(vectors, 150, seed=3)
    seeded = np.random.default_rng(3)
    points = unit(vectors @ seeded.standard_normal((24, 96)).astype(np.float32))
    assert found.tolist() == one_at_a_time(points, 150, int(seeded.integers(400)))


def test_rare_vector_is_kept_among_many_like_ones() -> None:
    random = np.random.default_rng(2)
    vectors = unit(np.append(np.ones((5000, 8)) + 0.01 * random.standard_normal((5000, 8)), -np.ones((1, 8)), axis=0))
    assert 5000 in coreset(vectors, 10, seed=0)


@pytest.mark.parametrize("distinct", [1, 3])
def test_equal_vectors_are_chosen_once_each(distinct: int) -> None:
    vectors = np.repeat(np.eye(4, dtype=np.float32)[:distinct], 50, axis=0)
    found = coreset(vectors, 40, seed=0)
    assert len(set(found.tolist())) == 40


def test_choice_depends_on_the_seed_alone() -> None:
    vectors = unit(np.random.default_rng(4).standard_normal((6000, 6)))
    found = coreset(vectors.astype(np.float16), 50, seed=5)
    assert found.tolist() == coreset(vectors.astype(np.float16), 50, seed=5).tolist()
    assert found.tolist() != coreset(vectors.astype(np.float16), 50, seed=6).tolist()


def mean_distance(points: np.ndarray, kept: np.ndarray) -> float:
    """From each point to the nearest one that is kept."""
    return float((1 - points @ kept.T).min(axis=1).mean())


def test_coreset_without_an_owner_is_filled_up_from_the_others_and_covers_them_as_a_new_one() -> None:
    random = np.random.default_rng(6)
    common = np.ones(64) + 0.5 * random.standard_normal((3600, 64))
    lengths = [400, 1200, 1200, 1200]
    vectors = unit(np.append(random.standard_normal((400, 64)), common, axis=0))  # the first owner is unusual
    all_of_them, *others = coresets(vectors, lengths, 500, seed=0)
    assert all_of_them.tolist() == coreset(vectors, 500, seed=0).tolist()
    assert (all_of_them < 400).sum() > 300
    starts = np.cumsum([0, *lengths])
    for start, end, found in zip(starts[:-1], starts[1:], others, strict=True):
        assert len(set(found.tolist())) == 500 and not ((found >= start) & (found < end)).any()
        left = np.delete(vectors, np.arange(start, end), axis=0)
        new = mean_distance(left, left[coreset(left, 500, seed=0)])
        assert mean_distance(left, vectors[found]) == pytest.approx(new, rel=0.05)


@pytest.mark.parametrize("lengths", [(3, 0, 4), (300, 0, 4)])
def test_owner_with_few_vectors_or_none_has_a_coreset_of_the_others(lengths: tuple[int, ...]) -> None:
    vectors = unit(np.random.default_rng(0).standard_normal((sum(lengths), 5)))
    all_of_them, *others = coresets(vectors, lengths, 40, seed=0)
    assert [len(found) for found in (all_of_them, *others)] == [min(40, sum(lengths) - own) for own in (0, *lengths)]


def test_owner_of_all_that_was_chosen_leaves_vectors_of_others() -> None:
    vectors = np.repeat(np.eye(3, dtype=np.float32), (5, 5, 30), axis=0)
    assert [len(found) for found in coresets(vectors, [40 - 5, 5], 1, seed=0)] == [1, 1, 1]
