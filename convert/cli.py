"""Command line of conversion: `zsad-convert --help`."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from zsad_convert import prompt_bank, sign
from zsad_core.command import guarded
from zsad_core.errors import ConfigError, WeightsError
from zsad_core.published_detector import add_checkpoint_flags, add_published_flags, chosen_checkpoint

# Largest differences allowed between torch and IR, both computing in float32, over all pixels of all pictures. Measured
# on the ViT-Ti that ships: weights kept in fp32 move map and score by 2e-6; rounded to fp16 by 2e-3 and 1e-3.
VALIDATED = "high quantile of good validation pictures' scores, each training set weighing the same"
TOLERANCES = {"fp32": (1e-3, 1e-3), "fp16": (5e-3, 2e-3)}


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-convert`."""
    result = argparse.ArgumentParser(prog="zsad-convert", description="Makes and checks the bundles that devices run.")
    commands = result.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="checkpoint to bundle")
    add_checkpoint_flags(export)
    export.add_argument("--out", type=Path, required=True, help="bundle folder to write")
    export.add_argument("--name", required=True, help="name of the bundle")
    export.add_argument("--version", default="1.0.0", help="version of the bundle (default 1.0.0)")
    export.add_argument("--precision", choices=("fp32", "fp16"), default="fp16", help="of the weights (default fp16)")
    export.add_argument("--products", default="", help="comma-separated names to embed beside those trained on")
    export.add_argument("--threshold", type=_unit, help="0-1 (default: as validation set it)")
    export.add_argument("--evaluation", type=Path, nargs="*", default=[], help="JSON tables of zsad-evaluate to record")
    _parity_flags(export)
    verify = commands.add_parser("verify", help="compare a bundle with its checkpoint")
    verify.add_argument("bundle", type=Path, help="bundle folder or .zip")
    verify.add_argument("--checkpoint", type=Path, help="what the bundle was made from")
    add_published_flags(verify)
    verify.add_argument("--device", default="CPU", help="OpenVINO device (default CPU)")
    _parity_flags(verify)
    prompt_bank.add_command(commands)
    sign.add_commands(commands)
    return result


def _parity_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--images", type=Path, required=True, help="folder of real pictures to compare torch and IR on"
    )
    command.add_argument("--max-images", type=_count, default=64, help="evenly spaced over the folder (default 64)")
    told = ", ".join(f"{precision} {pair}" for precision, pair in TOLERANCES.items())
    command.add_argument(
        "--map-tolerance", type=_unit, help=f"largest difference of a map (default, with scores: {told})"
    )
    command.add_argument("--score-tolerance", type=_unit, help="largest difference of a score (default: see maps)")
    command.add_argument("--seed", type=int, default=0, help="nothing is random here; kept for scripts (default 0)")


