"""Chooses the float or the int8 model of a bundle: the faster one, as `zsad-agent bench` measured on this machine.

Int8 is faster on one CPU and slower on another, so `bench` measures it and stores the choice in the cache folder.
Without a choice the bundle's main model runs; its answers are the same within the manifest's tolerances.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

from zsad_agent.config import InferenceConfig
from zsad_agent.system import read_json, write_whole
from zsad_core.bundle import Arithmetic, Bundle, Sha256
from zsad_core.config import StrictModel
from zsad_core.errors import BundleError
from zsad_core.openvino_offline import openvino_core

logger = logging.getLogger(__name__)

FASTER = 0.95  # int8 is chosen below this share of float's time; at equal speed the float model is better
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
    """The model to run. Logs the choice and its reason.

    Raises:
        BundleError: the config names a model that the bundle does not have.
    """
    model: Arithmetic
    if config.model != "auto":
        model, why = config.model, f"inference.model is {config.model}"
    elif len(bundle.arithmetics) == 1:
        model, why = bundle.arithmetics[0], "it is the only one"
    elif (kept := _kept(bundle, config)) is not None:
        times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in sorted(kept.median_ms.items()))
        model, why = kept.model, f"zsad-agent bench chose it for this machine: {times}"
    else:
        model, why = bundle.arithmetics[0], "the bundle's main model; zsad-agent bench can measure which is faster here"
    if model not in bundle.arithmetics:
        raise BundleError(
            f"{bundle.path}: {why}, but the bundle has only {' and '.join(bundle.arithmetics)}. Set it to auto."
        )
    logger.info("bundle %s: using its %s model: %s", bundle.manifest.name, model, why)
    return model


def keep_faster(bundle: Bundle, config: InferenceConfig, median_ms: Mapping[Arithmetic, float]) -> Arithmetic:
    """Stores and returns the faster model for the next starts. A folder that cannot be written is a warning."""
    model: Arithmetic = "int8" if median_ms["int8"] < FASTER * median_ms["fp"] else "fp"
    new = Kept(bundle=bundle.sha256, device=_device(config), model=model, median_ms=dict(median_ms))
    others = [kept for kept in _read(config).kept if (kept.bundle, kept.device) != (new.bundle, new.device)]
    path = _path(config)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, Choices(kept=(*others, new)[-MAX_KEPT:]).model_dump_json().encode())
    except OSError as error:
        logger.warning(
            "%s: cannot be written: %s; the choice of the %s model is not stored", path, error.strerror, model
        )
    return model


def _kept(bundle: Bundle, config: InferenceConfig) -> Kept | None:
    wanted = bundle.sha256, _device(config)
    return next((kept for kept in _read(config).kept if (kept.bundle, kept.device) == wanted), None)


def _read(config: InferenceConfig) -> Choices:
    """Empty if the file is missing, or damaged (with a warning)."""
    path = _path(config)
    try:
        return read_json(path, Choices, _MAX_BYTES) or Choices()
    except ValueError as error:
        logger.warning("%s: %s; ignored until zsad-agent bench writes it again", path, error)
        return Choices()


def _device(config: InferenceConfig) -> str:
    return f"{config.device} on {openvino_core().get_property('CPU', 'FULL_DEVICE_NAME').strip()}"


def _path(config: InferenceConfig) -> Path:
    return config.cache_dir.absolute() / _FILE
