"""Backbone, head and scoring as one model, and this model as the graph that a device runs."""

from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from zsad_core.backbones import (
    AnyBackbone,
    Backbone,
    BackboneConfig,
    Side,
    build_backbone,
    check_input,
    class_position,
)
from zsad_core.config import StrictModel
from zsad_core.heads import (
    AdDinoV3,
    AvaDino,
    AvaDinoConfig,
    DecoderConfig,
    MapStride,
    MatchingConfig,
    ScoreConfig,
    VisualAd,
    VisualAdConfig,
    VisualAdOptions,
    anomaly_score,
)
from zsad_core.methods import Method
from zsad_core.model.preprocess import Normalise

Count = Annotated[int, Field(ge=1)]
_SURE = 1e-4  # map values stay this far from 0 and 1 where two maps are joined: one detector alone decides no pixel


class DetectorConfig(StrictModel):
    """The complete config of a model; saved in every checkpoint."""

    method: Method = "ava_dino"
    backbone: BackboneConfig = BackboneConfig()
    backbone_weights: str = "random"  # initial weights of the backbone; only a record
    text_encoder: str = "minilm"  # for methods that match with text
    text_dim: Count = 384
    hidden_dim: Count = 768  # of AVA-DINO's adapters
    interleave_text: bool = False  # see `MatchingConfig`
    decoder: DecoderConfig | None = None  # see `MatchingConfig`
    map_stride: MapStride = 1  # input pixels per value of the output map; published: 1
    smaller_hw: tuple[tuple[Side, Side], ...] = ()  # further input sizes for evaluation, see `Detector.answer`
    visualad: VisualAdOptions = VisualAdOptions()
    score: ScoreConfig = ScoreConfig()
    second: "DetectorConfig | None" = None  # of `Detector.second`

    @property
    def backbone_names(self) -> str:
        """Each backbone with its initial weights, for records."""
        own = f"{self.backbone.name} from {self.backbone_weights}"
        return own if self.second is None else f"{own}, and {self.second.backbone_names}"


def build_head(config: DetectorConfig, backbone: AnyBackbone) -> Any:
    """The method's trainable part, with new random weights.

    All heads have the same interface: `needs_text`; `tokens(backbone, images)`; `forward(tokens, text, map_hw)`, the
    outputs for training; `loss(output, target)`; `prompt_vectors(text)`; `predict(tokens, prompts, map_hw, score)`, map
    and score; `token_parameters()`; `trains_final_norm`; `score_from_map`, whether the score comes from the output map.
    """
    widths: dict[str, Any] = {
        "embed_dim": backbone.embed_dim,
        "text_dim": config.text_dim,
        "num_taps": len(backbone.taps),
        "interleave_text": config.interleave_text,
        "decoder": config.decoder,
    }
    if config.method == "ava_dino":
        return AvaDino(AvaDinoConfig(**widths, hidden_dim=config.hidden_dim))
    if config.method == "ad_dinov3":
        return AdDinoV3(MatchingConfig(**widths))
    if not isinstance(backbone, Backbone):
        raise ValueError(f"visualad inserts its tokens into a ViT, but {backbone.config.name} is not a ViT")
    if config.score.power != 1:
        raise ValueError(f"score.power {config.score.power:g}: visualad has no power mean, set 1")
    head = VisualAd(
        VisualAdConfig(embed_dim=backbone.embed_dim, num_taps=len(backbone.taps), **config.visualad.model_dump())
    )
    head.place(class_position(backbone.vit))
    return head


def check_smaller(config: DetectorConfig, backbone: AnyBackbone) -> None:
    """Raises ValueError if a size in `smaller_hw` does not fit the patches or is not smaller than the input."""
    input_hw = config.backbone.input_hw
    for size_hw in config.smaller_hw:
        check_input(size_hw, backbone.patch_hw)
        if size_hw == input_hw or size_hw[0] > input_hw[0] or size_hw[1] > input_hw[1]:
            raise ValueError(f"smaller_hw {size_hw} is not smaller than the input {input_hw}")


