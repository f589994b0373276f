"""The command line of `zsad-evaluate`."""

import argparse
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from zsad_core.command import guarded
from zsad_core.data import LayoutName, Sample
from zsad_core.errors import ConfigError
from zsad_core.methods import METHODS_WITH_TEXT
from zsad_core.model import add_checkpoint_flags, chosen_checkpoint

if TYPE_CHECKING:
    from zsad_core.bundle import Evaluation
    from zsad_core.model import Detector
    from zsad_training.measure import Group, Sheets, Tally


def parser() -> argparse.ArgumentParser:
    """The flags of `zsad-evaluate`."""
    result = argparse.ArgumentParser(
        prog="zsad-evaluate",
        description="Evaluates a checkpoint on the test split: image AUROC, AP, F1-max; pixel AUROC, AP, F1-max, AUPRO "
        "(to 30 % FPR); recall and false-reject rate at the checkpoint's threshold, for each product and their mean. "
        "Maps are compared with the masks at the size of the original images. Nothing is tuned here.",
    )
    add_checkpoint_flags(result)
    result.add_argument("--data", type=Path, nargs="+", required=True, help="folders of data sets")
    result.add_argument(
        "--layout",
        choices=get_args(LayoutName),
        default="auto",
        help="layout of every --data (default auto: detected from the content)",
    )
    result.add_argument("--mask-folder", help="folder of masks instead of the layout's own, e.g. ground_truth")
    result.add_argument("--skip-data-check", action="store_true", help="do not decode every file first")
    result.add_argument("--product", help="prompt for all images, e.g. object (default: the name of each category)")
    for name, what in (("distance", "distances between patches"), ("text", "text similarity")):
        result.add_argument(
            f"--{name}-weight", type=float, metavar="W",
            help=f"weight of the {what} in a decoder's map (default: the checkpoint's own)",
        )  # fmt: skip
    result.add_argument(
        "--smaller-size", type=int, nargs="*", metavar="PX",
        help="sides of further, smaller square inputs; without PX: none (default: the checkpoint's own)",
    )  # fmt: skip
    result.add_argument("--json", type=Path, help="file for the table as JSON")
    result.add_argument("--markdown", type=Path, help="file for the table as Markdown (default: standard output)")
    result.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="folder for metrics.json, metrics.md and, for each product, a sheet of images with true defects and "
        "heatmaps (<dataset>-<product>.jpg) and ROC and PR curves (<dataset>-<product>-curves.png)",
    )
    result.add_argument("--device", default="auto", help="auto, cpu, cuda … (default auto)")
    result.add_argument("--seed", type=int, default=0, help="has no effect: nothing here is random (default 0)")
    return result


def run(args: argparse.Namespace) -> None:
    """Evaluates, prints and writes the tables."""
    from zsad_core.bundle import Evaluation
    from zsad_core.text import embed_products, load_text_encoder
    from zsad_training.config import DatasetSpec
    from zsad_training.measure import Sheets, evaluate_groups, mean_row, score_pictures, tally_groups
    from zsad_training.pictures import read_datasets
    from zsad_training.run import pick_device

    if args.report:
        args.report.mkdir(parents=True, exist_ok=True)
    device = pick_device(args.device)
    checkpoint = chosen_checkpoint(args)
    weights = set_map_weights(checkpoint.detector, distance_weight=args.distance_weight, text_weight=args.text_weight)
    set_smaller_sizes(checkpoint.detector, args.smaller_size)
    specs = [DatasetSpec(path=root, layout=args.layout, mask_folder=args.mask_folder) for root in args.data]
    samples = read_datasets(specs, check=not args.skip_data_check, split="test")
    _check_names(samples, args.data)
    products = {args.product} if args.product else {sample.product for sample in samples}
    text = {name: checkpoint.text_embeddings[name] for name in products & checkpoint.text_embeddings.keys()}
    if checkpoint.detector.needs_text and (more := sorted(products - text.keys())):
        name = checkpoint.detector.config.text_encoder
        text |= embed_products(load_text_encoder(name, device=str(device)), more)
    pictures = [(sample, sample.load) for sample in samples]
    scored = score_pictures(
        checkpoint.detector.to(device), pictures, text, device=device, total=len(pictures), product=args.product
    )
    seen = set(checkpoint.record.get("trained_on", ()))
    threshold = checkpoint.record.get("threshold", {}).get("value")
    sheets = Sheets(samples if args.report else [], threshold=threshold)
    tallies = tally_groups(scored, sheets.update)
    rows = evaluate_groups(tallies, seen=lambda group: group[0] in seen, threshold=threshold)
    config = checkpoint.detector.config
    prompt = f"prompt {args.product or 'the category name'}" if text else "no prompt"
    evaluation = Evaluation(
        protocol=f"test split, {prompt}, backbone {config.backbone_names}, "
        f"text {config.text_encoder if text else 'none'}, input "
        f"{' and '.join(map(str, (config.backbone.input_hw, *config.smaller_hw)))}, "
        f"{weights}masks {args.mask_folder or 'as published'}, pixel metrics at picture size, recall and false-reject "
        "rate at validation's threshold",
        rows=tuple([*rows, mean_row(rows, "mean")] if len(rows) > 1 else rows),
    )
    json, table = evaluation.model_dump_json(indent=1) + "\n", markdown(evaluation)
    if args.json:
        args.json.write_text(json)
    if args.markdown:
        args.markdown.write_text(table)
    else:
        print(table, end="")
    if args.report:
        (args.report / "metrics.json").write_text(json)
        (args.report / "metrics.md").write_text(table)
        draw_report(args.report, tallies, sheets)


