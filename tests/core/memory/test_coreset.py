import numpy as np
import pytest

from zsad_core.memory import coreset


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
