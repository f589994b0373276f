"""The command line of `zsad-join`: one detector of two trained ones, whose map is the mean of both maps' logits."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad_core.command import guarded
from zsad_core.errors import ConfigError
from zsad_training.train import held_out, log_to_stderr, read_parts

if TYPE_CHECKING:
    from zsad_core.model import Checkpoint
    from zsad_training.config import TrainConfig


def join(first: Path, second: Path, out: Path, command: str, *, data_root: Path | None, device: str = "auto") -> None:
    """Writes the joined checkpoint, with the threshold that the first detector's validation part gives it.

    Args:
        first: checkpoint that sets input, size of the map, text and score; it holds its settings of training.
        second: checkpoint of another detector, trained without the same validation part.
        out: file to write.
        command: for the record.
        data_root: folder with the first's data sets; None: where they were in training.
        device: where validation runs.

    Raises:
        ConfigError: the second was trained on images that the threshold needs, or the two cannot be joined.
        DatasetError: a data set cannot be read.
        WeightsError: a checkpoint cannot be read or written.
    """
    import torch

    from zsad_core.bundle import GENERIC_PRODUCT
    from zsad_core.model import joined, load_checkpoint, save_checkpoint
    from zsad_training.measure import ValidationPictures
    from zsad_training.run import Processes, pick_device

    one, other = load_checkpoint(first), load_checkpoint(second)
    for path, checkpoint in ((first, one), (second, other)):
        if "settings" not in checkpoint.record or not checkpoint.detector.needs_text:
            raise ConfigError(
                f"{path}: is no checkpoint of this trainer with a method with text, so it cannot be joined"
            )
    config = _settings(one, first, data_root)
    if (ours := held_out(one.record["settings"])) != (theirs := held_out(other.record["settings"])):
        raise ConfigError(f"{second}: its validation part is {theirs}, that of {first} {ours}: train both alike")
    parts = read_parts(config, check_data=False)
    prompts = other.detector.head.prompt_vectors(torch.from_numpy(other.text_embeddings[GENERIC_PRODUCT])[None])
    try:
        detector = joined(one.detector, other.detector, prompts.detach())
    except ValueError as error:
        raise ConfigError(f"{first} and {second}: {error}") from error
    processes = Processes(device=pick_device(device))
    validation = ValidationPictures(
        parts.held_out, parts.held_textures, config.validation, input_hw=config.model.input_hw, seed=config.seed
    ).run(detector.to(processes.device), one.text_embeddings, processes=processes)
    record = _record(one, other, command) | validation.record()
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, detector.cpu(), one.text_embeddings, record)


def _settings(checkpoint: "Checkpoint", path: Path, data_root: Path | None) -> "TrainConfig":
    from zsad_core.config import validate
    from zsad_training.config import TrainConfig

    known = {key: value for key, value in checkpoint.record["settings"].items() if key in TrainConfig.model_fields}
    config = validate(TrainConfig, {**known, "out": path.parent}, f"{path}: settings")
    if data_root is None:
        return config
    datasets = tuple(spec.model_copy(update={"path": data_root / spec.path.name}) for spec in config.datasets)
    textures = config.textures and config.textures.model_copy(update={"path": data_root / config.textures.path.name})
    return config.model_copy(update={"datasets": datasets, "textures": textures})


def _record(one: "Checkpoint", other: "Checkpoint", command: str) -> dict[str, Any]:
    from zsad_core.weights import weights_licences

    config = other.detector.config
    weights = weights_licences(config.backbone.name, config.backbone_weights, config.text_encoder)
    licences = [*one.record["licences"], *other.record["licences"], *(licence.model_dump() for licence in weights)]
    commands = [f"{each.record['command']} (seed {each.record['seed']})" for each in (one, other)]
    return one.record | {
        "command": "; ".join([*commands, command]),
        "trained_on": sorted({*one.record["trained_on"], *other.record["trained_on"]}),
        "licences": [licence for index, licence in enumerate(licences) if licence not in licences[:index]],
        "second": other.record,
    }


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-join`."""
    result = argparse.ArgumentParser(
        prog="zsad-join",
        description="Makes one checkpoint of two: their maps' logits are averaged, and the score is that of this map. "
        "Input, text and score are those of FIRST; SECOND gets the prompt of the generic product for every product. "
        "The validation part of FIRST sets the threshold.",
    )
    result.add_argument("first", type=Path, metavar="FIRST", help="checkpoint of zsad-train or zsad-distill")
    result.add_argument("second", type=Path, metavar="SECOND", help="checkpoint of another run with the same data sets")
    result.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    result.add_argument("--data-root", type=Path, help="folder with FIRST's data sets (default: as in its training)")
    result.add_argument("--device", default="auto", help="auto, cpu, cuda … (default auto)")
    return result


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    log_to_stderr()
    command = " ".join(["python training/join.py", *arguments])
    return guarded(
        "zsad-join",
        lambda: join(args.first, args.second, args.out, command, data_root=args.data_root, device=args.device),
    )


if __name__ == "__main__":
    sys.exit(main())
