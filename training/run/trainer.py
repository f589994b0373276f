"""One training run: resumable and deterministic. The validation part chooses the epoch.

The result does not depend on interruptions. Except for rounding, it does not depend on the number of processes or of
parts of a batch: an item depends only on (seed, index), a step's noise only on (seed, step), and the losses of a part
are weighted by its share of the batch. The exception is a decoder with distances: it normalises them by the mean and
variance of each part, and the first process's values are saved.
"""

import logging
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset
from tqdm import tqdm

from zsad_core.backbones import Backbone
from zsad_core.model import Detector, save_checkpoint
from zsad_training.config import OptimisationSpec, TrainConfig
from zsad_training.measure import ValidationPictures
from zsad_training.pictures import Batch, collate
from zsad_training.run.devices import pick_precision
from zsad_training.run.feature_cache import FeatureCache
from zsad_training.run.objective import MethodsLoss, Objective
from zsad_training.run.processes import Processes, make_loader, usual_workers
from zsad_training.run.resume import (
    RESUME,
    changing_state,
    frozen_digest,
    load_changing_state,
    load_resume,
    save_resume,
)
from zsad_training.run.run_log import RunLog

logger = logging.getLogger(__name__)

BEST, LOG, EVENTS = "best.safetensors", "log.csv", "tensorboard"


@dataclass
class State:
    """The progress of a run, saved for a resume together with weights and optimiser."""

    step: int = 0
    best_criterion: float = -math.inf
    seconds: float = 0.0
    log_bytes: int = 0  # size of log.csv


