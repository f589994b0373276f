"""Writes a bundle folder, completely or not at all."""

import hashlib
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from zsad_convert.bundle.card import MODEL_CARD, model_card
from zsad_convert.bundle.rewrite import put
from zsad_core.bundle import (
    FORMAT_VERSION,
    INT8_BIN,
    INT8_XML,
    MANIFEST,
    MODEL_BIN,
    MODEL_XML,
    PROMPTS,
    RESIZE_RULE,
    TEXT_SIDE,
    BuiltWith,
    Evaluation,
    Manifest,
    ModelFacts,
    PromptBank,
    Threshold,
    Variant,
    installed_version,
    load_bundle,
)
from zsad_core.facts import Licence
from zsad_core.openvino_offline import import_openvino


def check_out(out: Path) -> None:
    """Checks that `write_bundle` can write to `out`.

    Raises:
        ValueError: `out` exists and is not a bundle, or it cannot be created.
    """
    if out.exists() and not (out / MANIFEST).is_file():
        raise ValueError(f"{out}: exists and is not a bundle; choose another --out")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        raise ValueError(f"{out}: cannot be created in {above}; choose another --out")


def write_bundle(
    out: Path,
    *,
    name: str,
    version: str,
    facts: ModelFacts,
    ir: tuple[bytes, bytes],
    prompts: dict[str, np.ndarray],
    threshold: Threshold,
    region_level: float,
    evaluation: Evaluation | None,
    proof: Variant,
    made_by: str,
    licences: tuple[Licence, ...],
    text_side: bytes | None = None,
    variant: tuple[Variant, tuple[bytes, bytes]] | None = None,
) -> str:
    """Writes, reads back and checks the bundle, then moves it to `out`; gives its sha256.

    An existing bundle at `out` is replaced.

    Args:
        out: folder.
        ir: (model.xml, model.bin).
        proof: the gate's record of `ir`; its precision is that of `facts`.
        variant: the same model in int8: record and (model.xml, model.bin).

    Raises:
        ValueError: `out` exists and is not a bundle.
        BundleError: the written bundle does not load.
    """
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as folder:
        partial = Path(folder) / "bundle"
        partial.mkdir()
        files = _write_files(partial, ir, variant[1] if variant else None, prompts, text_side)
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            name=name,
            version=version,
            model=facts,
            products=tuple(sorted(prompts)),
            threshold=threshold,
            region_level=region_level,
            evaluation=evaluation,
            parity=proof.parity,
            gate=proof.gate,
            calibration=proof.calibration,
            accepted_loss=proof.accepted_loss,
            variant=variant[0] if variant else None,
            made_by=made_by,
            licences=licences,
            resize=RESIZE_RULE,
            built_at=datetime.now(UTC).date(),
            built_with=_built_with(),
            files=files,
        )
        (partial / MANIFEST).write_bytes(manifest_bytes(manifest))
        (partial / MODEL_CARD).write_bytes(model_card(manifest).encode())
        sha256 = load_bundle(partial).sha256
        put(partial, out)
    return sha256


def _write_files(
    folder: Path,
    ir: tuple[bytes, bytes],
    int8: tuple[bytes, bytes] | None,
    prompts: dict[str, np.ndarray],
    text_side: bytes | None,
) -> dict[str, str]:
    """Writes all files of the manifest; gives name -> sha256, sorted by name."""
    contents = {MODEL_XML: ir[0], MODEL_BIN: ir[1]}
    if int8 is not None:
        contents |= {INT8_XML: int8[0], INT8_BIN: int8[1]}
    if text_side is not None:
        contents[TEXT_SIDE] = text_side
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    if prompts:
        PromptBank(embeddings=prompts).save(folder / PROMPTS)
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


def _built_with() -> BuiltWith:
    return BuiltWith(
        openvino=import_openvino().get_version(),  # with the build number, as in model.xml
        torch=installed_version("torch"),
        timm=installed_version("timm"),
        zsad_agent=installed_version("zsad-agent"),
    )


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of the manifest's file."""
    return (json.dumps(manifest.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n").encode()
