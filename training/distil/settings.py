"""The flags of distillation, and the settings and the teacher from flags, a file or a preset."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from zsad_core.errors import ConfigError
from zsad_core.methods import METHODS
from zsad_core.model import PAPERS_BACKBONE, PAPERS_TEXT_ENCODER
from zsad_training.config import FLAG_KEYS, add_setting_flags, preset_file, presets, read_settings

if TYPE_CHECKING:
    from zsad_core.model import Checkpoint
    from zsad_training.distil.config import DistilConfig

logger = logging.getLogger(__name__)

_FLAG_KEYS = {flag: keys for flag, keys in FLAG_KEYS.items() if flag != "feature_cache"} | {
    "teacher": ("distillation", "teacher"),
    "teacher_cache": ("distillation", "cache"),
    "pool": ("distillation", "pool"),
    "unlabelled": ("distillation", "unlabelled"),
    "unlabelled_fraction": ("distillation", "unlabelled_fraction"),
}
_OF_PUBLISHED = {  # flag -> argument of `published_checkpoint`
    "teacher_backbone": "backbone",
    "teacher_weights": "weights",
    "teacher_pretrained": "pretrained",
    "teacher_text_encoder": "text_encoder",
    "teacher_input_size": "input_hw",
    "restore_norm": "restore_norm",
}


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-distill`."""
    result = argparse.ArgumentParser(
        prog="zsad-distill",
        description="Trains a student to give the maps, scores and features of a teacher, on labelled, synthetic and "
        "unlabelled images. The settings are those of zsad-train, for the student, and a section `distillation`. "
        "A killed run continues when it is started again with the same settings. At its end it prints a table of "
        "teacher and student on the validation part, and the path of the checkpoint.",
    )
    teacher = result.add_argument_group("the teacher: a checkpoint, or the authors' published file")
    teacher.add_argument("--teacher", type=Path, help="checkpoint of zsad-train")
    teacher.add_argument(
        "--published", nargs=2, metavar=("METHOD", "FILE"), help=f"the authors' file; METHOD is {', '.join(METHODS)}"
    )
    teacher.add_argument("--teacher-backbone", help=f"timm name (default: from the file, else {PAPERS_BACKBONE})")
    teacher.add_argument("--teacher-weights", type=Path, help="local weights file of that backbone")
    teacher.add_argument(
        "--teacher-pretrained", action="store_true", default=None, help="download them from timm's hub"
    )
    teacher.add_argument("--teacher-text-encoder", help=f"default {PAPERS_TEXT_ENCODER}")
    teacher.add_argument(
        "--teacher-input-size", type=int, help="side of its square input, pixels (default: the method's)"
    )
    teacher.add_argument(
        "--restore-norm", action="store_true", default=None, help="also load VisualAD's trained final norm"
    )
    teacher.add_argument(
        "--teacher-cache",
        type=Path,
        help="folder that keeps its answers, float16, with --pool; runs can share it. The log shows its size at the "
        "start (default: no cache)",
    )
    pictures = result.add_argument_group("pictures")
    pictures.add_argument(
        "--pool",
        type=int,
        help="number of distinct training images, which repeat in each pass (default: no image repeats)",
    )
    pictures.add_argument(
        "--unlabelled",
        type=lambda text: {"path": text},
        nargs="+",
        metavar="FOLDER",
        help="folders of unlabelled images, with their subfolders",
    )
    pictures.add_argument("--unlabelled-fraction", type=float, help="share of unlabelled images (default 0)")
    add_setting_flags(result, presets(distil=True))
    return result


def read_distil_config(args: argparse.Namespace) -> "DistilConfig":
    """The settings of --config or --preset; flags override them.

    Raises:
        ConfigError: naming every fault.
    """
    from zsad_training.distil.config import DistilConfig, check_distillation

    file = preset_file(args.preset, distil=True) if args.preset else args.config
    config = read_settings(args, DistilConfig, file, _FLAG_KEYS)
    check_distillation(config)
    if (config.distillation.teacher is None) == (args.published is None):
        raise ConfigError("name one teacher: --teacher CHECKPOINT or distillation.teacher, or --published METHOD FILE")
    if args.published is None and (given := [flag for flag in _OF_PUBLISHED if getattr(args, flag) is not None]):
        flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in given)
        raise ConfigError(f"{flags}: only for --published files. {config.distillation.teacher} needs none of them")
    if args.published is not None and args.published[0] not in METHODS:
        raise ConfigError(f"--published {args.published[0]}: no such method. Known: {', '.join(METHODS)}")
    return config


def load_teacher(args: argparse.Namespace, config: "DistilConfig") -> "tuple[Checkpoint, Path]":
    """The teacher of flags and settings, and its file.

    Raises:
        ConfigError: the published file's backbone is unknown.
        WeightsError: a file is missing or does not fit.
    """
    from zsad_core.model import load_checkpoint, published_checkpoint

    if config.distillation.teacher is not None:
        return load_checkpoint(config.distillation.teacher), config.distillation.teacher
    method, file = args.published
    given = {name: getattr(args, flag) for flag, name in _OF_PUBLISHED.items() if getattr(args, flag) is not None}
    if "input_hw" in given:
        given["input_hw"] = (given["input_hw"], given["input_hw"])
    if not {"weights", "pretrained"} & given.keys():
        logger.warning(
            "%s: the teacher's backbone has RANDOM weights, so its answers are of no use: name its weights file "
            "with --teacher-weights, or download it with --teacher-pretrained.",
            file,
        )
    return published_checkpoint(method, Path(file), **given), Path(file)
