"""Compares time and memory of the streamed pixel metrics with the threshold loop of published code.

    python benchmarks/metrics.py

The stream has the size of MVTec AD's test set: 15 categories, 1,725 images, of which 1,258 are defective, at 512x512.
The images are generated one by one. The loop is the one that many papers copy: for each of 200 thresholds, it visits
every image and every region. It only gives the AUPRO; the stream also gives AUROC, AP and best F1. The loop is timed on
a few of the same images, and its time is scaled, because it is proportional to the number of images. All times are CPU
times of one thread, so other load on the machine has little effect.
"""

import argparse
import itertools
import resource
import time
from collections.abc import Iterator

import cv2
import numpy as np

from zsad_core.judging import AUPRO_MAX_FPR, PixelMetrics

CATEGORIES, PICTURES, DEFECTIVE, SIDE = 15, 1725, 1258, 512
THRESHOLDS = 200


def draw_pictures(seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(map float32 [512, 512] in [0, 1], mask uint8 [512, 512]): smooth noise, higher in one to three ellipses."""
    rng = np.random.default_rng(seed)
    for index in range(PICTURES):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if (index + 1) * DEFECTIVE // PICTURES > index * DEFECTIVE // PICTURES:  # spread evenly
            for _ in range(rng.integers(1, 4)):
                centre, axes = rng.integers(40, SIDE - 40, 2).tolist(), rng.integers(4, 40, 2).tolist()
                cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
        logits = cv2.resize(rng.normal(-4, 1.5, (32, 32)).astype(np.float32), (SIDE, SIDE)) + 3 * mask
        yield 1 / (1 + np.exp(-logits)), mask


def run_stream(seed: int) -> tuple[float, list[float]]:
    """(CPU seconds in the metrics, AUPRO of each category); one accumulator per category, as in evaluation."""
    metrics = [PixelMetrics() for _ in range(CATEGORIES)]
    seconds = 0.0
    for index, (anomaly_map, mask) in enumerate(draw_pictures(seed)):
        started_s = time.process_time()
        metrics[index * CATEGORIES // PICTURES].update(anomaly_map, mask)
        seconds += time.process_time() - started_s
    started_s = time.process_time()
    results = [one.result() for one in metrics]
    seconds += time.process_time() - started_s
    return seconds, [one.aupro for one in results if one]


def published_loop(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUPRO as in CFLOW-AD's `train.py` and its many copies; OpenCV labels the regions instead of scikit-image.

    As in these copies, the loop labels the regions and counts the good pixels again for each threshold.
    """
    points = []
    binary = np.zeros_like(maps, dtype=bool)
    for threshold in np.linspace(maps.min(), maps.max(), THRESHOLDS, endpoint=False):
        binary[maps <= threshold], binary[maps > threshold] = False, True
        overlaps = []
        for found, mask in zip(binary, masks, strict=True):
            count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            for label in range(1, count):
                x, y, width, height, pixels = stats[label]
                box = np.s_[y : y + height, x : x + width]
                overlaps.append(found[box][labels[box] == label].sum() / pixels)
        good = 1 - masks
        points.append((np.logical_and(good, binary).sum() / good.sum(), np.mean(overlaps)))
    return area(points)


def lean_loop(maps: np.ndarray, masks: np.ndarray) -> float:
    """The same loop, optimised: all work that does not depend on the threshold is done before it."""
    good = maps[masks == 0]
    regions = []
    for one, mask in zip(maps, masks, strict=True):
        count, labels = cv2.connectedComponents(mask, connectivity=8)
        regions += [one[labels == label] for label in range(1, count)]
    points = []
    for threshold in np.linspace(maps.min(), maps.max(), THRESHOLDS, endpoint=False):
        overlaps = [np.count_nonzero(region > threshold) / region.size for region in regions]
        points.append((np.count_nonzero(good > threshold) / good.size, np.mean(overlaps)))
    return area(points)


def area(points: list[tuple[float, float]]) -> float:
    """Area under the points (false-positive rate, overlap), thresholds rising, up to the limit, over the limit."""
    x, y = np.array([*points, (0.0, 0.0)])[::-1].T
    grid = np.linspace(0, AUPRO_MAX_FPR, 10_001)
    return float(np.trapezoid(np.interp(grid, x, y), grid) / AUPRO_MAX_FPR)


def main() -> None:
    """Prints the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of the generated maps (default 0)")
    parser.add_argument("--loop-pictures", type=int, default=20, help="number of images for the loops (default 20)")
    args = parser.parse_args()
    cv2.setNumThreads(1)

    seconds, aupros = run_stream(args.seed)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux gives KiB
    print(f"stream: {PICTURES} pictures of {SIDE}x{SIDE} in {seconds:.1f} s, {1e3 * seconds / PICTURES:.2f} ms each")
    print(f"peak memory of the process: {peak_gib:.2f} GiB; mean AUPRO {np.mean(aupros):.4f}")

    subset = list(itertools.islice(draw_pictures(args.seed), args.loop_pictures))
    maps, masks = np.stack([one for one, _ in subset]), np.stack([mask for _, mask in subset])
    metrics = PixelMetrics()
    for anomaly_map, mask in subset:
        metrics.update(anomaly_map, mask)
    result = metrics.result()
    print(f"on {len(subset)} pictures: streamed AUPRO {result.aupro:.4f}" if result else "no defects generated")
    for name, loop in (("published loop", published_loop), ("lean loop", lean_loop)):
        started_s = time.process_time()
        aupro = loop(maps, masks)
        took_s = time.process_time() - started_s
        scaled_s = took_s * PICTURES / len(subset)
        print(
            f"{name}: {took_s:.1f} s on {len(subset)} pictures (AUPRO {aupro:.4f}), {scaled_s:.0f} s scaled to "
            f"{PICTURES}: {scaled_s / seconds:.0f} times the stream's"
        )


if __name__ == "__main__":
    main()
