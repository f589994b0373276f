"""One training run: resumable, deterministic, its epoch chosen on the validation part."""

import csv
import logging
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from zsad_core.checkpoint import save_checkpoint
from zsad_core.detector import Detector
from zsad_core.errors import WeightsError
from zsad_core.losses import Target
from zsad_training.config import TrainConfig
from zsad_training.feature_cache import FeatureCache
from zsad_training.sampler import Batch, TrainingPictures, collate
from zsad_training.validation import Validation, ValidationPictures

logger = logging.getLogger(__name__)

BEST, RESUME, LOG = "best.safetensors", "resume.pt", "log.csv"


@dataclass
class State:
    """Where a run is; with the weights and the optimiser, all that resuming needs."""

    step: int = 0
    best_criterion: float = -math.inf
    seconds: float = 0.0


class Trainer:
    """Runs `config` to its end, or from where a killed run with the same config and folder stopped."""

    def __init__(
        self,
        config: TrainConfig,
        detector: Detector,
        pictures: TrainingPictures,
        validation: ValidationPictures,
        text: dict[str, np.ndarray],
        *,
        steps_per_epoch: int,
        device: torch.device,
        record: dict[str, Any],
        feature_cache: FeatureCache | None = None,
    ) -> None:
        self._config = config
        self._detector = detector.to(device)
        self._pictures = pictures
        self._validation = validation
        self._text = text
        self._steps_per_epoch = steps_per_epoch
        self._total_steps = steps_per_epoch * config.optimisation.epochs
        self._device = device
        self._record = record
        self._cache = feature_cache
        self._state = State()
        spec = config.optimisation
        groups = detector.parameter_groups(
            lr=spec.lr,
            token_lr=spec.token_lr,
            backbone_lr=spec.backbone_lr,
            trainable_blocks=spec.trainable_blocks,
        )
        self._optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=spec.weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, self._lr_factor)
        self._precision = _precision(spec.mixed_precision, device)
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision is torch.float16)
        self._average = (
            torch.optim.swa_utils.AveragedModel(
                detector, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(spec.ema_decay)
            )
            if spec.ema_decay
            else None
        )

    def run(self) -> Path:
        """Trains, and gives the path of the best checkpoint.

        Raises:
            ValueError: the loss is no number; the step and the learning rate are named.
        """
        out = self._config.out
        out.mkdir(parents=True, exist_ok=True)
        self._resume(out / RESUME)
        with (out / LOG).open("a" if self._state.step else "w", newline="") as file:
            log = csv.writer(file)
            if not self._state.step:
                log.writerow(["step", "split", "metric", "value"])
            while self._state.step < self._total_steps:
                self._train_epoch(log)
                epoch = self._state.step // self._steps_per_epoch
                if epoch % self._config.validation.every_epochs == 0 or self._state.step == self._total_steps:
                    self._validate(log, epoch)
                file.flush()
                self._save_resume(out / RESUME)
        return out / BEST

    def _train_epoch(self, log: Any) -> None:
        spec = self._config.optimisation
        first = self._state.step
        end = min((first // self._steps_per_epoch + 1) * self._steps_per_epoch, self._total_steps)
        loader = DataLoader(
            self._pictures,
            batch_size=spec.batch_size,
            sampler=range(first * spec.batch_size, end * spec.batch_size),
            collate_fn=collate,
            num_workers=self._config.workers,
            prefetch_factor=4 if self._config.workers else None,
            worker_init_fn=_one_thread,
        )
        self._detector.train()
        started = time.monotonic()
        epoch = first // self._steps_per_epoch + 1
        for batch in tqdm(loader, total=end - first, desc=f"epoch {epoch}/{spec.epochs}", leave=False, disable=None):
            loss = self._step(batch)
            self._state.step += 1
            for name, value in {"total": loss.total, **vars(loss)}.items():
                if value is not None:
                    log.writerow([self._state.step, "train", f"loss_{name.strip('_')}", f"{value.item():.6g}"])
        self._state.seconds += time.monotonic() - started

    def _step(self, batch: Batch) -> Any:
        text = torch.from_numpy(np.stack([self._text[product] for product in batch.products])).to(self._device)
        masks = batch.masks.to(self._device)
        stride = self._config.optimisation.loss_stride
        if stride > 1:
            masks = F.max_pool2d(masks.unsqueeze(1), stride).squeeze(1)  # a thin defect stays one
        with self._autocast():
            output = self._forward(batch, text, (masks.shape[1], masks.shape[2]))
        target = Target(
            mask=masks,
            is_anomalous=batch.is_anomalous.to(self._device),
            has_pixel_truth=batch.has_pixel_truth.to(self._device),
        )
        loss = self._detector.head.loss(output, target)
        total = loss.total
        if not torch.isfinite(total):
            rates = self._schedule.get_last_lr()
            raise ValueError(
                f"the loss is {total.item()} at step {self._state.step}, learning rates {rates}: lower them, or train "
                "without mixed precision"
            )
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(total).backward()
        self._scaler.unscale_(self._optimiser)
        nn.utils.clip_grad_norm_(self._detector.parameters(), 1.0)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._detector)
        return loss

    def _forward(self, batch: Batch, text: Tensor, map_hw: tuple[int, int]) -> Any:
        images = batch.images_bgr.to(self._device)
        if self._cache is None:
            return self._detector(images, text, map_hw=map_hw)
        return self._detector.head(self._cache.tokens(images), text, map_hw=map_hw)

    def _validate(self, log: Any, epoch: int) -> None:
        detector = self._detector
        if self._average is not None:
            detector = cast(Detector, self._average.module)
        detector.eval()
        result = self._validation.run(detector, self._text, device=self._device)
        for row in result.rows:
            for metric in ("image_auroc", "pixel_auroc", "pixel_ap"):
                log.writerow([self._state.step, row.dataset, metric, f"{getattr(row, metric)}"])
        log.writerow([self._state.step, "validation", "criterion", f"{result.criterion:.6g}"])
        logger.info("epoch %d: validation %.4f, %.0f s of training", epoch, result.criterion, self._state.seconds)
        for row in result.rows:
            logger.info("  %s: image AUROC %s, pixel AUROC %s, AP %s", row.dataset, *_shown(row))
        if result.criterion > self._state.best_criterion:
            self._state.best_criterion = result.criterion
            record = self._record | _validation_record(result, epoch, self._state)
            save_checkpoint(self._config.out / BEST, detector, self._text, record)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision is None:
            return nullcontext()
        return torch.autocast(self._device.type, self._precision)

    def _lr_factor(self, step: int) -> float:
        spec = self._config.optimisation
        warmup = max(1, round(spec.warmup_fraction * self._total_steps))
        if step < warmup:
            return (step + 1) / warmup
        if spec.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self._total_steps - warmup)))

    def _save_resume(self, path: Path) -> None:
        partial = path.with_name(path.name + ".partial")
        contents = {
            "config": self._config.model_dump_json(),
            "state": vars(self._state),
            "detector": self._detector.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        try:
            torch.save(contents, partial)
        except RuntimeError as error:  # torch's word for a full disk
            raise WeightsError(f"{partial}: cannot be written: {str(error).splitlines()[0]}") from error
        partial.replace(path)

    def _resume(self, path: Path) -> None:
        if not path.is_file():
            return
        try:
            saved = torch.load(path, map_location=self._device, weights_only=True)
            config = saved["config"]
        except (RuntimeError, UnpicklingError, EOFError, KeyError, TypeError) as error:
            raise WeightsError(f"{path}: cannot be read, it is cut or foreign. Remove it to start over.") from error
        if config != self._config.model_dump_json():
            raise ValueError(
                f"{path} is of a run with other settings. Choose another --out, or remove it to start over."
            )
        self._state = State(**saved["state"])
        self._detector.load_state_dict(saved["detector"])
        if self._average is not None:
            self._average.load_state_dict(saved["average"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self._schedule.load_state_dict(saved["schedule"])
        self._scaler.load_state_dict(saved["scaler"])
        logger.info("resuming after step %d of %d", self._state.step, self._total_steps)


def _precision(wanted: str, device: torch.device) -> torch.dtype | None:
    """The autocast type; None is float32. On a CPU `auto` takes bf16 only where it has instructions for it.

    Measured with AVX-512 BF16 and no AMX: a step of ViT-Ti at 320 px takes 0.39 s against 1.27 s in float32.
    """
    if wanted == "auto":
        fast = device.type == "cuda" or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else None
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


def _one_thread(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _shown(row: Any) -> tuple[str, str, str]:
    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return text(row.image_auroc), text(row.pixel_auroc), text(row.pixel_ap)


def _validation_record(result: Validation, epoch: int, state: State) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "steps": state.step,
        "training_seconds": round(state.seconds),
        "validation": [row.model_dump() for row in result.rows],
        "threshold": {"value": result.threshold, "false_reject_rate": result.false_reject_rate},
        "region_level": result.region_level,
    }
