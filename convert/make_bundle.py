"""`zsad-convert export` and `zsad-convert quantize`: make a bundle from a checkpoint and check it with the gate."""

import argparse
from pathlib import Path
from typing import Any

from zsad_convert.gate import add_gate_flags, add_parity_flags, check_pictures, count, passed, unit
from zsad_core.bundle import Calibration, Gate, Precision, SecondModel, Variant
from zsad_core.errors import ConfigError
from zsad_core.model import add_checkpoint_flags, chosen_checkpoint

VALIDATED = "high quantile of good validation pictures' scores, each product and the drawn pictures weighing the same"


def add_commands(commands: Any) -> None:
    """Adds `export` and `quantize` to the subcommands."""
    export = commands.add_parser("export", help="make a bundle from a checkpoint")
    _bundle_flags(export)
    export.add_argument(
        "--precision", choices=("fp32", "fp16"), default="fp16", help="precision of the weights (default fp16)"
    )
    add_gate_flags(export, required=False)
    quantize = commands.add_parser(
        "quantize",
        help="make an int8 bundle from a checkpoint",
        description="Like export, but most of the graph computes in 8 bits. It depends on the CPU whether that is "
        "faster. With --beside the bundle holds both models, and zsad-agent bench chooses the faster one.",
    )
    _bundle_flags(quantize)
    quantize.add_argument(
        "--calibration",
        type=Path,
        nargs="+",
        required=True,
        metavar="FOLDER",
        help="real images, whose activations set the ranges; masks below ground_truth are left out",
    )
    quantize.add_argument(
        "--calibration-images",
        type=count,
        default=300,
        help="number of calibration images, evenly spaced (default 300)",
    )
    quantize.add_argument(
        "--beside",
        choices=("fp32", "fp16"),
        help="also include the float model, as the main one, with weights of this precision (default: int8 only)",
    )
    quantize.add_argument(
        "--ignored",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="regular expressions of names in the graph that stay in float",
    )
    quantize.add_argument(
        "--accuracy-aware",
        action="store_true",
        help="return layers to float, one by one, until the accuracy on --gate-data is good enough; takes hours",
    )
    quantize.add_argument(
        "--max-drop",
        type=unit,
        default=0.005,
        help="with --accuracy-aware: largest allowed drop of the mean of image AUROC and pixel AP (default 0.005)",
    )
    add_gate_flags(quantize, required=True)


def _bundle_flags(command: argparse.ArgumentParser) -> None:
    add_checkpoint_flags(command)
    command.add_argument("--out", type=Path, required=True, help="bundle folder to write")
    command.add_argument("--name", required=True, help="name of the bundle")
    command.add_argument("--version", default="1.0.0", help="version of the bundle (default 1.0.0)")
    command.add_argument("--products", default="", help="comma-separated names of products to add to those trained on")
    command.add_argument("--threshold", type=unit, help="threshold from 0 to 1 (default: the one that validation set)")
    command.add_argument("--evaluation", type=Path, nargs="*", default=[], help="JSON tables of zsad-evaluate to add")
    add_parity_flags(command)
    command.add_argument(
        "--seed", type=int, default=0, help="selects the calibration images; nothing else is random (default 0)"
    )


def run(args: argparse.Namespace, command_line: str) -> None:
    """Runs `export` or `quantize`.

    Raises:
        ZsadError: a flag, a file or the weights are wrong, or a graph gives other results than torch.
    """
    from zsad_convert.bundle import check_out, serialise, write_bundle
    from zsad_convert.export import prompt_arrays, to_openvino
    from zsad_core.bundle import ModelFacts, Threshold
    from zsad_core.facts import ScoreRule
    from zsad_core.text import text_side_bytes

    check_out(args.out)
    check_pictures(args)
    if args.command == "quantize":
        _check_calibration(args)
    checkpoint = chosen_checkpoint(args)
    record, detector, config = checkpoint.record, checkpoint.detector, checkpoint.detector.config
    text = _embeddings(args, checkpoint)
    threshold = _threshold(args, record, Threshold)
    prompts = prompt_arrays(detector.head, text)
    graph = to_openvino(detector)
    irs: dict[Precision, tuple[bytes, bytes]] = {}
    calibration: Calibration | None = None
    if float_precision := args.precision if args.command == "export" else args.beside:
        irs[float_precision] = serialise(graph, float_precision)
    if args.command == "quantize":
        quantised, calibration = _quantised(args, graph, detector, prompts)
        irs["int8"] = serialise(quantised, "fp16")
    records = passed(args, detector, text, irs, prompts, threshold=threshold.value, calibration=calibration)
    main, *variants = irs
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
            precision=main,
            score=ScoreRule(top_fraction=config.score.top_fraction, pool=config.score.pool, power=config.score.power)
            if detector.head.score_from_map
            else None,
            second=_second(detector.second),
        ),
        ir=irs[main],
        prompts=prompts,
        threshold=threshold,
        region_level=record["region_level"],
        evaluation=_evaluation(args),
        proof=records[main],
        made_by=f"{record['command']} (seed {record['seed']}, epoch {record['epoch']} by validation); {command_line}",
        licences=_licences(record, config, detector.needs_text),
        text_side=text_side_bytes(detector.head) if detector.needs_text else None,
        variant=(records["int8"], irs["int8"]) if variants else None,
    )
    print(f"{args.out}: sha256 {sha256}")
    for one in records.values():
        _tell(one)


