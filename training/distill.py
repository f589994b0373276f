"""The command line of `zsad-distill`."""

import hashlib
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_core.command import guarded
from zsad_training.distil import load_teacher, parser, read_distil_config
from zsad_training.train import embed, log_to_stderr, make_record, read_parts, start, warn_of_known_validation

if TYPE_CHECKING:
    from argparse import Namespace

    from zsad_core.model import Checkpoint, DetectorConfig
    from zsad_training.distil import DistilConfig, KeptAnswers, Teacher
    from zsad_training.measure import ValidationPictures
    from zsad_training.run import Processes
    from zsad_training.train import Parts

logger = logging.getLogger("zsad_training")

TEACHERS_ROWS, TABLE = "teacher.json", "teacher-student.md"


def distil(
    config: "DistilConfig",
    checkpoint: "Checkpoint",
    file: Path,
    command: str,
    processes: "Processes",
    *,
    check_data: bool = True,
) -> tuple[Path, str]:
    """Runs `config` together with the other processes.

    Args:
        config: of the run.
        checkpoint: the teacher.
        file: the teacher's file.
        command: for the record.
        processes: all processes of the run.
        check_data: decode every file first.

    Returns:
        The path of the student's best checkpoint, and the table (empty except in the first process).
    """
    from zsad_training.distil import DistilObjective, DistilPictures, check_score_rules, collate_distil, read_unlabelled
    from zsad_training.measure import ValidationPictures
    from zsad_training.run import Trainer

    check_score_rules(config, checkpoint.detector.config)
    device, spec = processes.device, config.distillation
    checks = check_data and processes.is_first
    parts = read_parts(config, check_data=checks)
    unlabelled = read_unlabelled(spec.unlabelled, check=checks)
    if processes.is_first:
        warn_of_known_validation(file, checkpoint.record, config)
    teacher = _teacher(config, checkpoint, parts, processes)
    text, detector, earlier = start(config, parts, processes)
    asked = _with_cache(teacher, config, processes) if spec.cache else teacher
    objective = DistilObjective(detector, text, asked, config, device=device)
    validation = ValidationPictures(
        parts.held_out, parts.held_textures, config.validation, input_hw=config.model.input_hw, seed=config.seed
    )
    pictures = spec.pool or len(parts.fit)
    trainer = Trainer(
        config,
        detector,
        DistilPictures(parts.fit, parts.fit_textures, unlabelled, config, teachers_hw=teacher.image_hw),
        validation,
        text,
        steps_per_epoch=config.optimisation.steps_per_epoch or max(1, pictures // config.optimisation.batch_size),
        processes=processes,
        record=with_teacher(make_record(config, command, parts.trained_on, earlier), config, checkpoint, file),
        materials=parts.materials,
        objective=objective,
        collate=collate_distil,
    )
    best = trainer.run()
    table = ""
    if processes.is_first:
        table = _compare(best, teacher, validation, config.identity() + objective.identity)
    processes.wait()  # torchrun may end the others when one ends, so all wait for the table
    return best, table


def _teacher(config: "DistilConfig", checkpoint: "Checkpoint", parts: "Parts", processes: "Processes") -> "Teacher":
    from zsad_core.bundle import GENERIC_PRODUCT
    from zsad_training.distil import Teacher

    model, features = checkpoint.detector.config, config.distillation.features
    text = checkpoint.text_embeddings
    if missing := {*parts.products, GENERIC_PRODUCT} - text.keys():
        text = embed(model.method, model.text_encoder, missing, processes) | text
    grid_hw = features.grid_hw if features.weight else None
    tiles = config.distillation.tiles
    return Teacher(checkpoint.detector, text, grid_hw=grid_hw, device=processes.device, tiles=tiles)


def _with_cache(teacher: "Teacher", config: "DistilConfig", processes: "Processes") -> "KeptAnswers":
    from zsad_training.distil import KeptAnswers

    spec = config.distillation
    assert spec.cache is not None
    assert spec.pool is not None
    kept = KeptAnswers(teacher, spec.cache)
    if processes.is_first:
        kept.announce(spec.pool)
    return kept


def with_teacher(record: dict[str, Any], config: "DistilConfig", teacher: "Checkpoint", file: Path) -> dict[str, Any]:
    """The student's record with the teacher and its training data, which the student also learnt from."""
    theirs, unlabelled = teacher.record, {spec.path.name for spec in config.distillation.unlabelled}
    licences = [
        *record["licences"],
        *(
            {"what": f"unlabelled pictures {spec.path.name}", "licence": spec.licence, "source": spec.source}
            for spec in config.distillation.unlabelled
        ),
        *theirs["licences"],
        *_weights_licences(teacher.detector.config),
    ]
    with file.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if not theirs["trained_on"]:
        logger.warning("%s does not name its training data: any data set may be known to its student", file)
    model = teacher.detector.config
    return record | {
        "trained_on": sorted({*record["trained_on"], *theirs["trained_on"], *unlabelled}),
        "licences": [one for index, one in enumerate(licences) if one not in licences[:index]],
        "teacher": {
            "file": file.name,
            "sha256": sha256,
            "backbone": model.backbone_names,
            "record": theirs,
        },
    }


def _weights_licences(model: "DetectorConfig") -> list[dict[str, Any]]:
    from zsad_core.methods import METHODS_WITH_TEXT
    from zsad_core.weights import weights_licences

    text_encoder = model.text_encoder if model.method in METHODS_WITH_TEXT else None
    found = weights_licences(model.backbone.name, model.backbone_weights, text_encoder)
    return [one.model_dump() | {"what": f"teacher's {one.what}"} for one in found]


def _compare(best: Path, teacher: "Teacher", validation: "ValidationPictures", identity: str) -> str:
    """Makes the table and writes it next to the checkpoint. The teacher is evaluated once; its rows are kept."""
    from zsad_core.facts import EvaluationRow
    from zsad_core.model import load_checkpoint
    from zsad_training.distil import comparison, kept_rows
    from zsad_training.run import Processes

    student = [EvaluationRow.model_validate(row) for row in load_checkpoint(best).record["validation"]]
    theirs = kept_rows(
        best.with_name(TEACHERS_ROWS),
        identity,
        lambda: validation.run(teacher.detector, teacher.text, processes=Processes(device=teacher.device)).rows,
    )
    table = comparison(theirs, student)
    if teacher.image_hw != teacher.detector.config.backbone.input_hw:
        table += "\nThe teacher's figures are those of whole images, without the details of tiles.\n"
    best.with_name(TABLE).write_text(table)
    return table


def _run(args: "Namespace", command: str) -> None:
    from zsad_training.run import join_processes

    config = read_distil_config(args)
    with join_processes(config.device) as processes:
        if not processes.is_first:
            logger.setLevel(logging.WARNING)
        checkpoint, file = load_teacher(args, config)
        best, table = distil(config, checkpoint, file, command, processes, check_data=not args.skip_data_check)
        if processes.is_first:
            print(f"{table}\n{best}")


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage or config."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    log_to_stderr()
    return guarded("zsad-distill", lambda: _run(args, " ".join(["python training/distill.py", *arguments])))


if __name__ == "__main__":
    sys.exit(main())