def export(args: argparse.Namespace, command_line: str) -> None:
    """Checkpoint to bundle, through the parity gate."""
    from zsad_convert.bundle_writer import write_bundle
    from zsad_convert.export import prompt_arrays, serialise, to_openvino
    from zsad_core.bundle import Evaluation, Licence, ModelFacts, ScoreRule, Threshold
    from zsad_core.prompts import GENERIC_PRODUCT
    from zsad_core.text_encoder import embed_products, load_text_encoder
    from zsad_core.text_side import text_side_bytes

    checkpoint = chosen_checkpoint(args)
    record, detector, config = checkpoint.record, checkpoint.detector, checkpoint.detector.config
    text = dict(checkpoint.text_embeddings)
    wanted = [name.strip() for name in args.products.split(",") if name.strip()]
    if wanted and not detector.needs_text:
        raise ValueError(f"--products {args.products}: {config.method} inspects without text, leave them out")
    if detector.needs_text and (more := sorted({GENERIC_PRODUCT, *wanted} - text.keys())):
        text |= embed_products(load_text_encoder(config.text_encoder), more)
    tables = [_read_table(path) for path in args.evaluation]
    prompts = prompt_arrays(detector.head, text)
    ir = serialise(to_openvino(detector), args.precision)
    parity = _measure(args, detector, text, ir, prompts, args.precision)
    height, width = config.backbone.input_hw
    sha256 = write_bundle(
        args.out,
        name=args.name,
        version=args.version,
        facts=ModelFacts(
            method=config.method,
            backbone=f"{config.backbone.name} from {config.backbone_weights}",
            text_encoder=config.text_encoder if prompts else "none",
            input_hw=(height, width),
            taps=tuple(detector.backbone.taps),
            map_hw=(height // config.map_stride, width // config.map_stride),
            prompt_shape=next(iter(prompts.values())).shape if prompts else None,
            precision=args.precision,
            score=ScoreRule(top_fraction=config.score.top_fraction, pool=config.score.pool)
            if detector.head.score_from_map
            else None,
        ),
        ir=ir,
        prompts=prompts,
        threshold=_threshold(args, record, Threshold),
        region_level=record["region_level"],
        evaluation=Evaluation(
            protocol=" / ".join(dict.fromkeys(table.protocol for table in tables)),
            rows=tuple(row for table in tables for row in table.rows if row.dataset != "mean"),
        )
        if tables
        else None,
        parity=parity,
        made_by=f"{record['command']} (seed {record['seed']}, epoch {record['epoch']} by validation); {command_line}",
        licences=(
            *(Licence.model_validate(licence) for licence in record["licences"]),
            *_weights_licences(config, detector.needs_text),
        ),
        text_side=text_side_bytes(detector.head) if detector.needs_text else None,
    )
    print(f"{args.out}: sha256 {sha256}; map differs from torch by at most {parity.max_map_difference:.1e}, ", end="")
    print(f"score by {parity.max_score_difference:.1e}, over {parity.images} pictures")


def _unit(text: str) -> float:
    number = float(text)
    if not 0 <= number <= 1:  # true for NaN too
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 1")
    return number


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def _read_table(path: Path) -> Any:
    """The table that `zsad-evaluate --json` wrote.

    Raises:
        ConfigError: it is none.
    """
    from pydantic import ValidationError

    from zsad_core.bundle import Evaluation

    try:
        return Evaluation.model_validate_json(path.read_text())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{path}: no table of zsad-evaluate --json: {where} {fault['msg']}") from error


def _threshold(args: argparse.Namespace, record: dict[str, Any], threshold: Any) -> Any:
    if args.threshold is not None:
        return threshold(value=args.threshold, method="given at export")
    return threshold(
        value=record["threshold"]["value"],
        method=record["threshold"].get("method", VALIDATED),
        false_reject_rate=record["threshold"]["false_reject_rate"],
    )


def _weights_licences(config: Any, needs_text: bool) -> "list[Any]":
    from zsad_core.weights_licences import backbone_licence, text_licence

    backbone = backbone_licence(config.backbone.name, config.backbone_weights)
    text = text_licence(config.text_encoder) if needs_text else None
    return [licence for licence in (backbone, text) if licence is not None]


def verify(args: argparse.Namespace) -> None:
    """Compares a bundle with the checkpoint that it was made from."""
    from zsad_core.bundle import load_bundle
    from zsad_core.text_encoder import embed_products, load_text_encoder

    bundle = load_bundle(args.bundle)
    checkpoint = chosen_checkpoint(args)
    method, made_of = checkpoint.detector.config.method, bundle.manifest.model.method
    if method != made_of:
        raise WeightsError(f"{args.bundle}: of {made_of}, the checkpoint is of {method}: it was not made from it")
    text = dict(checkpoint.text_embeddings)
    prompts = bundle.prompt_bank.embeddings if bundle.prompt_bank else {}
    wordings = {name: added.wording for name, added in bundle.manifest.added_products.items()}
    if more := sorted((set(prompts) - set(text)) | set(wordings)):
        text |= embed_products(load_text_encoder(checkpoint.detector.config.text_encoder), more, wordings)
    ir, precision = (bundle.model_xml, bundle.model_bin), bundle.manifest.model.precision
    parity = _measure(args, checkpoint.detector, text, ir, prompts, precision)
    print(f"{args.bundle}: over {parity.images} pictures map within {parity.max_map_difference:.1e}, ", end="")
    print(f"score within {parity.max_score_difference:.1e} of torch")


def _measure(
    args: argparse.Namespace, detector: Any, text: Any, ir: tuple[bytes, bytes], prompts: Any, precision: str
) -> Any:
    from zsad_convert.parity import measure_parity
    from zsad_core.imaging import find_images

    found = find_images(args.images)
    step = max(1, len(found) // args.max_images)
    map_tolerance, score_tolerance = TOLERANCES[precision]
    return measure_parity(
        detector,
        text,
        ir,
        prompts,
        found[::step][: args.max_images],
        source=args.images.name,
        map_tolerance=map_tolerance if args.map_tolerance is None else args.map_tolerance,
        score_tolerance=score_tolerance if args.score_tolerance is None else args.score_tolerance,
        device=getattr(args, "device", "CPU"),
    )


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser().parse_args(arguments)
    command_line = " ".join(["zsad-convert", *arguments])
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if args.command == "export":
        return guarded("zsad-convert", lambda: export(args, command_line))
    if args.command == "prompts":
        return guarded("zsad-convert", lambda: prompt_bank.run(args, command_line))
    if args.command == "keygen":
        return guarded("zsad-convert", lambda: sign.keygen(args))
    if args.command == "sign":
        return guarded("zsad-convert", lambda: sign.sign(args))
    return guarded("zsad-convert", lambda: verify(args))


if __name__ == "__main__":
    sys.exit(main())
