"""The flags of the export gate, and the result that it writes into the manifest."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zsad_core.bundle import Calibration, Gate, Parity, Precision, Variant
from zsad_core.errors import ConfigError, ParityError

# (map, score): the largest allowed differences between torch and IR, both in float32, over all pixels of all images.
# Measured on the shipped ViT-Ti: fp32 weights change map and score by 2e-6, fp16 weights by 8e-4 and 2e-4. int8 changes
# them by 0.11 and 0.05 when no metric gets worse, and by 0.30 and 0.11 when one does.
TOLERANCES: dict[Precision, tuple[float, float]] = {"fp32": (1e-3, 1e-3), "fp16": (5e-3, 2e-3), "int8": (0.2, 0.08)}
# The largest allowed difference of an image AUROC, and of a pixel AP relative to torch's.
AUROC_TOLERANCE, AP_TOLERANCE = 0.005, 0.05

GateOf = Gate | Literal["left out"] | None  # the type of `Variant.gate`


def unit(text: str) -> float:
    """Parses a number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:  # true for NaN too
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 1")
    return number


def count(text: str) -> int:
    """Parses a whole number from 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def add_image_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of `chosen_pictures`."""
    command.add_argument(
        "--images", type=Path, required=True, help="folder of real pictures to compare torch and IR on"
    )
    command.add_argument("--max-images", type=count, default=64, help="evenly spaced over the folder (default 64)")


def add_parity_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of `measure`."""
    add_image_flags(command)
    told = ", ".join(f"{precision} {pair}" for precision, pair in TOLERANCES.items())
    command.add_argument(
        "--map-tolerance",
        type=unit,
        help=f"largest allowed difference of a map (default for map and score: {told}); the manifest records "
        "a difference above the default as an accepted loss",
    )
    command.add_argument(
        "--score-tolerance", type=unit, help="largest allowed difference of a score (default: see maps)"
    )


def add_gate_flags(command: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the flags of the gate on labelled images, and of graphs that do not pass it."""
    which = command.add_mutually_exclusive_group(required=required)
    which.add_argument(
        "--gate-data",
        type=Path,
        nargs="+",
        default=[],
        metavar="DATASET",
        help="data sets in MVTec layout; image AUROC and pixel AP of the IR must agree with torch on each",
    )
    which.add_argument(
        "--no-gate", action="store_true", help="skip the gate on labelled images; the manifest records it"
    )
    command.add_argument(
        "--gate-images", type=count, default=200, help="images of each DATASET, half of them good (default 200)"
    )
    command.add_argument(
        "--auroc-tolerance",
        type=unit,
        default=AUROC_TOLERANCE,
        help=f"largest allowed difference of an image AUROC (default {AUROC_TOLERANCE}); see --map-tolerance",
    )
    command.add_argument(
        "--ap-tolerance",
        type=unit,
        default=AP_TOLERANCE,
        help=f"largest allowed relative difference of a pixel AP (default {AP_TOLERANCE}); see --map-tolerance",
    )
    command.add_argument(
        "--accept-loss",
        action="store_true",
        help="write the bundle even if differences are above their tolerances; the manifest lists them",
    )


def parity_pictures(args: argparse.Namespace) -> list[Path]:
    """The images of `--images`, without masks.

    Raises:
        ConfigError: there are no images.
    """
    from zsad_core.data import is_mask
    from zsad_core.picture import find_images

    found = [path for path in find_images(args.images) if not is_mask(path.relative_to(args.images))]
    if not found:
        raise ConfigError(f"--images {args.images}: no pictures in this folder or below it")
    return found


def chosen_pictures(args: argparse.Namespace) -> list[Path]:
    """At most `--max-images` images of `--images`, evenly spaced; errors as of `parity_pictures`."""
    from zsad_convert.gate.pictures import evenly_spaced

    return evenly_spaced(parity_pictures(args), args.max_images)


def check_pictures(args: argparse.Namespace) -> None:
    """Checks the folders of images, before the slow steps begin.

    Args:
        args: the flags of `add_parity_flags` and `add_gate_flags`.

    Raises:
        ConfigError: `--images` has no images.
        DatasetError: a data set of `--gate-data` cannot be read.
    """
    from zsad_convert.gate.pictures import labelled_pictures

    parity_pictures(args)
    for root in args.gate_data:
        labelled_pictures(root, args.gate_images)