def _check_names(samples: Sequence[Sample], roots: Sequence[Path]) -> None:
    """Rows have names of folders, so two folders must not give rows of one name."""
    root_of: dict[tuple[str, str], Path | None] = {}
    for sample in samples:
        root = next((root for root in roots if sample.image.is_relative_to(root)), None)
        if root_of.setdefault((sample.dataset, sample.product), root) != root:
            name = f"{sample.dataset}/{sample.product}"
            raise ConfigError(f"--data: two folders give rows called {name}: evaluate them one by one")


def set_map_weights(detector: "Detector", **weights: float | None) -> str:
    """Replaces weights of a decoder's map, for ablations; gives the changes as text for the protocol.

    Raises:
        ValueError: there is no decoder.
        ConfigError: a weight is not valid.
    """
    from zsad_core.config import validate
    from zsad_core.heads import DecoderConfig

    given = {name: value for name, value in weights.items() if value is not None}
    if not given:
        return ""
    config = detector.config.decoder
    if config is None or detector.config.method not in METHODS_WITH_TEXT:
        raise ValueError(f"{', '.join(given)}: this checkpoint has no decoder with such weights")
    config = validate(DecoderConfig, config.model_dump() | given, "the decoder's weights")
    decoder = detector.head.decoder
    decoder.distance_weight, decoder.text_weight = config.distance_weight, config.text_weight
    return "".join(f"{name} {value:g}, " for name, value in given.items())


def set_smaller_sizes(detector: "Detector", sides: list[int] | None) -> None:
    """Replaces the smaller input sizes, for ablations; None keeps them.

    Raises:
        ConfigError: the detector cannot use a size.
    """
    from zsad_core.model import check_smaller

    if sides is None:
        return
    config = detector.config.model_copy(update={"smaller_hw": tuple((side, side) for side in sides)})
    try:
        check_smaller(config, detector.backbone)
    except ValueError as error:
        raise ConfigError(f"--smaller-size: {error}") from error
    detector.config = config


def draw_report(folder: Path, tallies: "Mapping[Group, Tally]", sheets: "Sheets") -> None:
    """A sheet of images and a plot of curves for each data set and product."""
    from zsad_training.measure import draw_curves, write_sheet

    for group, tally in tallies.items():
        stem = re.sub(r"[^\w.-]", "_", "-".join(group))
        write_sheet(folder / f"{stem}.jpg", sheets.sheet(group))
        curves = {"pictures": tally.image_curve(), "pixels": tally.pixels.curve()}
        draw_curves(folder / f"{stem}-curves.png", "/".join(group), curves)


def markdown(evaluation: "Evaluation") -> str:
    """The evaluation as a Markdown table, in percent."""
    from zsad_training.measure import METRICS

    lines = [
        evaluation.protocol,
        "",
        "| data set | seen | images | " + " | ".join(name.replace("_", " ") for name in METRICS) + " |",
        "|---|---|---|" + "---|" * len(METRICS),
    ]
    for row in evaluation.rows:
        values = [getattr(row, name) for name in METRICS]
        cells = ["-" if value is None else f"{100 * value:.1f}" for value in values]
        lines.append(
            f"| {row.dataset} | {'yes' if row.seen_in_training else 'no'} | {row.images} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 failed, 2 bad usage."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    return guarded("zsad-evaluate", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
