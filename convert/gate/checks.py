"""What a graph must pass before it ships: the flags, and the verdict that goes into the manifest."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zsad_core.bundle import Calibration, Gate, Parity, Precision, Variant
from zsad_core.errors import ConfigError, ParityError

# Largest differences allowed between torch and IR, both computing in float32, over all pixels of all pictures. Measured
# on the ViT-Ti that ships: weights kept in fp32 move map and score by 2e-6; rounded to fp16 by 2e-3 and 1e-3; int8
# moves them by 0.11 and 0.05 where it costs no metric, by 0.30 and 0.11 where it does.
TOLERANCES: dict[Precision, tuple[float, float]] = {"fp32": (1e-3, 1e-3), "fp16": (5e-3, 2e-3), "int8": (0.2, 0.08)}
# Largest differences allowed of an image AUROC, and of a pixel AP as a share of torch's.
AUROC_TOLERANCE, AP_TOLERANCE = 0.005, 0.05

GateOf = Gate | Literal["left out"] | None  # as `Variant.gate`


def unit(text: str) -> float:
    """A flag's number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:  # true for NaN too
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to 1")
    return number


def count(text: str) -> int:
    """A flag's whole number from 1."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1")
    return int(text)


def add_parity_flags(command: argparse.ArgumentParser) -> None:
    """Those of `measure`."""
    command.add_argument(
        "--images", type=Path, required=True, help="folder of real pictures to compare torch and IR on"
    )
    command.add_argument("--max-images", type=count, default=64, help="evenly spaced over the folder (default 64)")
    told = ", ".join(f"{precision} {pair}" for precision, pair in TOLERANCES.items())
    command.add_argument(
        "--map-tolerance",
        type=unit,
        help=f"largest difference of a map that is let through (default, with scores: {told}); a manifest records "
        "what is above the default as an accepted loss",
    )
    command.add_argument("--score-tolerance", type=unit, help="largest difference of a score (default: see maps)")


def add_gate_flags(command: argparse.ArgumentParser, *, required: bool) -> None:
    """Those of the gate of labelled pictures, and of what happens to a graph that does not pass."""
    which = command.add_mutually_exclusive_group(required=required)
    which.add_argument(
        "--gate-data",
        type=Path,
        nargs="+",
        default=[],
        metavar="DATASET",
        help="data sets in MVTec layout; on each, image AUROC and pixel AP of the IR must be those of torch",
    )
    which.add_argument("--no-gate", action="store_true", help="without labelled pictures; the manifest says so")
    command.add_argument(
        "--gate-images", type=count, default=200, help="of each DATASET, half of them good (default 200)"
    )
    command.add_argument(
        "--auroc-tolerance",
        type=unit,
        default=AUROC_TOLERANCE,
        help=f"largest difference of an image AUROC (default {AUROC_TOLERANCE}); see --map-tolerance",
    )
    command.add_argument(
        "--ap-tolerance",
        type=unit,
        default=AP_TOLERANCE,
        help=f"of a pixel AP, as a share of torch's (default {AP_TOLERANCE}); see --map-tolerance",
    )
    command.add_argument(
        "--accept-loss",
        action="store_true",
        help="write the bundle even if differences are above their tolerances; the manifest says which",
    )


def parity_pictures(args: argparse.Namespace) -> list[Path]:
    """The pictures of `--images`, masks left out.

    Raises:
        ConfigError: there are none.
    """
    from zsad_convert.gate.pictures import is_mask
    from zsad_core.picture import find_images

    found = [path for path in find_images(args.images) if not is_mask(path.relative_to(args.images))]
    if not found:
        raise ConfigError(f"--images {args.images}: no pictures in this folder or below it")
    return found


def check_pictures(args: argparse.Namespace) -> None:
    """Refuses, before anything takes minutes, folders of pictures that could not be used.

    Args:
        args: with the flags of `add_parity_flags` and `add_gate_flags`.

    Raises:
        ConfigError: `--images` has no pictures.
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
    """The differences between torch and IR on the pictures of `--images`; judges nothing."""
    from zsad_convert.gate.parity import measure_parity
    from zsad_convert.gate.pictures import evenly_spaced

    map_tolerance, score_tolerance = TOLERANCES[precision]
    return measure_parity(
        detector,
        text,
        ir,
        prompts,
        evenly_spaced(parity_pictures(args), args.max_images),
        source=args.images.name,
        map_tolerance=map_tolerance if args.map_tolerance is None else args.map_tolerance,
        score_tolerance=score_tolerance if args.score_tolerance is None else args.score_tolerance,
        device=getattr(args, "device", "CPU"),
    )


def refuse(faults: list[str]) -> None:
    """Nothing, without faults.

    Raises:
        ParityError: a line for each.
    """
    if faults:
        raise ParityError("\n".join(faults) + "\nThe graph is not what was trained.")


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
    """The record of each graph, which may ship.

    A flag may widen a tolerance. What is above the usual one is then recorded as an accepted loss.

    Args:
        args: with the flags of `add_parity_flags` and `add_gate_flags`.
        detector: the torch model as trained, in eval mode on the CPU.
        text: product -> [T, 2].
        irs: precision -> (model.xml, model.bin) as they will ship.
        prompts: product -> [K, 2, M] as they will ship; empty for a method without text.
        threshold: the bundle's.
        calibration: of the graph in int8.

    Raises:
        ParityError: one differs from torch by more than is allowed, and `--accept-loss` was not given.
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
    """Both with each tolerance that is above the usual one brought back to it."""
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
