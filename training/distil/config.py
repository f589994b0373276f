"""What a distillation depends on beside what any training run does."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field

from zsad_core.config import StrictModel
from zsad_core.errors import ConfigError
from zsad_core.methods import METHODS_WITH_TEXT
from zsad_core.model import DetectorConfig
from zsad_training.config import Count, Fraction, Positive, TrainConfig

Weight = Annotated[float, Field(ge=0)]  # 0 switches a loss off, and what it needs is not computed
GridSide = Annotated[int, Field(ge=2, le=64)]


class FolderSpec(StrictModel):
    """A folder of pictures of which nothing is known, with all its subfolders."""

    path: Path
    licence: str = "not stated"
    source: str = "not stated"


class FeatureLoss(StrictModel):
    """The student's patch tokens, through a projection that is learnt, against the teacher's."""

    weight: Weight = 1.0
    distance: Literal["cosine", "smooth_l1"] = "cosine"
    grid_hw: tuple[GridSide, GridSide] = (16, 16)  # at most so many tokens are compared, and kept in the cache


class MapLoss(StrictModel):
    """The student's anomaly map against the teacher's."""

    weight: Weight = 1.0
    temperature: Positive = 1.0  # divides the logits of both: above 1, what is surely good or bad counts less


class ScoreLoss(StrictModel):
    """The student's anomaly score against the teacher's."""

    weight: Weight = 0.1
    other_rule: bool = False  # true: the teacher may score by another rule than the student


class TaskLoss(StrictModel):
    """The student's method's own loss, on labelled and synthetic pictures."""

    weight: Weight = 1.0


class DistillationSpec(StrictModel):
    teacher: Path | None = None  # checkpoint; flags may name it, or a published file
    cache: Path | None = None  # folder of the teacher's answers; None: it is asked each time
    pool: Count | None = None  # distinct pictures, which come again and again; None: each comes once
    unlabelled: tuple[FolderSpec, ...] = ()
    unlabelled_fraction: Fraction = 0.0  # share of such pictures; the rest is as `sampling` says
    features: FeatureLoss = FeatureLoss()
    maps: MapLoss = MapLoss()
    scores: ScoreLoss = ScoreLoss()
    task: TaskLoss = TaskLoss()


class DistilConfig(TrainConfig):
    distillation: DistillationSpec = DistillationSpec()

    def identity(self) -> str:
        """See `TrainConfig.identity`; what the teacher is counts, and not where it or its answers lie."""
        spec = self.distillation.model_copy(update={"teacher": None, "cache": None})
        return TrainConfig.identity(self.model_copy(update={"distillation": spec}))

    def with_data_root(self, root: Path) -> Self:
        """See `TrainConfig.with_data_root`; unlabelled folders too."""
        folders = tuple(spec.model_copy(update={"path": root / spec.path}) for spec in self.distillation.unlabelled)
        spec = self.distillation.model_copy(update={"unlabelled": folders})
        return super().with_data_root(root).model_copy(update={"distillation": spec})


def check_score_rules(config: DistilConfig, teacher: DetectorConfig) -> None:
    """Refuses a teacher whose scores mean something else than the student's, unless the settings accept it.

    Raises:
        ConfigError: it names both rules and what to set.
    """
    spec, own = config.distillation.scores, config.model.score.top_fraction
    theirs = teacher.score.top_fraction
    if spec.weight == 0 or spec.other_rule or (teacher.method in METHODS_WITH_TEXT and own == theirs):
        return
    rule = _rule(theirs) if teacher.method in METHODS_WITH_TEXT else f"{teacher.method}'s own rule"
    same = f"set model.score.top_fraction={theirs:g} to score alike, " if teacher.method in METHODS_WITH_TEXT else ""
    raise ConfigError(
        f"distillation.scores: the teacher scores by {rule}, the student by {_rule(own)}: {same}"
        "set distillation.scores.other_rule=true to accept the difference, or distillation.scores.weight=0"
    )


def _rule(top_fraction: float) -> str:
    return f"the mean of the map's highest {100 * top_fraction:g} %" if top_fraction else "the map's maximum"


def check_distillation(config: DistilConfig) -> None:
    """Refuses settings that contradict each other.

    Raises:
        ConfigError: one line for each.
    """
    spec = config.distillation
    faults = []
    if config.model.method not in METHODS_WITH_TEXT:
        faults.append(f"model.method: {config.model.method}: a student is of {' or '.join(METHODS_WITH_TEXT)}")
    if config.feature_cache is not None:
        faults.append("feature_cache: of zsad-train; what is kept here are the teacher's answers, distillation.cache")
    if not (spec.features.weight or spec.maps.weight or spec.scores.weight):
        faults.append(
            "distillation: features, maps and scores all have weight 0, so that nothing is learnt of the teacher: "
            "give one a weight, or use zsad-train"
        )
    if spec.features.weight and config.optimisation.trainable_blocks == 0:
        faults.append(
            "distillation.features: the student's backbone is frozen, so its tokens cannot come nearer to the "
            "teacher's: set optimisation.trainable_blocks (of a CNN the number of its taps), or features.weight 0"
        )
    if spec.cache is not None and spec.pool is None:
        faults.append(
            "distillation.cache: without distillation.pool no picture comes twice, and the cache would grow without "
            "end: set the pool's size, or no cache"
        )
    if (spec.unlabelled_fraction > 0) != bool(spec.unlabelled):
        faults.append(
            f"distillation: unlabelled_fraction is {spec.unlabelled_fraction} with {len(spec.unlabelled)} unlabelled "
            "folders: give both or neither"
        )
    if faults:
        raise ConfigError("\n".join(faults))
