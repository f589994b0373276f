"""Measures the threshold of products that were not taught: the bundle's own, and that of `provisional_threshold`.

    python benchmarks/provisional.py --scores FILE --data-root DATASETS [--bundle BUNDLE …]
    python benchmarks/provisional.py --scores FILE

Each line of FILE has the zero-shot scores of one bundle for one product, prompt `object`, at most 200 good and 200
defective pictures (fixed seed). A line that FILE has is not measured again. The table is printed from FILE, and without
--data-root nothing else is done. Products of data sets that trained the bundle give the pictures of `test` only.

A draw is a stream of --frames unlabelled pictures in random order, of which a share is defective. A third of the good
and of the defective pictures never enters a stream. Where the others are too few, the stream repeats some. The
threshold after the stream judges all pictures that are not in it. The seeds are product, share and number of the draw.
A cell has the recall and the share of rejected good pictures, each with its standard deviation over the draws, and the
share of the draws in which they are at least 0.3 and at most 0.1.
The means at the end are over data sets and bundles, with at most 20 % defects, without aws_aliens.
Exit codes: 0 done, 1 something cannot be read, 2 bad usage.
"""

import argparse
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from zsad_agent.config import SHIPPED_BUNDLES, InferenceConfig
from zsad_agent.model import Detector
from zsad_core.bundle import GENERIC_PRODUCT, Bundle, load_bundle
from zsad_core.data import Sample, raise_faults, scan_dataset
from zsad_core.errors import ZsadError
from zsad_core.judging import curve_of_scores, provisional_threshold
from zsad_core.picture import read_image

SETS = ("ksdd", "crackforest", "mvtec_ad_mini", "aws_aliens", "aws_cookie", "magnetic_tile", "deeppcb")
SHARES = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)  # of defective pictures in a stream
DURING = 0.1  # share whose verdicts during the stream are shown
FEW = 0.2  # highest share in the means
HELD_BACK = "aws_aliens"  # not in the means: nothing is chosen with it
MOST = 200  # pictures of a kind
RECALL, FALSE_REJECTS = 0.3, 0.1  # the target of each draw


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A line of the file."""

    bundle: str
    sha256: str
    threshold: float  # of the bundle
    product: str  # data set and product
    trained: bool  # the data set trained the bundle
    goods: list[float]
    bads: list[float]


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Shares of rejected pictures, in draws."""

    recall: np.ndarray
    false_rejects: np.ndarray

    @property
    def means(self) -> tuple[float, float, float]:
        """Share of the draws that meet the target, recall, and false rejects."""
        met = (self.recall >= RECALL) & (self.false_rejects <= FALSE_REJECTS)
        return float(met.mean()), float(self.recall.mean()), float(self.false_rejects.mean())

    def __str__(self) -> str:
        met, recall, rejects = self.means
        spread = f"{recall:.2f} ± {self.recall.std():.2f} / {rejects:.2f} ± {self.false_rejects.std():.2f}"
        return f"{spread} ({met:.0%})"


def measure(bundle: Bundle, data_root: Path, known: set[tuple[str, str]]) -> Iterator[Scores]:
    """The scores of all products that are not known.

    Raises:
        ZsadError: a data set cannot be read, or the bundle cannot run.
    """
    sources = {licence.what for licence in bundle.manifest.licences}
    detector = Detector(bundle, InferenceConfig(bundle=bundle.path, threads=1))
    for dataset in SETS:
        samples, faults = scan_dataset(data_root / dataset)
        raise_faults(faults)
        trained = f"training data {dataset}" in sources
        for product in sorted({sample.product for sample in samples}):
            name = f"{dataset}/{product}"
            if (bundle.sha256, name) in known:
                continue
            own = [one for one in samples if one.product == product]
            own = [one for one in own if one.split == "test" or not trained]
            kinds = [[one for one in own if one.is_anomalous is bad] for bad in (False, True)]
            goods, bads = (_score(detector, _some(kind)) for kind in kinds)
            print(f"{bundle.manifest.name}, {name}: {len(goods)} good, {len(bads)} defective", file=sys.stderr)
            yield Scores(
                bundle=bundle.manifest.name,
                sha256=bundle.sha256,
                threshold=bundle.manifest.threshold.value,
                product=name,
                trained=trained,
                goods=goods,
                bads=bads,
            )


def _some(samples: Sequence[Sample]) -> list[Sample]:
    if len(samples) <= MOST:
        return list(samples)
    return [samples[place] for place in sorted(np.random.default_rng(0).permutation(len(samples))[:MOST])]


def _score(detector: Detector, samples: Sequence[Sample]) -> list[float]:
    return [round(detector.predict(read_image(one.image), GENERIC_PRODUCT).anomaly_score, 5) for one in samples]


