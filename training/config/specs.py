"""The settings of a training run; the checkpoint's record contains them."""

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
    layout: LayoutName = "auto"  # auto: detected from the content
    mask_folder: str | None = None  # instead of the layout's own
    licence: str = "not stated"
    source: str = "not stated"


class TextureSpec(StrictModel):
    """A folder <material>/<image> of tileable textures without defects, for synthetic images."""

    path: Path
    licence: str = "not stated"
    source: str = "not stated"


class ModelSpec(StrictModel):
    method: Method = "ava_dino"
    backbone: str = "vit_tiny_patch16_224"
    weights: Path | None = None  # local file; None with pretrained false: random
    pretrained: bool = False  # from timm's hub
    input_hw: tuple[Side, Side] = Field(default_factory=lambda known: usual_input_hw(known["backbone"]))  # pixels
    smaller_hw: tuple[tuple[Side, Side], ...] = ()  # further input sizes of the trained model
    taps: tuple[Count, ...] | None = None
    width: Annotated[int, Field(ge=8)] | None = None  # of a CNN's tokens; None: width of its widest tap
    hidden_dim: Count = 768  # of AVA-DINO's adapters
    text_encoder: str = "minilm"
    decoder: DecoderConfig | None = None  # a finer map than the papers'; None: as published
    map_stride: MapStride = 1  # pixels of the input for each value of the map
    score: ScoreConfig = ScoreConfig()
    start: Path | None = None  # checkpoint that the run starts from


class SamplingSpec(StrictModel):
    """How the images of a batch are chosen."""

    synthetic_fraction: Fraction = 0.0  # share of synthetic images
    texture_fraction: Fraction = 0.6  # of the synthetic images, share from textures; the rest is from good images
    printed_fraction: Fraction = 0.0  # of the synthetic images, share of printed or etched patterns
    anomalous_fraction: Fraction = 0.5  # share of real and of synthetic images that are anomalous
    generic_name_fraction: Fraction = 0.0  # share of images prompted as "object"
    augment: Literal["none", "full"] = "none"
    train_hw: tuple[tuple[Side, Side], ...] | None = None  # each batch has a random one of these sizes; None: input_hw


class OptimisationSpec(StrictModel):
    """Defaults are AVA-DINO's recipe (methods: AdamW 1e-4, warm-up 3 %, then constant, batch 64, 20 epochs)."""

    epochs: Count = 20
    steps_per_epoch: Count | None = None  # None: one pass over the images of the data sets
    batch_size: Count = 64  # images of a step, over all processes
    accumulate: Count = 1  # number of parts of each process's share of a batch, to save memory
    save_every_steps: Count | None = None  # None: saves after each epoch only
    lr: Positive = 1e-4  # of the head
    token_lr: Positive = 1e-3  # of tokens that join the backbone's sequence
    backbone_lr: Positive = 1e-5  # of the trainable blocks
    trainable_blocks: Annotated[int, Field(ge=0)] = 0  # last blocks of the backbone that train; 0: frozen
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    warmup_fraction: Fraction = 0.03
    schedule: Literal["constant", "cosine"] = "constant"
    lr_floor: Fraction = 0.0  # share of the learning rate at the end of the cosine schedule
    loss_stride: Annotated[int, Field(ge=1, le=16)] = 1  # maps and masks are compared at 1/stride of the image
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0  # of the moving average of the weights; 0: no average
    gradient_checkpointing: bool = False  # compute a ViT's blocks again in the backward pass: less memory, slower
    mixed_precision: Literal["auto", "off", "bf16", "fp16"] = "auto"  # auto: bf16 where the device is fast at it


class ValidationSpec(StrictModel):
    """The validation part of the training sets. It chooses the epoch and sets the threshold."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.15  # of each class of each product, and of the materials
    max_per_class: Count = 60  # images of each class of each product
    synthetic: Annotated[int, Field(ge=0)] = 0  # number of synthetic images, of held-out materials
    every_epochs: Count = 1
    false_reject_rate: Annotated[float, Field(gt=0, lt=0.5)] = 0.05  # of good validation images; sets the threshold


class TrainConfig(StrictModel):
    out: Path
    train_split: Literal["all", "test"] = "all"  # test: uses only the test splits, like the papers
    textures: TextureSpec | None = None
    model: ModelSpec = ModelSpec()
    sampling: SamplingSpec = SamplingSpec()
    optimisation: OptimisationSpec = OptimisationSpec()
    validation: ValidationSpec = ValidationSpec()
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1 …
    workers: Annotated[int, Field(ge=0)] | None = None  # processes that prepare images; None: from the number of cores
    tensorboard: bool = False  # also write the rows of log.csv for TensorBoard
    feature_cache: Path | None = None  # folder; needs a frozen backbone and no augmentation
    datasets: Annotated[tuple[DatasetSpec, ...], Field(validate_default=True)] = ()  # empty: synthetic images only

    @field_validator("optimisation")
    @classmethod
    def _saves_memory(cls, spec: OptimisationSpec, info: ValidationInfo) -> OptimisationSpec:
        model = info.data.get("model")  # None: it has a fault
        if model and spec.gradient_checkpointing and model.method in METHODS_WITH_TEXT and not spec.trainable_blocks:
            raise ValueError("gradient_checkpointing saves nothing: a frozen backbone has no backward pass here")
        return spec

    @field_validator("datasets")
    @classmethod
    def _gives_pictures(cls, datasets: tuple[DatasetSpec, ...], info: ValidationInfo) -> tuple[DatasetSpec, ...]:
        told = info.data
        if datasets or not {"sampling", "validation", "textures"} <= told.keys():  # the other fields have faults
            return datasets
        drawn = told["sampling"].synthetic_fraction == told["sampling"].texture_fraction == 1
        if not (drawn and told["textures"] and told["validation"].synthetic):
            raise ValueError(
                "there is none. Name one. To train on synthetic images only, name textures and set "
                "sampling.synthetic_fraction and sampling.texture_fraction to 1 and validation.synthetic to e.g. 60"
            )
        return datasets

    @property
    def can_cache_features(self) -> bool:
        """Whether an image has the same tokens each time."""
        frozen = self.model.method in METHODS_WITH_TEXT and self.optimisation.trainable_blocks == 0
        frozen = frozen and self.model.decoder is None  # it needs the images
        return frozen and self.sampling.augment == "none" and self.sampling.synthetic_fraction == 0

    def identity(self) -> str:
        """The settings that the result depends on. A run with the same identity can resume from another's files."""
        settings = self.model_dump(mode="json", exclude={"out", "device", "workers", "tensorboard"})
        for key in ("save_every_steps", "gradient_checkpointing"):
            del settings["optimisation"][key]
        return json.dumps(settings, sort_keys=True)

    def with_data_root(self, root: Path) -> Self:
        """A copy with the relative paths of data sets and textures below `root`."""
        datasets = tuple(spec.model_copy(update={"path": root / spec.path}) for spec in self.datasets)
        textures = self.textures and self.textures.model_copy(update={"path": root / self.textures.path})
        return self.model_copy(update={"datasets": datasets, "textures": textures})
