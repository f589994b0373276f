"""Chooses the vectors of a memory: greedy k-centre, so that rare looks are kept and common ones are not repeated."""

from collections.abc import Iterator, Sequence

import numpy as np

PROJECTED = 96  # dimensions in which the vectors are compared; a seeded random projection keeps their distances
_CHUNK = 4096  # vectors converted to float32 at a time: a machine with 1 GB holds those of 60 pictures in float16
_COMPARED = 1024  # points whose distances to all chosen ones are held at a time
_BATCH = 32
_CHOSEN = -2.0  # the distance of a chosen point: below all others, so no point is chosen twice


def coreset(vectors: np.ndarray, count: int, *, seed: int) -> np.ndarray:
    """The places of at most `count` vectors, int64 [M] with no place twice; all of them if there are no more.

    Each next vector is the one that is farthest from those before it (Roth et al., "Towards Total Recall in Industrial
    Anomaly Detection", CVPR 2022, section 3.2). Departure: the first one is drawn.

    Args:
        vectors: float [N, C], unit length.
        count: most vectors, above 0.
        seed: of the projection and the first vector.
    """
    return next(coresets(vectors, [len(vectors)], count, seed=seed))


def coresets(vectors: np.ndarray, lengths: Sequence[int], count: int, *, seed: int) -> Iterator[np.ndarray]:
    """The coreset of all vectors, then for each owner one of the vectors of the others.

    That of the others is the first one without the owner's vectors, filled up from the others. It is close to a new
    coreset of the others, and much faster. Not filled up, it would have holes where the owner's vectors stood for
    those of others, and the more unusual the owner, the smaller it would be.

    Args:
        vectors: float [N, C], unit length; first those of the first owner, and so on.
        lengths: number of vectors of each owner; their sum is N.
        count: as of `coreset`, also `seed`.
    """
    owners = np.repeat(np.arange(len(lengths)), lengths)
    if len(vectors) <= count:
        yield np.arange(len(vectors))
        yield from (np.flatnonzero(owners != owner) for owner in range(len(lengths)))
        return
    random = np.random.default_rng(seed)
    points = _projected(vectors, random)
    first = int(random.integers(len(points)))
    distances = 1 - points @ points[first]  # [N], to the nearest chosen point
    distances[first] = _CHOSEN
    chosen = np.array([first, *_farthest_first(points, distances, count - 1)])
    yield chosen
    nearest, whose, next_one = _nearest_of_two_owners(points, points[chosen], owners[chosen])
    for owner in range(len(lengths)):
        distances = np.where(whose == owner, next_one, nearest)
        distances[chosen] = _CHOSEN
        others, kept = np.flatnonzero(owners != owner), chosen[owners[chosen] != owner]
        added = _farthest_first(points[others], distances[others], min(count, len(others)) - len(kept))
        yield np.concatenate([kept, others[added]])


def _projected(vectors: np.ndarray, random: "np.random.Generator") -> np.ndarray:  # quoted: a slow import
    """float32 [N, PROJECTED], unit length."""
    projection = random.standard_normal((vectors.shape[1], PROJECTED)).astype(np.float32)
    points = np.empty((len(vectors), PROJECTED), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        points[start : start + _CHUNK] = vectors[start : start + _CHUNK].astype(np.float32, copy=False) @ projection
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    return points


def _nearest_of_two_owners(
    points: np.ndarray, chosen: np.ndarray, owners: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each point [N]: the distance to the nearest chosen one, its owner, and that to the nearest of another owner.

    The last one is 2 if there is none. `owners`: int [M] of the chosen ones.
    """
    count = len(points)
    nearest, next_one, whose = np.empty(count, np.float32), np.empty(count, np.float32), np.empty(count, np.int64)
    for start in range(0, count, _COMPARED):
        part = slice(start, start + _COMPARED)
        alike = points[part] @ chosen.T
        whose[part] = owners[alike.argmax(axis=1)]
        nearest[part] = 1 - alike.max(axis=1)
        alike[whose[part, None] == owners] = -1
        next_one[part] = 1 - alike.max(axis=1)
    return nearest, whose, next_one


def _farthest_first(points: np.ndarray, distances: np.ndarray, count: int) -> list[int]:
    """The places of `count` more of the points [N, C], greedy.

    The exact order of the greedy choice, several at a time: of the farthest candidates one is chosen as long as it is
    farther than every point that is no candidate. One matrix product then serves all chosen ones.

    Args:
        points: unit length.
        distances: of each point to the nearest chosen one, `_CHOSEN` for these; is changed.
        count: at most the number of points that are not chosen.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        candidates = np.argpartition(distances, -_BATCH)[-_BATCH:] if len(points) > _BATCH else np.arange(len(points))
        nearest = distances[candidates]
        bound = nearest.min() if len(points) > _BATCH else -1.0  # of the points that are no candidates
        between = 1 - points[candidates] @ points[candidates].T
        batch: list[int] = []
        while len(chosen) + len(batch) < count:
            place = int(nearest.argmax())
            if batch and nearest[place] <= bound:
                break
            batch.append(place)
            nearest = np.minimum(nearest, between[place])
            nearest[place] = _CHOSEN
        added = candidates[batch]
        chosen.extend(added.tolist())
        np.minimum(distances, (1 - points @ points[added].T).min(axis=1), out=distances)
        distances[added] = _CHOSEN
    return chosen
