"""Chooses the float or the int8 model of a bundle: the one that `zsad-agent bench` measured as faster here.

Int8 is faster on one CPU and slower on another, so `bench` measures it and stores the choice in the cache folder.
Without a choice the bundle's main model runs; its answers are the same within the manifest's tolerances.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from zsad_agent.config import InferenceConfig
from zsad_agent.system import write_whole
from zsad_core.bundle import Arithmetic, Bundle, Sha256
from zsad_core.config import StrictModel
from zsad_core.errors import BundleError
from zsad_core.openvino_offline import openvino_core

logger = logging.getLogger(__name__)

FASTER = 0.95  # int8 is chosen below this share of float's time; within the noise the exact model is better
MAX_KEPT = 32  # choices; the oldest are dropped
_FILE = "model-choice.json"
_MAX_BYTES = 65_536


class Kept(StrictModel):
    """The choice for one bundle on one machine."""

    bundle: Sha256
    device: str  # the config's device, and the CPU's name
    model: Arithmetic
    median_ms: dict[Arithmetic, float]


class Choices(StrictModel):
    kept: tuple[Kept, ...] = ()  # the newest last


def choose_model(bundle: Bundle, config: InferenceConfig) -> Arithmetic:
    """The model to run. Logs which and why.

    Raises:
        BundleError: the config names a model that the bundle does not have.
    """
    model: Arithmetic
    if config.model != "auto":
        model, why = config.model, f"inference.model is {config.model}"
    elif len(bundle.arithmetics) == 1:
        model, why = bundle.arithmetics[0], "the bundle's only one"
    elif (kept := _kept(bundle, config)) is not None:
        told = ", ".join(f"{name} {ms:.1f} ms" for name, ms in sorted(kept.median_ms.items()))
        model, why = kept.model, f"zsad-agent bench kept it for this machine: {told}"
    else:
        model, why = bundle.arithmetics[0], "the bundle's main one; zsad-agent bench finds out which is the faster here"
    if model not in bundle.arithmetics:
        raise BundleError(
            f"{bundle.path}: {why}, and the bundle holds {' and '.join(bundle.arithmetics)} alone. Set it to auto."
        )
    logger.info("bundle %s: inspecting with its %s model: %s", bundle.manifest.name, model, why)
    return model


def keep_faster(bundle: Bundle, config: InferenceConfig, median_ms: Mapping[Arithmetic, float]) -> Arithmetic:
    """Stores and returns the model for the next starts. A folder that cannot be written is a warning.

    Args:
        bundle: has both models.
        config: as at the start.
        median_ms: of both models, measured in turns.
    """
    model: Arithmetic = "int8" if median_ms["int8"] < FASTER * median_ms["fp"] else "fp"
    new = Kept(bundle=bundle.sha256, device=_device(config), model=model, median_ms=dict(median_ms))
    others = [one for one in _read(config).kept if (one.bundle, one.device) != (new.bundle, new.device)]
    path = _path(config)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, Choices(kept=(*others, new)[-MAX_KEPT:]).model_dump_json().encode())
    except OSError as error:
        logger.warning("%s: cannot be written: %s; the choice of the %s model is not kept", path, error.strerror, model)
    return model


def _kept(bundle: Bundle, config: InferenceConfig) -> Kept | None:
    device = _device(config)
    found = [one for one in _read(config).kept if (one.bundle, one.device) == (bundle.sha256, device)]
    return found[-1] if found else None


def _read(config: InferenceConfig) -> Choices:
    """Empty if the file is missing, or damaged (with a warning)."""
    path = _path(config)
    try:
        with path.open("rb") as file:
            return Choices.model_validate_json(file.read(_MAX_BYTES), strict=True)
    except FileNotFoundError:
        return Choices()
    except (OSError, ValidationError) as error:
        fault = error.strerror if isinstance(error, OSError) else "damaged"
        logger.warning("%s: %s, left out: zsad-agent bench writes it anew", path, fault)
        return Choices()


def _device(config: InferenceConfig) -> str:
    return f"{config.device} on {openvino_core().get_property('CPU', 'FULL_DEVICE_NAME').strip()}"


def _path(config: InferenceConfig) -> Path:
    return config.cache_dir.absolute() / _FILE
