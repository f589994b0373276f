"""The settings of a distillation, in addition to those of a training run."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from zsad_core.config import StrictModel
from zsad_core.errors import ConfigError
from zsad_core.heads import ScoreConfig
from zsad_core.methods import METHODS_WITH_TEXT
from zsad_core.model import DetectorConfig
from zsad_training.config import Count, Fraction, Positive, TrainConfig

Weight = Annotated[float, Field(ge=0)]  # 0 switches a loss off
GridSide = Annotated[int, Field(ge=2, le=64)]


class FolderSpec(StrictModel):
    """A folder of unlabelled images, with all its subfolders."""

    path: Path
    licence: str = "not stated"
    source: str = "not stated"


class FeatureLoss(StrictModel):
    """Compares the student's patch tokens, after a learnt projection, with the teacher's."""

    weight: Weight = 1.0
    distance: Literal["cosine", "smooth_l1"] = "cosine"
    grid_hw: tuple[GridSide, GridSide] = (16, 16)  # largest grid of tokens that is compared and cached


class MapLoss(StrictModel):
    """Compares the student's anomaly map with the teacher's."""

    weight: Weight = 1.0
    temperature: Positive = 1.0  # divides both logits; above 1, certain pixels count less


class ScoreLoss(StrictModel):
    """Compares the student's anomaly score with the teacher's."""

    weight: Weight = 0.1
    other_rule: bool = False  # true: the teacher may score by another rule than the student


class TaskLoss(StrictModel):
    """The loss of the student's method, on labelled and synthetic images."""

    weight: Weight = 1.0


class DistillationSpec(StrictModel):
    teacher: Path | None = None  # checkpoint; None: named by a flag
    cache: Path | None = None  # folder of the teacher's answers; None: no cache
    pool: Count | None = None  # number of distinct images, which repeat; None: no image repeats
    tiles: bool = False  # the teacher's map gets the details of four tiles of a larger image, at five times the time
    unlabelled: tuple[FolderSpec, ...] = ()
    unlabelled_fraction: Fraction = 0.0  # share of unlabelled images; `sampling` describes the rest
    features: FeatureLoss = FeatureLoss()
    maps: MapLoss = MapLoss()
    scores: ScoreLoss = ScoreLoss()
    task: TaskLoss = TaskLoss()


class DistilConfig(TrainConfig):
    distillation: DistillationSpec = DistillationSpec()

    def identity(self) -> str:
        """See `TrainConfig.identity`; paths of the teacher and its cache do not count."""
        spec = self.distillation.model_copy(update={"teacher": None, "cache": None})
        return TrainConfig.identity(self.model_copy(update={"distillation": spec}))

    def with_data_root(self, root: Path) -> Self:
        """See `TrainConfig.with_data_root`; also for unlabelled folders."""
        folders = tuple(spec.model_copy(update={"path": root / spec.path}) for spec in self.distillation.unlabelled)
        spec = self.distillation.model_copy(update={"unlabelled": folders})
        return super().with_data_root(root).model_copy(update={"distillation": spec})


def check_score_rules(config: DistilConfig, teacher: DetectorConfig) -> None:
    """Checks that teacher and student score by the same rule, unless the settings allow a difference.

    Raises:
        ConfigError: with both rules and the settings to change.
    """
    spec, own, theirs = config.distillation.scores, config.model.score, teacher.score
    is_same = own.top_fraction == theirs.top_fraction and (own.power == theirs.power or not own.top_fraction)
    if spec.weight == 0 or spec.other_rule or (teacher.method in METHODS_WITH_TEXT and is_same):
        return
    rule = _rule(theirs) if teacher.method in METHODS_WITH_TEXT else f"{teacher.method}'s own rule"
    wanted = f"model.score.top_fraction={theirs.top_fraction:g} model.score.power={theirs.power:g}"
    same = f"set {wanted} to score alike, " if teacher.method in METHODS_WITH_TEXT else ""
    raise ConfigError(
        f"distillation.scores: the teacher scores by {rule}, the student by {_rule(own)}: {same}"
        "set distillation.scores.other_rule=true to allow the difference, or distillation.scores.weight=0"
    )


def _rule(score: ScoreConfig) -> str:
    if not score.top_fraction:
        return "the map's maximum"
    power = "" if score.power == 1 else f" with power {score.power:g}"
    return f"the mean{power} of the map's highest {100 * score.top_fraction:g} %"


def check_distillation(config: DistilConfig) -> None:
    """Checks that the settings do not contradict each other.

    Raises:
        ConfigError: one line for each contradiction.
    """
    spec = config.distillation
    faults = []
    if config.model.method not in METHODS_WITH_TEXT:
        faults.append(f"model.method: {config.model.method}: a student must be of {' or '.join(METHODS_WITH_TEXT)}")
    if config.feature_cache is not None:
        faults.append("feature_cache: only zsad-train has it; distillation.cache keeps the teacher's answers")
    if not (spec.features.weight or spec.maps.weight or spec.scores.weight):
        faults.append(
            "distillation: features, maps and scores all have weight 0, so the student learns nothing of the teacher: "
            "give one a weight, or use zsad-train"
        )
    if spec.features.weight and config.optimisation.trainable_blocks == 0:
        faults.append(
            "distillation.features: the student's backbone is frozen, so its tokens cannot learn "
            "the teacher's: set optimisation.trainable_blocks (of a CNN the number of its taps), or features.weight 0"
        )
    if spec.cache is not None and spec.pool is None:
        faults.append(
            "distillation.cache: without distillation.pool no image repeats, so a cache is of no use: set the "
            "size of the pool, or no cache"
        )
    if (spec.unlabelled_fraction > 0) != bool(spec.unlabelled):
        faults.append(
            f"distillation: unlabelled_fraction is {spec.unlabelled_fraction} with {len(spec.unlabelled)} unlabelled "
            "folders: give both or neither"
        )
    if faults:
        raise ConfigError("\n".join(faults))