def measure(
    args: argparse.Namespace,
    detector: Any,
    text: dict[str, np.ndarray],
    ir: tuple[bytes, bytes],
    prompts: dict[str, np.ndarray],
    precision: Precision,
) -> Parity:
    """Measures the differences between torch and IR on the images of `--images`, without judging them."""
    from zsad_convert.gate.parity import measure_parity

    map_tolerance, score_tolerance = TOLERANCES[precision]
    return measure_parity(
        detector,
        text,
        ir,
        prompts,
        chosen_pictures(args),
        source=args.images.name,
        map_tolerance=map_tolerance if args.map_tolerance is None else args.map_tolerance,
        score_tolerance=score_tolerance if args.score_tolerance is None else args.score_tolerance,
        device=getattr(args, "device", "CPU"),
    )


def refuse(faults: list[str]) -> None:
    """Raises an error if there are faults.

    Raises:
        ParityError: with one line for each fault.
    """
    if faults:
        raise ParityError("\n".join(faults) + "\nThe exported graph does not give the trained model's answers.")


def passed(
    args: argparse.Namespace,
    detector: Any,
    text: dict[str, np.ndarray],
    irs: Mapping[Precision, tuple[bytes, bytes]],
    prompts: dict[str, np.ndarray],
    *,
    threshold: float,
    calibration: Calibration | None = None,
) -> dict[Precision, Variant]:
    """Checks each graph and gives its record for the manifest.

    A flag may widen a tolerance. A difference above the default tolerance is then recorded as an accepted loss.

    Args:
        args: the flags of `add_parity_flags` and `add_gate_flags`.
        detector: the torch model as trained, in eval mode on the CPU.
        text: product -> [T, 2].
        irs: precision -> (model.xml, model.bin) as they will ship.
        prompts: product -> [K, 2, M] as they will ship; empty for a method without text.
        threshold: the bundle's.
        calibration: of the int8 graph.

    Raises:
        ParityError: a graph differs from torch by more than its tolerance, and `--accept-loss` was not given.
    """
    from zsad_convert.gate.gate import gate_faults, measure_gate
    from zsad_convert.gate.parity import parity_faults

    gates: dict[Precision, GateOf] = {precision: "left out" if args.no_gate else None for precision in irs}
    if args.gate_data:
        gates |= measure_gate(
            detector,
            text,
            irs,
            prompts,
            args.gate_data,
            max_images=args.gate_images,
            threshold=threshold,
            image_auroc_tolerance=args.auroc_tolerance,
            pixel_ap_tolerance=args.ap_tolerance,
        )
    records: dict[Precision, Variant] = {}
    for precision, ir in irs.items():
        parity, gate = measure(args, detector, text, ir, prompts, precision), gates[precision]
        if not args.accept_loss:
            faults = [*parity_faults(parity), *(gate_faults(gate) if isinstance(gate, Gate) else [])]
            refuse([f"{precision}: {fault}" for fault in faults])
        parity, gate = _at_usual_tolerances(parity, gate, precision)
        records[precision] = Variant(
            precision=precision,
            parity=parity,
            gate=gate,
            calibration=calibration if precision == "int8" else None,
            accepted_loss=(*parity_faults(parity), *(gate_faults(gate) if isinstance(gate, Gate) else ())),
        )
    return records


def _at_usual_tolerances(parity: Parity, gate: GateOf, precision: Precision) -> tuple[Parity, GateOf]:
    """Copies of both, with each tolerance at most its default."""
    maps, scores = TOLERANCES[precision]
    parity = parity.model_copy(
        update={
            "map_tolerance": min(parity.map_tolerance, maps),
            "score_tolerance": min(parity.score_tolerance, scores),
        }
    )
    if isinstance(gate, Gate):
        gate = gate.model_copy(
            update={
                "image_auroc_tolerance": min(gate.image_auroc_tolerance, AUROC_TOLERANCE),
                "pixel_ap_tolerance": min(gate.pixel_ap_tolerance, AP_TOLERANCE),
            }
        )
    return parity, gate
