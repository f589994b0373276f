"""Measures how many training images a second the loader gives, and how many a GPU computes.

    python benchmarks/loader.py --data SET

It loads batches as training does, without and with augmentation, and prints a row for each. `a worker` counts the
images of one second of a worker's CPU time, so other load on the machine has little effect. With a GPU it also measures
the backbone's forward pass in bf16, with random weights, and prints how many workers keep the GPU busy. Without a GPU
name its rate: `--gpu-rate`.
"""

import argparse
import math
import resource
import time
from pathlib import Path
from typing import get_args

import torch

from zsad_core.backbones import BackboneConfig, build_backbone
from zsad_core.data import LayoutName
from zsad_core.model import Detector, DetectorConfig
from zsad_training.config import DatasetSpec, SamplingSpec
from zsad_training.pictures import Batch, TrainingPictures, collate, read_datasets
from zsad_training.run import make_loader, pick_device, usual_workers

WARM_UP, FORWARDS = 3, 20


def loader_rates(pictures: TrainingPictures, args: argparse.Namespace, device: torch.device) -> tuple[float, float]:
    """Images a second: of all workers, and of one worker's CPU time."""
    batches = [
        list(range(first, first + args.batch_size))
        for first in range(0, args.images - args.batch_size + 1, args.batch_size)
    ]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    batch: Batch
    for batch in make_loader(pictures, batches, collate, workers=args.workers, device=device):
        batch.images_bgr.to(device, non_blocking=True)
    seconds = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # the workers have ended
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    images = len(batches) * args.batch_size
    return images / seconds, images / cpu_s


def gpu_rate(args: argparse.Namespace, device: torch.device) -> float:
    """Images a second of the backbone's forward pass in bf16, from uint8 images on the device."""
    side = args.input_size
    config = DetectorConfig(backbone=BackboneConfig(name=args.backbone, input_hw=(side, side)))
    detector = Detector(config, build_backbone(config.backbone)).to(device).eval()
    images = torch.zeros(args.batch_size, side, side, 3, dtype=torch.uint8, device=device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
        for number in range(WARM_UP + FORWARDS):
            if number == WARM_UP:
                torch.cuda.synchronize()
                started = time.monotonic()
            detector.tokens(images)
    torch.cuda.synchronize()
    return FORWARDS * args.batch_size / (time.monotonic() - started)


def parser() -> argparse.ArgumentParser:
    """The flags of this benchmark."""
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--data", type=Path, required=True, help="folder of a data set")
    result.add_argument("--layout", choices=get_args(LayoutName), default="auto", help="of the data set (default auto)")
    result.add_argument("--input-size", type=int, default=512, help="side of the input, pixels (default 512)")
    result.add_argument("--batch-size", type=int, default=16, help="images of a batch (default 16)")
    result.add_argument("--images", type=int, default=512, help="images that are loaded for each row (default 512)")
    result.add_argument(
        "--workers", type=int, default=usual_workers(), help="processes that load (default: as zsad-train)"
    )
    result.add_argument(
        "--backbone", default="vit_large_patch16_dinov3", help="for the GPU (default vit_large_patch16_dinov3)"
    )
    result.add_argument("--gpu-rate", type=float, help="images a second that the GPU computes (default: measured)")
    return result


def main() -> None:
    """Prints the results."""
    flags = parser()
    args = flags.parse_args()
    if args.workers < 1 or args.images < args.batch_size:
        flags.error("needs at least one worker and one batch of images")
    device = pick_device("auto")
    wanted = args.gpu_rate or (gpu_rate(args, device) if device.type == "cuda" else None)
    if wanted:
        print(f"the GPU computes {wanted:.0f} images/s")
    samples = read_datasets([DatasetSpec(path=args.data, layout=args.layout)], check=False)
    side = args.input_size
    print("| augmentation | workers | images/s | images/s a worker | workers that keep the GPU busy |")
    print("|---|---|---|---|---|")
    for augment in ("none", "full"):
        spec = SamplingSpec.model_validate({"augment": augment})
        pictures = TrainingPictures(samples, [], spec, input_hw=(side, side), batch_size=args.batch_size, seed=0)
        rate, of_worker = loader_rates(pictures, args, device)
        needed = math.ceil(wanted / of_worker) if wanted else "-"
        print(f"| {augment} | {args.workers} | {rate:.0f} | {of_worker:.1f} | {needed} |", flush=True)


if __name__ == "__main__":
    main()