def judge(scores: Scores, share: float, frames: int, draws: int) -> tuple[Judged, Judged, Judged]:
    """By the bundle's threshold, during the stream, and after it."""
    found: list[list[tuple[float, float]]] = [[], [], []]
    for draw in range(draws):
        random = np.random.default_rng([zlib.crc32(scores.product.encode()), round(share * 1000), draw])
        stream, is_bad, goods, bads = _draw(scores, share, frames, random)
        before = [_threshold(stream[:place], scores.threshold) for place in range(frames)]
        after = _threshold(stream, scores.threshold)
        rejected = stream >= before
        found[0].append((_share(bads >= scores.threshold), _share(goods >= scores.threshold)))
        found[1].append((_share(rejected[is_bad]), _share(rejected[~is_bad])))
        found[2].append((_share(bads >= after), _share(goods >= after)))
    by_bundle, during, after_all = (Judged(recall=a, false_rejects=b) for a, b in (np.array(one).T for one in found))
    return by_bundle, during, after_all


def _draw(
    scores: Scores, share: float, frames: int, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(scores of the stream, which of them are defective, scores of the other good and of the other bad pictures)."""
    count = max(1, round(share * frames)) if share else 0
    parts, rest = [], []
    for values, wanted in ((scores.goods, frames - count), (scores.bads, count)):
        shuffled = random.permutation(np.array(values))
        held_out = max(1, len(shuffled) // 3)
        pool = shuffled[held_out:]
        repeated = random.choice(pool, max(0, wanted - len(pool)))
        parts.append(np.concatenate([pool[:wanted], repeated]))
        rest.append(np.concatenate([shuffled[:held_out], pool[wanted:]]))
    order = random.permutation(frames)
    is_bad = np.arange(frames) >= frames - count
    return np.concatenate(parts)[order], is_bad[order], rest[0], rest[1]


def _threshold(stream: np.ndarray, of_bundle: float) -> float:
    found = provisional_threshold(stream.tolist(), of_bundle)
    return of_bundle if found is None else found.threshold


def _share(rejected: np.ndarray) -> float:
    return float(rejected.mean()) if rejected.size else float("nan")


def as_markdown(lines: Sequence[Scores], frames: int, draws: int) -> str:
    """One row for each bundle and product; then the means over data sets."""
    heads = [f"{place}, {share:.0%}" for place, share in [("during", DURING), *(("after", share) for share in SHARES)]]
    rows = ["|".join(["", "bundle, product", "goods, defects", "AUROC", "bundle's threshold", *heads, ""])]
    rows.append("|---" * (len(heads) + 4) + "|")
    means: dict[str, list[np.ndarray]] = {}  # by data set: by the bundle's threshold, and after the stream
    for line in lines:
        curve = curve_of_scores(np.array(line.bads), np.array(line.goods))
        judged = {share: judge(line, share, frames, draws) for share in SHARES}
        name = f"{line.bundle}, {line.product}{' (trained)' if line.trained else ''}"
        auroc = "-" if curve is None else f"{curve.metrics().auroc:.3f}"
        cells = [name, f"{len(line.goods)}, {len(line.bads)}", auroc, str(judged[SHARES[0]][0]), str(judged[DURING][1])]
        cells += [str(one[2]) for one in judged.values()]
        rows.append("|".join(["", *cells, ""]))
        few = [judged[share] for share in SHARES if share <= FEW]
        means.setdefault(line.product.split("/")[0], []).extend(
            np.array([by_bundle.means, after.means]) for by_bundle, _, after in few
        )
    chosen = [np.mean(of_set, axis=0) for dataset, of_set in means.items() if dataset != HELD_BACK]
    if chosen:
        for name, (met, recall, rejects) in zip(("bundle", "after"), np.mean(chosen, axis=0), strict=True):
            rows.append(f"\n{name}: target met in {met:.0%} of draws, recall {recall:.2f}, false rejects {rejects:.3f}")
    return "\n".join(rows)


def main() -> int:
    """Exit code as in the module's docstring."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--scores", type=Path, required=True, metavar="FILE", help="JSON lines; made or continued")
    parser.add_argument("--data-root", type=Path, metavar="DATASETS", help=f"folder with {', '.join(SETS)}")
    parser.add_argument("--bundle", type=Path, nargs="+", default=sorted(SHIPPED_BUNDLES.iterdir()), metavar="BUNDLE")
    parser.add_argument("--frames", type=int, default=50, help="unlabelled pictures of a stream (default: 50)")
    parser.add_argument("--draws", type=int, default=100, help="of each product and share (default: 100)")
    args = parser.parse_args()
    try:
        known_lines = args.scores.read_text().splitlines() if args.scores.exists() else []
        lines = [Scores(**json.loads(line)) for line in known_lines]
        if args.data_root is not None:
            for path in args.bundle:
                known = {(line.sha256, line.product) for line in lines}
                for scores in measure(load_bundle(path), args.data_root, known):
                    lines.append(scores)
                    with args.scores.open("a") as file:
                        print(json.dumps(asdict(scores)), file=file)
        print(as_markdown(lines, args.frames, args.draws))
    except (ZsadError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
