"""Reads tensors from an untrusted weights file. Its bytes tell the file's kind; no code in it is run."""

import argparse
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from zsad_core.errors import WeightsError, some

OPENAI_CONSTANTS = ("input_resolution", "context_length", "vocab_size")  # only OpenAI's own CLIP files have them
_WRAPPERS = ("state_dict_ema", "model_ema", "teacher", "state_dict", "model")  # the first match is used
# Messages of torch's unpickler and ours about objects that are neither tensors nor containers.
_REFUSED = re.compile(r"(?i:unsupported (global: )?global) [\w.]*\w(?= )|it asks for .*\w|Can only (create|build) .*")
_WRAPPER_PREFIXES = ("_orig_mod.", "module.")  # from torch.compile and DataParallel


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The named tensors of a safetensors file, a torch checkpoint or a TorchScript archive, on the CPU.

    If a checkpoint wraps its state dict ({"state_dict": …}, {"model": …}, {"teacher": …}), the inner one is used, an
    averaged one first. The prefixes `module.` and `_orig_mod.` are removed. If some names start with `backbone.`, as in
    a DINO training checkpoint, only these are returned, without the prefix. Entries that are not tensors are left out.

    Torch checkpoints are read with `weights_only`. It refuses TorchScript archives, the format of OpenAI's CLIP, and
    `torch.jit.load` would run their code. Therefore an unpickler of our own reads them: it accepts only tensors and
    containers, and never opens the archive's code.

    Raises:
        WeightsError: missing, truncated, of an unknown kind, without tensors, or reading it would run code.
    """
    tensors = {name: value for name, value in _unwrap(_checked(path, _read)).items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: contains no named tensors")
    return _without_prefixes(tensors)


def read_torch_file(path: Path) -> Any:
    """The content of a torch checkpoint: tensors, containers and plain values, on the CPU.

    Raises:
        WeightsError: missing, truncated, of another kind, or reading it would run code.
    """
    return _checked(path, _load)


def _checked(path: Path, read: Callable[[Path], Any]) -> Any:
    """The content; errors of `read` become a `WeightsError`."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        return read(path)
    except pickle.UnpicklingError as error:
        if refused := _REFUSED.search(str(error)):
            raise WeightsError(
                f"{path}: holds more than tensors and could run code, so it was not read: {refused[0]}. "
                "If you trust it, save only its state dict as safetensors."
            ) from error
        raise WeightsError(f"{path}: cannot be read: truncated or of another format: {type(error).__name__}") from error
    except Exception as error:  # each kind of file raises its own errors
        raise WeightsError(
            f"{path}: cannot be read: truncated or of another format: {type(error).__name__}: {error}"
        ) from error


def check_state(path: Path, expected: dict[str, Any], found: dict[str, Any], *, model: str = "the model") -> None:
    """Raises WeightsError if keys or shapes differ; the text names missing and surplus keys and wrong shapes."""
    faults = []
    if missing := sorted(expected.keys() - found.keys()):
        faults.append(f"missing: {some(missing)}")
    if surplus := sorted(found.keys() - expected.keys()):
        faults.append(f"surplus: {some(surplus)}")
    shapes = [
        f"{name}: expected {tuple(expected[name].shape)}, found {tuple(found[name].shape)}"
        for name in sorted(expected.keys() & found.keys())
        if expected[name].shape != found[name].shape
    ]
    if shapes:
        faults.append(some(shapes))
    if faults:
        raise WeightsError(f"{path}: weights do not fit {model}: " + "; ".join(faults))


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] == b"{":  # eight bytes of length, then JSON
        return load_file(path)
    if start.startswith(b"PK") and (pickled := _torchscript_pickle(path)):
        return _read_torchscript(path, pickled)
    return _load(path)


def _load(path: Path) -> Any:
    # Training scripts save their flags (a Namespace) beside the weights. Given a path, torch.load checks the suffix.
    with torch.serialization.safe_globals([argparse.Namespace]), path.open("rb") as file:
        return torch.load(file, map_location="cpu", weights_only=True)


def _unwrap(found: Any) -> dict[Any, Any]:
    while isinstance(found, dict):
        inner = next((found[key] for key in _WRAPPERS if isinstance(found.get(key), dict)), None)
        if inner is None:
            return found
        found = inner
    return {}


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _WRAPPER_PREFIXES * 2:  # either may wrap the other
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    backbone = {name.removeprefix("backbone."): v for name, v in tensors.items() if name.startswith("backbone.")}
    return backbone or tensors


def _torchscript_pickle(path: Path) -> str | None:
    """The name of the pickled module tree in a TorchScript archive; None for any other zip file."""
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    folders = {name.removesuffix("constants.pkl") for name in names if name.endswith("/constants.pkl")}
    return next((f"{folder}data.pkl" for folder in folders if f"{folder}data.pkl" in names), None)


def _read_torchscript(path: Path, pickled: str) -> dict[str, Tensor]:
    with zipfile.ZipFile(path) as archive, archive.open(pickled) as file:
        root = _TorchScriptUnpickler(file, archive, f"{pickled.removesuffix('.pkl')}/").load()  # type: ignore[arg-type]
    if not isinstance(root, _Module):
        raise ValueError("no module at the root of the archive")
    return dict(_named_tensors(root, ""))


class _Module:
    """Replaces every class of the archive. It stores its state and does nothing."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _named_tensors(module: _Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in module.state.items() if isinstance(module.state, dict) else ():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _Module):
            yield from _named_tensors(value, f"{prefix}{name}.")


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()  # torch checks the bounds


_STORAGES = {
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
}
_KNOWN_GLOBALS: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("collections", "OrderedDict"): OrderedDict,
    **{("torch.jit._pickle", f"build_{kind}list"): list for kind in ("int", "tensor", "double", "bool")},
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _TorchScriptUnpickler(pickle.Unpickler):
    """Refuses every global except those above: pickle's documented way to restrict untrusted files."""

    def __init__(self, file: BinaryIO, archive: zipfile.ZipFile, storages: str) -> None:
        super().__init__(file)
        self._archive = archive
        self._storages = storages
        self._read: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__."):
            return _Module
        try:
            return _KNOWN_GLOBALS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None

    def persistent_load(self, identifier: Any) -> Tensor:
        _, dtype, key, _, _ = identifier
        if key not in self._read:
            content = bytearray(self._archive.read(f"{self._storages}{key}"))
            self._read[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._read[key]
