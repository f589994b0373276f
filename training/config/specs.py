"""Everything a training run depends on; saved beside its checkpoint."""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator

from zsad_core.backbones import Side, usual_input_hw
from zsad_core.config import StrictModel
from zsad_core.data import LayoutName
from zsad_core.heads import DecoderConfig, MapStride, ScoreConfig
from zsad_core.methods import METHODS_WITH_TEXT, Method

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]


class DatasetSpec(StrictModel):
    """One data set."""

    path: Path
    layout: LayoutName = "auto"  # auto: told from its content
    mask_folder: str | None = None  # instead of the layout's own
    licence: str = "not stated"
    source: str = "not stated"


class TextureSpec(StrictModel):
    """A folder of <material>/<picture> without defects; tileable thumbnails for synthetic pictures."""

    path: Path
    licence: str = "not stated"
    source: str = "not stated"


class ModelSpec(StrictModel):
    method: Method = "ava_dino"
    backbone: str = "vit_tiny_patch16_224"
    weights: Path | None = None  # local file; None with pretrained false: random
    pretrained: bool = False  # from timm's hub
    input_hw: tuple[Side, Side] = Field(default_factory=lambda known: usual_input_hw(known["backbone"]))  # pixels
    smaller_hw: tuple[tuple[Side, Side], ...] = ()  # at which a picture is looked at too, once it is trained
    taps: tuple[Count, ...] | None = None
    width: Annotated[int, Field(ge=8)] | None = None  # of a CNN's tokens; None: its widest tap's
    hidden_dim: Count = 768  # of AVA-DINO's adapters
    text_encoder: str = "minilm"
    decoder: DecoderConfig | None = None  # a finer map than the papers'; None: as published
    map_stride: MapStride = 1  # pixels of the input for each value of the map
    score: ScoreConfig = ScoreConfig()
    start: Path | None = None  # checkpoint that the run begins with


class SamplingSpec(StrictModel):
    """Of what a batch is made."""

    synthetic_fraction: Fraction = 0.0  # share of pictures with drawn anomalies (half of them stay good)
    texture_fraction: Fraction = 0.6  # of the synthetic ones, share made of textures; the rest of the sets' good parts
    printed_fraction: Fraction = 0.0  # of the synthetic ones, share that is drawn as if printed or etched
    anomalous_fraction: Fraction = 0.5  # of real and of synthetic pictures
    generic_name_fraction: Fraction = 0.0  # share of pictures prompted as "object"
    augment: Literal["none", "full"] = "none"
    train_hw: tuple[tuple[Side, Side], ...] | None = None  # a size drawn for each batch; None: input_hw


class OptimisationSpec(StrictModel):
    """Defaults are AVA-DINO's recipe (methods: AdamW 1e-4, warm-up 3 %, then constant, batch 64, 20 epochs)."""

    epochs: Count = 20
    steps_per_epoch: Count | None = None  # None: as many pictures as the sets have
    batch_size: Count = 64  # pictures of a step, over all processes
    accumulate: Count = 1  # parts that each process computes its share of a batch in, to save memory
    save_every_steps: Count | None = None  # within an epoch too, so that a kill loses minutes; None: after each epoch
    lr: Positive = 1e-4  # of the head
    token_lr: Positive = 1e-3  # of tokens that join the backbone's sequence
    backbone_lr: Positive = 1e-5  # of the trainable blocks
    trainable_blocks: Annotated[int, Field(ge=0)] = 0  # last blocks of the backbone that train; 0: frozen
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_fraction: Fraction = 0.03
    schedule: Literal["constant", "cosine"] = "constant"
    lr_floor: Fraction = 0.0  # share of the learning rate that the cosine ends at
    loss_stride: Annotated[int, Field(ge=1, le=16)] = 1  # maps and masks are compared at 1/stride of the picture
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the averaged weights that are kept; 0: none
    mixed_precision: Literal["auto", "off", "bf16", "fp16"] = "auto"  # auto: bf16 where the device is fast at it


class ValidationSpec(StrictModel):
    """The validation part of the training sets chooses the epoch and sets the threshold; test sets never do."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15  # of each class of each product, and of the materials
    max_per_class: Count = 60  # pictures of each class of each product, so that an epoch's check stays short
    synthetic: Annotated[int, Field(ge=0)] = 0  # pictures of held-out materials with drawn anomalies
    every_epochs: Count = 1
    false_reject_rate: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # of good validation pictures, sets the threshold


class TrainConfig(StrictModel):
    out: Path
    train_split: Literal["all", "test"] = "all"  # test: leaves the sets' train splits unused, as the papers do
    textures: TextureSpec | None = None
    model: ModelSpec = ModelSpec()
    sampling: SamplingSpec = SamplingSpec()
    optimisation: OptimisationSpec = OptimisationSpec()
    validation: ValidationSpec = ValidationSpec()
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1 …
    workers: Annotated[int, Field(ge=0)] | None = None  # processes that prepare pictures; None: by the CPU's cores
    feature_cache: Path | None = None  # folder; only with a frozen backbone and no augmentation
    datasets: Annotated[tuple[DatasetSpec, ...], Field(validate_default=True)] = ()  # none: synthetic pictures alone

    @field_validator("datasets")
    @classmethod
    def _gives_pictures(cls, datasets: tuple[DatasetSpec, ...], info: ValidationInfo) -> tuple[DatasetSpec, ...]:
        told = info.data
        if datasets or not {"sampling", "validation", "textures"} <= told.keys():  # the others have faults of their own
            return datasets
        drawn = told["sampling"].synthetic_fraction == told["sampling"].texture_fraction == 1
        if not (drawn and told["textures"] and told["validation"].synthetic):
            raise ValueError(
                "none is named. Name one; or, for training on synthetic pictures alone, name textures and set "
                "sampling.synthetic_fraction and sampling.texture_fraction to 1 and validation.synthetic to 60, say"
            )
        return datasets

    @property
    def can_cache_features(self) -> bool:
        """Whether a picture's tokens are the same whenever it comes."""
        frozen = self.model.method in METHODS_WITH_TEXT and self.optimisation.trainable_blocks == 0
        frozen = frozen and self.model.decoder is None  # it sees the pictures themselves
        return frozen and self.sampling.augment == "none" and self.sampling.synthetic_fraction == 0

    def identity(self) -> str:
        """What the run's result depends on; runs that differ in the rest may go on from each other's files."""
        settings = self.model_dump(mode="json", exclude={"out", "device", "workers"})
        del settings["optimisation"]["save_every_steps"]
        return json.dumps(settings, sort_keys=True)

    def with_data_root(self, root: Path) -> Self:
        """The same run with the relative paths of data sets and textures taken from `root`."""
        datasets = tuple(spec.model_copy(update={"path": root / spec.path}) for spec in self.datasets)
        textures = self.textures and self.textures.model_copy(update={"path": root / self.textures.path})
        return self.model_copy(update={"datasets": datasets, "textures": textures})
