"""The flags of distillation, and the settings and the teacher that they, a file or a preset make."""

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
        description="Trains a student to see, map and score pictures as a teacher does, on labelled, synthetic and "
        "unlabelled pictures. Settings are those of zsad-train, which are the student's, and a section `distillation`. "
        "A killed run goes on where it stopped when it is started again with the same settings. At its end the table "
        "of teacher and student on the validation part is printed, and the checkpoint's path.",
    )
    teacher = result.add_argument_group("the teacher: a checkpoint, or the authors' published file")
    teacher.add_argument("--teacher", type=Path, help="checkpoint made by training")
    teacher.add_argument(
        "--published", nargs=2, metavar=("METHOD", "FILE"), help=f"the authors' file; METHOD is {', '.join(METHODS)}"
    )
    teacher.add_argument("--teacher-backbone", help=f"timm name (default: as the file says, else {PAPERS_BACKBONE})")
    teacher.add_argument("--teacher-weights", type=Path, help="local weights file of that backbone")
    teacher.add_argument("--teacher-pretrained", action="store_true", default=None, help="fetch them from timm's hub")
    teacher.add_argument("--teacher-text-encoder", help=f"default {PAPERS_TEXT_ENCODER}")
    teacher.add_argument(
        "--teacher-input-size", type=int, help="side of its square input, pixels (default: the method's)"
    )
    teacher.add_argument(
        "--restore-norm", action="store_true", default=None, help="load VisualAD's trained final norm too"
    )
    teacher.add_argument(
        "--teacher-cache",
        type=Path,
        help="folder for its answers, float16, with --pool; runs can share it. Its size is said at the start "
        "(default: none, the teacher is asked for every picture)",
    )
    pictures = result.add_argument_group("pictures")
    pictures.add_argument(
        "--pool", type=int, help="distinct training pictures, which come again in each pass (default: none comes twice)"
    )
    pictures.add_argument(
        "--unlabelled",
        type=lambda text: {"path": text},
        nargs="+",
        metavar="FOLDER",
        help="folders of pictures, with all below them, of which only the teacher says something",
    )
    pictures.add_argument("--unlabelled-fraction", type=float, help="share of such pictures (default 0)")
    add_setting_flags(result, presets(distil=True))
    return result


def read_distil_config(args: argparse.Namespace) -> "DistilConfig":
    """The settings of --config or --preset, with the flags over them.

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
        raise ConfigError(f"{flags}: of --published files. {config.distillation.teacher} holds all that it needs")
    if args.published is not None and args.published[0] not in METHODS:
        raise ConfigError(f"--published {args.published[0]}: no such method. Known: {', '.join(METHODS)}")
    return config


def load_teacher(args: argparse.Namespace, config: "DistilConfig") -> "tuple[Checkpoint, Path]":
    """The teacher that flags and settings name, and its file.

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
            "%s: the teacher's backbone has RANDOM weights, so that it knows next to nothing: name its weights file "
            "with --teacher-weights, or fetch one with --teacher-pretrained.",
            file,
        )
    return published_checkpoint(method, Path(file), **given), Path(file)
