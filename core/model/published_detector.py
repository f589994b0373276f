"""Turns a published checkpoint into one of ours: the head from the authors' file, the backbone with its own weights.

All commands with `--published` use this module, so a published model can be evaluated, exported and distilled like a
trained one.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_core.errors import ConfigError
from zsad_core.methods import METHODS, Method

if TYPE_CHECKING:
    from zsad_core.backbones import BackboneConfig
    from zsad_core.model.checkpoint import Checkpoint
    from zsad_core.model.detector import DetectorConfig

PAPERS_BACKBONE = "vit_large_patch16_dinov3"  # of the two methods with text; their files do not name it
PAPERS_TEXT_ENCODER = "open_clip:ViT-L-14-336:openai"
OF_PUBLISHED = ("backbone", "weights", "pretrained", "text_encoder", "input_size", "restore_norm")  # flags
UNSET = 0.5  # threshold and region level, which a published file does not have


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the positional CHECKPOINT, `--published`, and flags for the facts that a published file lacks."""
    parser.add_argument("checkpoint", type=Path, nargs="?", help="file made by training")
    add_published_flags(parser)


def add_published_flags(parser: argparse.ArgumentParser) -> None:
    """Adds `--published` and its flags to a command that has its own `checkpoint` argument."""
    group = parser.add_argument_group("published checkpoints, instead of CHECKPOINT")
    group.add_argument(
        "--published",
        nargs=2,
        metavar=("METHOD", "FILE"),
        help=f"the authors' file; METHOD is {', '.join(METHODS)}",
    )
    group.add_argument("--backbone", help=f"timm name (default: as the file says, else {PAPERS_BACKBONE})")
    group.add_argument("--weights", type=Path, help="local weights file of the backbone")
    group.add_argument("--pretrained", action="store_true", help="fetch the backbone's weights from timm's hub")
    group.add_argument("--text-encoder", help=f"default {PAPERS_TEXT_ENCODER}")
    group.add_argument("--input-size", type=int, help="side of the square input, pixels (default: the method's)")
    group.add_argument(
        "--restore-norm",
        action="store_true",
        help="also load VisualAD's trained final norm; the paper's numbers come without it (default: without)",
    )


def chosen_checkpoint(args: argparse.Namespace) -> "Checkpoint":
    """The checkpoint that the flags of `add_checkpoint_flags` name.

    Raises:
        ConfigError: neither or both of CHECKPOINT and `--published`, an unknown method, or a flag for published files
            together with CHECKPOINT.
        WeightsError: a file is missing or does not fit.
    """
    from zsad_core.model.checkpoint import load_checkpoint

    if (args.checkpoint is None) == (args.published is None):
        raise ConfigError("name either CHECKPOINT or --published METHOD FILE")
    if args.published is None:
        if given := [flag for flag in OF_PUBLISHED if getattr(args, flag)]:
            flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in given)
            raise ConfigError(f"{flags}: only for --published files, not for {args.checkpoint}: leave it out")
        return load_checkpoint(args.checkpoint)
    method, file = args.published
    if method not in METHODS:
        raise ConfigError(f"--published {method}: no such method. Known: {', '.join(METHODS)}")
    return published_checkpoint(
        method,
        Path(file),
        backbone=args.backbone,
        weights=args.weights,
        pretrained=args.pretrained,
        text_encoder=args.text_encoder or PAPERS_TEXT_ENCODER,
        input_hw=None if args.input_size is None else (args.input_size, args.input_size),
        restore_norm=args.restore_norm,
    )


def published_checkpoint(
    method: Method,
    path: Path,
    *,
    backbone: str | None = None,
    weights: Path | None = None,
    pretrained: bool = False,
    text_encoder: str = PAPERS_TEXT_ENCODER,
    input_hw: tuple[int, int] | None = None,
    restore_norm: bool = False,
) -> "Checkpoint":
    """The detector of a published file, with the scoring of its paper.

    Args:
        method: one of `METHODS`.
        path: the authors' file.
        backbone: timm name; None: the backbone in the file, else the papers' ViT-L/16 DINOv3.
        weights: local weights file of the backbone.
        pretrained: download the backbone's weights from timm's hub. Without weights and this flag they are random.
        text_encoder: for methods with text.
        input_hw: pixels; None: the method's size.
        restore_norm: see `zsad_core.model.published.load_published`.

    Raises:
        ConfigError: `backbone` is None, and no timm model is known for the file's backbone.
        WeightsError: a file is missing or does not fit, or the backbone's width differs from the file's.
    """
    from zsad_core.backbones import build_backbone
    from zsad_core.model.checkpoint import Checkpoint
    from zsad_core.model.detector import Detector
    from zsad_core.model.published import load_published

    published = load_published(method, path, restore_norm=restore_norm)
    facts = published.facts
    config = _backbone_config(path, facts, backbone, input_hw)
    built: Any = build_backbone(config, weights=weights, pretrained=pretrained)
    detector = Detector(_detector_config(method, facts, config, built.weights_source, text_encoder), built)
    published.load_into(detector.head)
    if published.norm:
        built.vit.norm.load_state_dict(published.norm)
    return Checkpoint(detector=detector.eval(), text_embeddings={}, record=_record(method, path, facts))


def _backbone_config(path: Path, facts: Any, name: str | None, input_hw: tuple[int, int] | None) -> "BackboneConfig":
    from zsad_core.backbones import BackboneConfig
    from zsad_core.model.published import VisualAdFacts

    if not isinstance(facts, VisualAdFacts):
        given: dict[str, Any] = {} if input_hw is None else {"input_hw": input_hw}
        return BackboneConfig(name=name or PAPERS_BACKBONE, **given)
    name = name or facts.timm_name
    if name is None:
        raise ConfigError(
            f"{path}: no timm model is known for its backbone {facts.backbone!r}: name one with --backbone"
        )
    side = facts.image_size
    return BackboneConfig(name=name, input_hw=input_hw or (side, side), taps=facts.taps, bilinear_positions=True)


def _detector_config(
    method: Method, facts: Any, backbone: "BackboneConfig", source: str, text_encoder: str
) -> "DetectorConfig":
    from zsad_core.heads import TOP_FRACTION, ScoreConfig, VisualAdOptions
    from zsad_core.model.detector import DetectorConfig
    from zsad_core.model.published import VisualAdFacts

    if isinstance(facts, VisualAdFacts):
        options = facts.config.model_dump(exclude={"embed_dim", "num_taps"})
        return DetectorConfig(
            method=method,
            backbone=backbone,
            backbone_weights=source,
            visualad=VisualAdOptions(**options),
            score=ScoreConfig(top_fraction=TOP_FRACTION),
        )
    return DetectorConfig(
        method=method,
        backbone=backbone,
        backbone_weights=source,
        text_encoder=text_encoder,
        text_dim=facts.text_dim,
        hidden_dim=facts.hidden_dim,
        interleave_text=facts.interleave_text,
    )


def _record(method: str, path: Path, facts: Any) -> dict[str, Any]:
    return {
        "command": f"the authors' checkpoint {path.name}, by --published {method}",
        "seed": 0,
        "epoch": facts.recorded.get("epoch", 0),
        "method": method,
        "trained_on": [],
        "licences": [
            {"what": f"published checkpoint {path.name}", "licence": "its authors'", "source": f"authors of {method}"}
        ],
        "threshold": {
            "value": UNSET,
            "false_reject_rate": None,
            "method": "none was set: calibrate on good parts",
        },
        "region_level": UNSET,
    }