def _check_calibration(args: argparse.Namespace) -> None:
    from zsad_convert.quantise import calibration_pictures

    if args.accuracy_aware and not args.gate_data:
        raise ConfigError("--accuracy-aware measures on labelled images: name a data set with --gate-data")
    calibration_pictures(args.calibration)


def _quantised(args: argparse.Namespace, graph: Any, detector: Any, prompts: Any) -> tuple[Any, Calibration]:
    """(int8 graph, record of its calibration)."""
    from zsad_convert.gate import labelled_pictures
    from zsad_convert.quantise import AccuracyControl, calibration_set, quantise
    from zsad_core.backbones import Backbone

    calibration = calibration_set(args.calibration, args.calibration_images, prompts, args.seed)
    accuracy = None
    if args.accuracy_aware:
        pictures = [one for root in args.gate_data for one in labelled_pictures(root, args.gate_images)]
        accuracy = AccuracyControl(pictures=pictures, max_drop=args.max_drop)
    quantised = quantise(
        graph,
        calibration,
        prompts,
        transformer=isinstance(detector.backbone, Backbone),
        ignored=args.ignored,
        accuracy=accuracy,
    )
    return quantised, calibration.record


def _tell(one: Variant) -> None:
    parity = one.parity
    print(
        f"{one.precision}: map differs from torch by at most {parity.max_map_difference:.1e}, "
        f"score by {parity.max_score_difference:.1e}, over {parity.images} pictures"
    )
    for row in one.gate.rows if isinstance(one.gate, Gate) else ():
        images = f"image AUROC {row.image_auroc_ir:.4f} (in torch {row.image_auroc_torch:.4f})"
        pixels = "" if row.pixel_ap_ir is None else f", pixel AP {row.pixel_ap_ir:.4f} ({row.pixel_ap_torch:.4f})"
        verdicts = f"{row.changed_verdicts} of {row.images} verdicts change"
        print(f"{one.precision}: {row.dataset}: {images}{pixels}; {verdicts}")
    for loss in one.accepted_loss:
        print(f"{one.precision}: accepted: {loss}")


def _embeddings(args: argparse.Namespace, checkpoint: Any) -> dict[str, Any]:
    """Product -> [T, 2]: the products trained on, the generic one and what `--products` adds."""
    from zsad_core.bundle import GENERIC_PRODUCT
    from zsad_core.text import embed_products, load_text_encoder

    detector = checkpoint.detector
    text = dict(checkpoint.text_embeddings)
    wanted = [name.strip() for name in args.products.split(",") if name.strip()]
    if wanted and not detector.needs_text:
        raise ValueError(f"--products {args.products}: {detector.config.method} uses no text, so leave the flag out")
    if detector.needs_text and (more := sorted({GENERIC_PRODUCT, *wanted} - text.keys())):
        text |= embed_products(load_text_encoder(detector.config.text_encoder), more)
    return text


def _second(detector: Any) -> SecondModel | None:
    if detector is None:
        return None
    config = detector.config
    backbone = f"{config.backbone.name} from {config.backbone_weights}"
    return SecondModel(backbone=backbone, input_hw=config.backbone.input_hw, taps=tuple(detector.backbone.taps))


def _licences(record: dict[str, Any], config: Any, needs_text: bool) -> "tuple[Any, ...]":
    from zsad_core.facts import Licence
    from zsad_core.weights import weights_licences

    of_data = [Licence.model_validate(licence) for licence in record["licences"]]
    text_encoder = config.text_encoder if needs_text else None
    of_weights = weights_licences(config.backbone.name, config.backbone_weights, text_encoder)
    return (*of_data, *(licence for licence in of_weights if licence not in of_data))


def _evaluation(args: argparse.Namespace) -> Any:
    from zsad_core.bundle import Evaluation

    tables = [_read_table(path) for path in args.evaluation]
    if not tables:
        return None
    rows = [row for table in tables for row in table.rows if row.dataset != "mean"]
    if args.threshold is not None:  # the tables have validation's
        rows = [row.model_copy(update={"recall": None, "false_reject_rate": None}) for row in rows]
    return Evaluation(protocol=" / ".join(dict.fromkeys(table.protocol for table in tables)), rows=tuple(rows))


def _read_table(path: Path) -> Any:
    """The table that `zsad-evaluate --json` wrote.

    Raises:
        ConfigError: the file is not such a table.
    """
    from pydantic import ValidationError

    from zsad_core.bundle import Evaluation

    try:
        return Evaluation.model_validate_json(path.read_text())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ConfigError(f"{path}: not a table of zsad-evaluate --json: {where} {fault['msg']}") from error


def _threshold(args: argparse.Namespace, record: dict[str, Any], threshold: Any) -> Any:
    if args.threshold is not None:
        return threshold(value=args.threshold, method="given at export")
    return threshold(
        value=record["threshold"]["value"],
        method=record["threshold"].get("method", VALIDATED),
        false_reject_rate=record["threshold"]["false_reject_rate"],
    )
