"""Chooses the vectors of a memory: greedy k-centre, so that rare looks are kept and common ones are not repeated."""

import numpy as np

PROJECTED = 96  # dimensions in which the vectors are compared; a seeded random projection keeps their distances
_CHUNK = 4096  # vectors converted to float32 at a time: a machine with 1 GB holds those of 60 pictures in float16
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
    if len(vectors) <= count:
        return np.arange(len(vectors))
    random = np.random.default_rng(seed)
    projection = random.standard_normal((vectors.shape[1], PROJECTED)).astype(np.float32)
    points = np.empty((len(vectors), PROJECTED), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        points[start : start + _CHUNK] = vectors[start : start + _CHUNK].astype(np.float32, copy=False) @ projection
    points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-9)
    return _farthest_first(points, count, int(random.integers(len(points))))


def _farthest_first(points: np.ndarray, count: int, first: int) -> np.ndarray:
    """The places of `count` of the points [N, C], greedy.

    The exact order of the greedy choice, several at a time: of the farthest candidates one is chosen as long as it is
    farther than every point that is no candidate. One matrix product then serves all chosen ones.
    """
    chosen = [first]
    distances = 1 - points @ points[first]  # [N], to the nearest chosen point
    distances[first] = _CHOSEN
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
    return np.array(chosen)