class Detector(nn.Module):
    """Computes maps and scores from uint8 BGR images and, if the method needs text, text embeddings.

    `second` is a further, complete detector, see `joined`: the map is the mean of both maps' logits. It always gets the
    prompt vectors `second_prompts` [1, K, 2, M], whatever the product.
    """

    second_prompts: Tensor

    def __init__(self, config: DetectorConfig, backbone: AnyBackbone) -> None:
        """Raises ValueError as `check_smaller` does."""
        super().__init__()
        check_smaller(config, backbone)
        self.config = config
        self.normalise = Normalise(backbone.mean, backbone.std)
        self.backbone = backbone
        self.head = build_head(config, backbone)
        self.second: Detector | None = None
        if config.second is not None:
            self.second = Detector(config.second, build_backbone(config.second.backbone))
            empty = torch.zeros((1, config.second.text_dim, 2))
            self.register_buffer("second_prompts", self.second.head.prompt_vectors(empty).detach())

    @property
    def needs_text(self) -> bool:
        return bool(self.head.needs_text)

    def tokens(self, images_bgr: Tensor) -> Any:
        """The head's tokens of images uint8 [B, H, W, 3]; H, W are multiples of the patch size."""
        return self.head.tokens(self.backbone, self.normalise(images_bgr))

    def forward(self, images_bgr: Tensor, text: Tensor | None, *, map_hw: tuple[int, int] | None = None) -> Any:
        """The method's outputs for training.

        Args:
            images_bgr: uint8 [B, H, W, 3].
            text: [B, T, 2]; None for a method without text.
            map_hw: size of the maps; None: the images' size.
        """
        size_hw = (int(images_bgr.shape[1]), int(images_bgr.shape[2]))
        return self.head(self.tokens(images_bgr), text, map_hw=map_hw or size_hw)

    def parameter_groups(
        self, *, lr: float, token_lr: float, backbone_lr: float, trainable_blocks: int
    ) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser, by learning rate: head, learnable tokens, last blocks of the backbone.

        All other parameters are frozen. If the method trains the final norm, it belongs to the head's group.
        """
        backbone = self.backbone.trainable_blocks(trainable_blocks)
        tokens = self.head.token_parameters()
        known = {id(parameter) for parameter in (*backbone, *tokens)}
        head = [parameter for parameter in self.head.parameters() if parameter.requires_grad]
        if self.head.trains_final_norm:
            vit: Any = self.backbone.vit
            head += list(vit.norm.requires_grad_(True).parameters())
        groups = [
            {"params": [parameter for parameter in head if id(parameter) not in known], "lr": lr},
            {"params": tokens, "lr": token_lr},
            {"params": backbone, "lr": backbone_lr},
        ]
        return [group for group in groups if group["params"]]

    def predict(self, images_bgr: Tensor, text: Tensor | None) -> tuple[Tensor, Tensor]:
        """Anomaly maps [B, H / s, W / s] for map stride s, and scores [B], all in [0, 1]; arguments as in `forward`."""
        return self.answer(images_bgr, self.head.prompt_vectors(text) if self.needs_text else None)

    def answer(self, images_bgr: Tensor, prompts: Tensor | None, *, tokens: Any = None) -> tuple[Tensor, Tensor]:
        """As `predict`, with the prompt vectors [B, K, 2, M] instead of the text.

        With `smaller_hw` each image is evaluated at several input sizes, and the map is the mean over them: a small
        input shows the part as a whole, a large input its small defects. `tokens`: the tokens of `images_bgr`, if they
        are already computed.
        """
        stride = self.config.map_stride
        map_hw = (int(images_bgr.shape[1]) // stride, int(images_bgr.shape[2]) // stride)
        images = self.normalise(images_bgr)
        of_sizes = [self.head.tokens(self.backbone, images) if tokens is None else tokens]
        for size_hw in self.config.smaller_hw:
            smaller = F.interpolate(images, size=size_hw, mode="bilinear")
            of_sizes.append(self.head.tokens(self.backbone, smaller))
        answers = [self.head.predict(one, prompts, map_hw=map_hw, score=self.config.score) for one in of_sizes]
        maps, scores = answers[0]
        if len(answers) > 1:
            maps, scores = (torch.stack(list(parts)).mean(dim=0) for parts in zip(*answers, strict=True))
        if self.second is not None:
            maps = self._joined_map(maps, images_bgr, self.second)
        from_map = self.head.score_from_map and (len(answers) > 1 or self.second is not None)
        return maps, anomaly_score(maps, self.config.score) if from_map else scores

    def _joined_map(self, maps: Tensor, images_bgr: Tensor, second: "Detector") -> Tensor:
        """The mean of the logits of `maps` [B, h, w] and of the second detector's maps, as probabilities."""
        images, input_hw = images_bgr, second.config.backbone.input_hw
        map_hw = (int(maps.shape[1]), int(maps.shape[2]))
        if (int(images.shape[1]), int(images.shape[2])) != input_hw:
            channels_first = F.interpolate(images.permute(0, 3, 1, 2).float(), size=input_hw, mode="bilinear")
            images = channels_first.permute(0, 2, 3, 1)
        theirs, _ = second.answer(images, self.second_prompts.expand(images.shape[0], -1, -1, -1))
        if (int(theirs.shape[1]), int(theirs.shape[2])) != map_hw:
            theirs = F.interpolate(theirs.unsqueeze(1), size=map_hw, mode="bilinear")[:, 0]
        ours, theirs = maps.clamp(_SURE, 1 - _SURE), theirs.clamp(_SURE, 1 - _SURE)
        anomalous, normal = (ours * theirs).sqrt(), ((1 - ours) * (1 - theirs)).sqrt()
        return anomalous / (anomalous + normal)  # sigmoid of the mean of both logits


def joined(first: Detector, second: Detector, prompts: Tensor) -> Detector:
    """A detector in eval mode with the weights of `first` and, as its `second`, of `second`.

    Args:
        first: sets input size, size of the map, text and score.
        second: gets the image at its own input size.
        prompts: of `second`'s head for the generic product, [1, K, 2, M].

    Raises:
        ValueError: one has no score from its map and text, or has a second detector already.
    """
    for one in (first, second):
        if not (one.needs_text and one.head.score_from_map):
            raise ValueError(f"{one.config.method}: only detectors with text, whose score is of the map, can be joined")
        if one.second is not None:
            raise ValueError("this detector has a second one already: join detectors that were trained")
    config = first.config.model_copy(update={"second": second.config})
    result = Detector(config, build_backbone(config.backbone))
    theirs = {f"second.{name}": value for name, value in second.state_dict().items()}
    result.load_state_dict({**first.state_dict(), **theirs, "second_prompts": prompts})
    return result.eval()


class DeviceGraph(nn.Module):
    """The detector for export: one image, prompt vectors instead of text, and only the outputs map and score.

    Inputs: `image` uint8 [1, H, W, 3] BGR; for a method with text, `prompt` float32 [K, 2, M], the output of the head's
    `prompt_vectors` for one product.
    Outputs: `anomaly_map` [1, H, W] and `anomaly_score` [1], as in `Detector.predict`.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor, prompt: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.detector.answer(image, None if prompt is None else torch.unsqueeze(prompt, 0))
