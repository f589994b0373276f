"""The losses of distillation: features, maps and scores compared with the teacher's, and the task loss."""

from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad_core.backbones import standardise_patches
from zsad_core.bundle import ANOMALOUS, NORMAL
from zsad_core.heads import MATCHING, Target, Tokens, enlarge, match, scaled, to_map_size, top_mean
from zsad_core.model import Detector
from zsad_training.distil.config import DistilConfig
from zsad_training.distil.pictures import DistilBatch
from zsad_training.distil.teacher import SURE, Answering, Answers, on_grid
from zsad_training.run import autocast, stacked_text, target_of


class DistilObjective:
    """Weighted sum of the losses. Unlabelled images count in all losses but the task loss."""

    def __init__(
        self,
        detector: Detector,
        text: dict[str, np.ndarray],
        teacher: Answering,
        config: DistilConfig,
        *,
        device: torch.device,
    ) -> None:
        """Initialises the projections at random.

        Args:
            detector: the student, of a method with text.
            text: product -> [T, 2], of the student's text encoder.
            teacher: gives answers for each batch.
            config: of the run.
            device: of the student.
        """
        self.identity = f" teacher {teacher.digest}"
        self._detector = detector
        self._text = text
        self._teacher = teacher
        self._spec = config.distillation
        self._optimisation = config.optimisation
        self._device = device
        taps = len(detector.backbone.taps)
        self.extra = nn.ModuleList(
            nn.Linear(detector.backbone.embed_dim, teacher.layout.embed_dim, bias=False)
            for _ in range(taps if self._spec.features.weight else 0)
        ).to(device)
        theirs = teacher.layout.taps
        self._teachers_tap = [-(-(tap + 1) * theirs // taps) - 1 for tap in range(taps)]  # last tap with last tap

    def counts(self, batch: DistilBatch) -> list[int]:
        """Numbers of images: with pixel truth, labelled, all."""
        return [int(batch.has_pixel_truth.sum()), int(batch.is_labelled.sum()), len(batch.products)]

    def terms(self, batch: DistilBatch, totals: list[int]) -> dict[str, Tensor]:
        """The losses by name and their weighted sum; see `Objective.terms`."""
        spec, head = self._spec, self._detector.head
        answers = self._teacher.layout.unpack(self._teacher.rows(batch).to(self._device))
        target = target_of(batch, self._optimisation.loss_stride, self._device)
        text = stacked_text(self._text, batch.products, self._device)
        output = logits = None
        with autocast(self._optimisation.mixed_precision, self._device):
            tokens = self._detector.tokens(batch.images_bgr.to(self._device, non_blocking=True))
            if spec.task.weight:
                output = head(tokens, text, map_hw=(target.mask.shape[1], target.mask.shape[2]))
            if spec.maps.weight or spec.scores.weight:
                decoded = output.decoded if output is not None else None
                logits = self._map_logits(tokens, text, decoded)
        share = len(batch.products) / totals[2]
        terms = {}
        if spec.features.weight:
            terms["features"] = share * self._feature_loss(tokens, answers)
        if logits is not None and spec.maps.weight:
            terms["maps"] = share * divergence(logits, answers.map_logits, spec.maps.temperature)
        if logits is not None and spec.scores.weight:
            terms["scores"] = share * self._score_loss(logits, answers)
        if output is not None:
            terms["task"] = self._task_loss(output, target, batch, totals)
        total = torch.stack([getattr(spec, name).weight * term for name, term in terms.items()]).sum()
        return {"total": total, **terms}

    def _map_logits(self, tokens: Tokens, text: Tensor, decoded: Tensor | None) -> Tensor:
        """[B, h, w]: logits of the student's anomaly map, at the size of the teacher's.

        `predict` gives probabilities, but far from the truth they are 0 or 1 in float32, with no gradient. `predict`
        enlarges a decoder's probabilities; here the logits are enlarged, which gives slightly other values.

        Args:
            tokens: of the student.
            text: [B, T, 2].
            decoded: logits of its decoder, if already computed.
        """
        head: Any = self._detector.head
        map_hw, temperature = self._teacher.layout.map_hw, self._detector.config.score.temperature
        if decoded is None:
            prompts = head.prompt_vectors(text)
            matches = []
            for tap, (cls_token, patches) in enumerate(zip(tokens.cls_tokens, tokens.patch_tokens, strict=True)):
                adapted = head.adapt(tap, cls_token, patches, prompts)
                matches.append(match(adapted.patch_tokens, prompts[:, MATCHING], tokens.grid_hw))
            if head.decoder is None:
                of_taps = [torch.log_softmax(to_map_size(one, map_hw) / temperature, dim=1) for one in matches]
                mean = torch.logsumexp(torch.stack(of_taps), dim=0)  # [B, 2, h, w], up to the constant log L
                return mean[:, ANOMALOUS] - mean[:, NORMAL]
            decoded = head.decode(tokens, matches)
        return enlarge(decoded.float() / temperature, map_hw)[:, 0]

    def _feature_loss(self, tokens: Tokens, answers: Answers) -> Tensor:
        hw = self._teacher.layout.features_hw
        if hw is None or answers.features is None:
            raise ValueError("the feature loss needs the teacher's tokens: build the teacher with a grid")
        losses = []
        for projection, patches, tap in zip(self.extra, tokens.patch_tokens, self._teachers_tap, strict=True):
            theirs = answers.features[:, tap]  # [B, N, D]
            own = standardise_patches(projection(on_grid(patches, tokens.grid_hw, hw)))
            if self._spec.features.distance == "cosine":
                losses.append(1 - F.cosine_similarity(own, theirs, dim=-1).mean())
            else:
                losses.append(F.smooth_l1_loss(own, theirs))
        return torch.stack(losses).mean()

    def _score_loss(self, logits: Tensor, answers: Answers) -> Tensor:
        """Compares scores by the student's rule, without its pooling: the compared map is already coarse."""
        rule = self._detector.config.score
        score = top_mean(torch.sigmoid(logits), rule.top_fraction, power=rule.power)
        return divergence(torch.logit(score.clamp(SURE, 1 - SURE)), answers.score_logits)

    def _task_loss(self, output: Any, target: Target, batch: DistilBatch, totals: list[int]) -> Tensor:
        with_truth, labelled, _ = self.counts(batch)
        if labelled == 0:
            return target.mask.new_zeros(())
        chosen = batch.is_labelled.to(self._device)
        loss = scaled(
            self._detector.head.loss(_rows_of(output, chosen), _rows_of(target, chosen)),
            pixel=with_truth / max(1, totals[0]),
            image=labelled / totals[1],
        )
        return loss.total


def divergence(logits: Tensor, teachers: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean KL divergence of the student's anomaly probability from the teacher's; 0 if they are equal.

    It is multiplied by the temperature squared, so that its weight does not depend on it (Hinton et al., arXiv
    1503.02531).
    """
    wanted = torch.sigmoid(teachers / temperature)
    crossed = F.binary_cross_entropy_with_logits(logits / temperature, wanted)
    return temperature**2 * (crossed - F.binary_cross_entropy_with_logits(teachers / temperature, wanted))


def _rows_of(of_batch: Any, chosen: Tensor) -> Any:
    """The chosen rows of a dataclass of tensors [B, ...]."""
    values = {field.name: getattr(of_batch, field.name) for field in fields(of_batch)}
    return replace(of_batch, **{name: value[chosen] for name, value in values.items() if value is not None})
