"""Teach-in from an unlabelled stream: pictures of a line, some of which may be of defective parts.

The most suspicious fifth is not learned. In a clean stream these are good parts too, so those that the distribution of
the others explains set the threshold together with them.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from zsad_agent.model import FeatureNetworks, Predictor
from zsad_agent.teaching import LeftOut, Picture, Taught, read, teach, token_distances
from zsad_core.bundle import GENERIC_PRODUCT
from zsad_core.errors import ImageError, ProductError, ZsadError

TRIMMED = 0.2  # share of the pictures that are not learned
MOST_OTHERS = 0.2  # share of the pictures that may show another product or no part
TWO_GROUPS = 0.2  # silhouette of two groups; goods of one product have up to 0.13, of two products 0.23 and more
LEAST_GROUPED = 8  # fewer pictures are one group
MOVES = 10  # of the middle of a group
TOP_FRACTION = 0.02  # of a picture's tokens: the most different ones
LEAST_SHARE = 1e-4  # of zero-shot scores, and of 1 minus them, before the logit
NAMED = 3  # pictures that a message names
COMPARED_SIDE = 16  # cells of a side that are compared, about; time grows with the square of their number

Named = tuple[str, Picture]


def learn_from_stream(
    images: Sequence[Named],
    *,
    product: str,
    networks: FeatureNetworks,
    detector: Predictor,
    bad: Sequence[Named] = (),
    seed: int = 0,
    rate: float = 0.01,
    ignored: np.ndarray | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Taught:
    """Learns a product from pictures of which up to a fifth may show defects, another product or no part.

    Arguments as of `zsad_agent.teaching.teach`.

    Raises:
        ZsadError: nothing can be learned, or more than a fifth of the pictures show another product or no part.
    """
    tokens: dict[str, list[np.ndarray]] = {scale.name: [] for scale in networks.scales if scale.tiles == 1}
    names, zero_shot = [], []
    for done, (name, picture) in enumerate(images, start=1):
        progress("comparing pictures", done, len(images))
        try:
            image = read(picture)
            zero_shot.append(_zero_shot(detector, image, product))
        except ImageError:
            continue
        for scale in networks.scales:
            if scale.name in tokens:
                step = max(1, scale.grid_hw[0] // COMPARED_SIDE)
                tokens[scale.name].append(networks.tokens(image, scale)[::step, ::step].astype(np.float16))
        names.append(name)
    distances = [token_distances(of_scale) for of_scale in tokens.values()]
    others = find_others(distances[0], names)
    suspicion = np.sum([suspicions(found, np.array(zero_shot)) for found in distances], axis=0)
    ranked = [names[place] for place in np.argsort(-suspicion) if names[place] not in others]
    doubtful = set(ranked[: max(0, round(TRIMMED * len(names)) - len(others))])
    taught = teach(
        [(name, picture) for name, picture in images if name not in doubtful and name not in others],
        product=product,
        networks=networks,
        detector=detector,
        bad=bad,
        doubtful=[(name, picture) for name, picture in images if name in doubtful],
        rate=rate,
        seed=seed,
        ignored=ignored,
        trusted=False,
        progress=progress,
    )
    left_out = tuple(
        LeftOut(name=name, reason="shows another product or no part", score=times) for name, times in others.items()
    )
    return replace(taught, left_out=(*left_out, *taught.left_out))


def _zero_shot(detector: Predictor, image: np.ndarray, product: str) -> float:
    """The score of the bundle alone, with the prompts of the generic product if it has none for this one."""
    try:
        return detector.predict(image, product).anomaly_score
    except ProductError:
        return detector.predict(image, GENERIC_PRODUCT).anomaly_score


def suspicions(distances: np.ndarray, zero_shot: np.ndarray) -> np.ndarray:
    """float64 [K]: how likely each picture shows a defect; only the order counts.

    Args:
        distances: of `token_distances`.
        zero_shot: float [K], anomaly scores in [0, 1].
    """
    top = max(1, round(TOP_FRACTION * distances.shape[2]))
    most = np.sort(_to_nearest_other(distances), axis=1)[:, -top:].mean(axis=1)
    shares = np.clip(zero_shot, LEAST_SHARE, 1 - LEAST_SHARE)
    return _standard(most) + _standard(np.log(shares / (1 - shares)))


def find_others(distances: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    """Name -> how different, of the pictures that show another product or no part.

    Args:
        distances: of `token_distances`.
        names: of the pictures.

    Raises:
        ZsadError: there are more than a fifth of them, so it is not clear which product is meant.
    """
    between = distances.mean(axis=2, dtype=np.float32)
    groups = np.zeros(len(names), int)
    kept = np.arange(len(names))
    while len(kept) >= LEAST_GROUPED:
        of_kept, separation = two_groups(between[np.ix_(kept, kept)])
        if separation < TWO_GROUPS:
            break
        groups[kept[of_kept]] = groups.max() + 1
        kept = kept[~of_kept]
    found = {
        names[place]: float(between[place].mean() / np.median(between)) for place in np.flatnonzero(groups).tolist()
    }
    if len(found) > MOST_OTHERS * len(names):
        texts = []
        for group in np.unique(groups):
            places = np.flatnonzero(groups == group)
            some = ", ".join(names[place] for place in places[:NAMED].tolist())
            texts.append(f"{len(places)} pictures such as {some}")
        raise ZsadError(
            f"the pictures show more than one product, or often no part: {'; '.join(texts)}. Give each product its own "
            "name, or let only parts pass"
        )
    return found


def two_groups(between: np.ndarray) -> tuple[np.ndarray, float]:
    """bool [K]: the smaller of two groups; and how well they are separated, in [-1, 1] (the silhouette).

    Args:
        between: float [K, K], mean distances of the tokens of a picture to another picture.
    """
    distances = (between + between.T) / 2
    np.fill_diagonal(distances, 0)
    centres = np.array(np.unravel_index(distances.argmax(), distances.shape))
    for _ in range(MOVES):
        second = distances[:, centres[0]] > distances[:, centres[1]]
        members = [np.flatnonzero(second == part) for part in (False, True)]
        if not all(len(part) for part in members):
            return second & False, 0.0
        moved = np.array([part[distances[np.ix_(part, part)].sum(axis=1).argmin()] for part in members])
        if (moved == centres).all():
            break
        centres = moved
    own, other = np.empty(len(between)), np.empty(len(between))
    for mine, theirs in (members, members[::-1]):
        own[mine] = distances[np.ix_(mine, mine)].sum(axis=1) / max(1, len(mine) - 1)
        other[mine] = distances[np.ix_(mine, theirs)].mean(axis=1)
    separation = float(((other - own) / np.maximum(np.maximum(own, other), 1e-9)).mean())
    return second if second.sum() <= len(second) / 2 else ~second, separation


def _to_nearest_other(distances: np.ndarray) -> np.ndarray:
    """float32 [K, N]: of each token to the nearest one of all other pictures."""
    others = distances.astype(np.float32)
    others[np.arange(len(others)), np.arange(len(others))] = np.inf
    return others.min(axis=1)


def _standard(values: np.ndarray) -> np.ndarray:
    return (values - values.mean()) / max(float(values.std()), 1e-9)