class Trainer:
    """Runs `config`, or resumes a killed run with the same config and folder.

    Each process computes its share of every batch and of the validation. Only the first process logs and saves.
    """

    def __init__(
        self,
        config: TrainConfig,
        detector: Detector,
        pictures: Dataset[Any],
        validation: ValidationPictures,
        text: dict[str, np.ndarray],
        *,
        steps_per_epoch: int,
        processes: Processes,
        record: dict[str, Any],
        materials: Collection[str] = (),
        feature_cache: FeatureCache | None = None,
        objective: Objective | None = None,
        collate: Callable[[list[Any]], Batch] = collate,
    ) -> None:
        """Prepares the run; it reads and writes no files yet.

        Args:
            config: of the run.
            detector: to train.
            pictures: endless data set; every index from 0 is an item.
            validation: chooses the epoch and sets the threshold.
            text: product -> [T, 2], for all products of `pictures` and `validation`.
            steps_per_epoch: optimiser steps.
            processes: all processes of the run.
            record: written into the checkpoint, with the results of validation.
            materials: names in `text` that only textures have; the checkpoint does not contain them.
            feature_cache: of the frozen backbone; only for the default objective.
            objective: the loss; None: the method's own loss.
            collate: makes the objective's batch from items.

        Raises:
            ValueError: the batch cannot be shared evenly, or gradient checkpointing is on for a CNN.
        """
        spec, device = config.optimisation, processes.device
        _check_shares(spec, processes.count)
        self._processes = processes
        self._config = config
        self._detector = detector.to(device)
        self._pictures = pictures
        self._validation = validation
        self._text = text
        self._products_text = {name: embedding for name, embedding in text.items() if name not in materials}
        self._collate = collate
        self._steps_per_epoch = steps_per_epoch
        self._total_steps = steps_per_epoch * spec.epochs
        self._device = device
        self._record = record
        self._objective = objective or MethodsLoss(
            self._detector, text, spec, device=device, feature_cache=feature_cache
        )
        if spec.gradient_checkpointing:
            recompute_blocks(detector)
        self._state = State()
        extra = list(self._objective.extra.parameters())
        self._trained = [*detector.parameters(), *extra]
        self._optimiser = _optimiser(detector, extra, spec)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, self._lr_factor)
        scales = pick_precision(spec.mixed_precision, device) is torch.float16
        # torch's default of 65536 overflows with logits of 100, and the first steps are lost.
        self._scaler = torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=scales)
        # Frozen parameters need no average.
        self._averaged = nn.ParameterList(one for one in detector.parameters() if one.requires_grad)
        self._average = _moving_average(self._averaged, spec.ema_decay)

    def run(self) -> Path:
        """Trains; gives the path of the best checkpoint.

        Raises:
            ValueError: the loss is not finite; the message has the step and the learning rates.
        """
        out = self._config.out
        out.mkdir(parents=True, exist_ok=True)
        self._frozen = frozen_digest(self._detector)
        self._resume()
        self._processes.wait()  # all have read resume.pt before the first one overwrites it
        self._started, self._first_step = time.monotonic(), self._state.step
        events = out / EVENTS if self._config.tensorboard else None
        kept = RunLog(out / LOG, size=self._state.log_bytes, events=events, step=self._state.step)
        with kept if self._processes.is_first else nullcontext() as log:
            while self._state.step < self._total_steps:
                self._train_epoch(log)
                epoch = self._state.step // self._steps_per_epoch
                if epoch % self._config.validation.every_epochs == 0 or self._state.step == self._total_steps:
                    self._validate(log, epoch)
                self._save(log)
                self._processes.wait()
        return out / BEST

    def _train_epoch(self, log: RunLog | None) -> None:
        spec = self._config.optimisation
        first = self._state.step
        end = min((first // self._steps_per_epoch + 1) * self._steps_per_epoch, self._total_steps)
        workers = usual_workers() if self._config.workers is None else self._config.workers
        shares = [indices for step in range(first, end) for indices in self._shares(step)]
        loader = make_loader(self._pictures, shares, self._collate, workers=workers, device=self._device)
        self._detector.train()
        started = time.monotonic()
        epoch = first // self._steps_per_epoch + 1
        label, hidden = f"epoch {epoch}/{spec.epochs}", None if log else True  # None: shown only on a terminal
        batches = iter(loader)
        # The bar counts the steps of the run, so it shows the time left of the run.
        steps = tqdm(range(first, end), desc=label, initial=first, total=self._total_steps, leave=False, disable=hidden)
        for _ in steps:
            metrics = self._step([next(batches) for _ in range(spec.accumulate)])
            self._state.step += 1
            if log:
                for name, value in metrics.items():
                    log.write(self._state.step, "train", name, value)
            if spec.save_every_steps and self._state.step % spec.save_every_steps == 0 and self._state.step < end:
                self._state.seconds += time.monotonic() - started
                started = time.monotonic()
                self._save(log)
                logger.info("step %d of %d is saved, about %s left", self._state.step, self._total_steps, self._left())
        self._state.seconds += time.monotonic() - started

    def _shares(self, step: int) -> list[list[int]]:
        """The item indices of this process in a step's batch, for each backward pass."""
        spec = self._config.optimisation
        own = range(step * spec.batch_size, (step + 1) * spec.batch_size)[self._processes.rank :: self._processes.count]
        return [list(own[part :: spec.accumulate]) for part in range(spec.accumulate)]

    def _step(self, batches: list[Batch]) -> dict[str, float]:
        """One optimiser step; gives the losses of the whole batch, the learning rate and the gradient's norm."""
        counts = torch.tensor([self._objective.counts(batch) for batch in batches]).sum(dim=0)
        totals = self._processes.sum(counts.to(self._device)).tolist()
        self._optimiser.zero_grad(set_to_none=True)
        of_parts = []
        for part, batch in enumerate(batches):
            torch.manual_seed(self._noise_seed(part))
            terms = self._objective.terms(batch, totals)
            self._scaler.scale(terms["total"]).backward()
            of_parts.append(torch.stack([term.detach().float() for term in terms.values()]))
        losses = dict(zip(terms, self._processes.sum(torch.stack(of_parts).sum(dim=0)).tolist(), strict=True))
        if not math.isfinite(losses["total"]):
            rates = self._schedule.get_last_lr()
            raise ValueError(
                f"the loss is {losses['total']} at step {self._state.step}, learning rates {rates}: lower them, or "
                "train without mixed precision"
            )
        self._processes.sum_gradients(self._trained)
        self._scaler.unscale_(self._optimiser)
        norm = nn.utils.clip_grad_norm_(self._trained, 1.0)
        rate = self._schedule.get_last_lr()[0]
        self._scaler.step(self._optimiser)
        self._scaler.update()
        self._schedule.step()
        if self._average is not None:
            self._average.update_parameters(self._averaged)
        named = {f"loss_{name.strip('_')}": value for name, value in losses.items()}
        return named | {"learning_rate": rate, "gradient_norm": norm.item()}

    def _left(self) -> timedelta:
        """The time until the end of the run at its speed so far, with validation."""
        done, todo = self._state.step - self._first_step, self._total_steps - self._state.step
        return timedelta(seconds=round((time.monotonic() - self._started) / done * todo))

    def _noise_seed(self, part: int) -> int:
        """Seed of torch's random numbers in a step (dropout), so that a resumed run gets the same ones."""
        key = [self._config.seed, 3, self._state.step, self._processes.rank, part]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])

    @contextmanager
    def _averaged_weights(self) -> Iterator[None]:
        """A context in which the detector has the averaged weights, if there are any."""
        if self._average is None:
            yield
            return
        pairs = list(zip(self._averaged, self._average.module.parameters(), strict=True))
        _swap(pairs)
        try:
            yield
        finally:
            _swap(pairs)

    def _validate(self, log: RunLog | None, epoch: int) -> None:
        self._processes.copy_from_first(self._detector.buffers())  # statistics of batch norms differ
        with self._averaged_weights():
            result = self._validation.run(self._detector.eval(), self._text, processes=self._processes)
            if result.criterion > self._state.best_criterion:
                self._state.best_criterion = result.criterion
                if log:
                    seconds = round(self._state.seconds)
                    run = {"epoch": epoch, "steps": self._state.step, "training_seconds": seconds}
                    record = self._record | run | result.record()
                    save_checkpoint(self._config.out / BEST, self._detector, self._products_text, record)
        if log is None:
            return
        for row in result.rows:
            for metric in ("image_auroc", "pixel_auroc", "pixel_ap"):
                log.write(self._state.step, row.dataset, metric, getattr(row, metric))
        log.write(self._state.step, "validation", "criterion", result.criterion)
        logger.info(
            "epoch %d of %d: validation %.4f, %.0f s of training, about %s left",
            epoch, self._config.optimisation.epochs, result.criterion, self._state.seconds, self._left(),
        )  # fmt: skip
        for row in result.rows:
            logger.info("  %s: image AUROC %s, pixel AUROC %s, AP %s", row.dataset, *_shown(row))

    def _lr_factor(self, step: int) -> float:
        spec = self._config.optimisation
        warmup = max(1, round(spec.warmup_fraction * self._total_steps))
        if step < warmup:
            return (step + 1) / warmup
        if spec.schedule == "constant":
            return 1.0
        cosine = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self._total_steps - warmup)))
        return spec.lr_floor + (1 - spec.lr_floor) * cosine

    def _save(self, log: RunLog | None) -> None:
        if log is None:
            return
        self._state.log_bytes = log.save()
        contents = {
            "state": vars(self._state),
            "detector": changing_state(self._detector),
            "extra": self._objective.extra.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }
        save_resume(self._config.out / RESUME, self._identity(), contents)

    def _identity(self) -> str:
        return f"{self._config.identity()}{self._objective.identity} frozen {self._frozen}"

    def _resume(self) -> None:
        saved = load_resume(self._config.out / RESUME, self._identity())
        if saved is None:
            return
        self._state = State(**saved["state"])
        load_changing_state(self._detector, saved["detector"])
        self._objective.extra.load_state_dict(saved.get("extra", {}))
        if self._average is not None:
            self._average.load_state_dict(saved["average"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self._schedule.load_state_dict(saved["schedule"])
        self._scaler.load_state_dict(saved["scaler"])
        logger.info("resuming after step %d of %d", self._state.step, self._total_steps)


def _check_shares(spec: OptimisationSpec, processes: int) -> None:
    parts = processes * spec.accumulate
    if spec.batch_size % parts:
        raise ValueError(
            f"batch_size {spec.batch_size} cannot be shared evenly by {processes} processes "
            f"in {spec.accumulate} parts each: choose a multiple of {parts}"
        )


def recompute_blocks(detector: Detector) -> None:
    """Saves only the blocks' inputs for the backward pass, which computes the blocks again."""
    if not isinstance(detector.backbone, Backbone):
        raise ValueError(
            f"gradient_checkpointing: {detector.config.backbone.name} is a CNN, whose normalisation statistics would "
            "be updated twice: only a ViT can be trained so"
        )
    vit: Any = detector.backbone.vit
    vit.set_grad_checkpointing()


def _optimiser(detector: Detector, extra: list[nn.Parameter], spec: OptimisationSpec) -> torch.optim.Optimizer:
    groups = detector.parameter_groups(
        lr=spec.lr,
        token_lr=spec.token_lr,
        backbone_lr=spec.backbone_lr,
        trainable_blocks=spec.trainable_blocks,
    )
    if extra:
        groups.append({"params": extra, "lr": spec.lr})
    return torch.optim.AdamW(groups, betas=(0.9, 0.999), weight_decay=spec.weight_decay)


def _moving_average(parameters: nn.ParameterList, decay: float) -> torch.optim.swa_utils.AveragedModel | None:
    if not decay:
        return None
    average = torch.optim.swa_utils.get_ema_multi_avg_fn(decay)
    return torch.optim.swa_utils.AveragedModel(parameters, multi_avg_fn=average)


def _swap(pairs: Sequence[tuple[nn.Parameter, nn.Parameter]]) -> None:
    for one, other in pairs:
        one.data, other.data = other.data, one.data


def _shown(row: Any) -> tuple[str, str, str]:
    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    return text(row.image_auroc), text(row.pixel_auroc), text(row.pixel_ap)
