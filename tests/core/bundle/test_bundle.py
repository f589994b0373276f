import hashlib
import json
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from tiny_bundle_maker import make_tiny_bundle

from zsad_core.bundle import (
    INT8_BIN,
    INT8_XML,
    MANIFEST,
    MODEL_BIN,
    MODEL_XML,
    PROMPTS,
    TEXT_SIDE,
    PromptBank,
    Wording,
    load_bundle,
    sentences,
)
from zsad_core.bundle.prompt_bank import ANOMALOUS_STATES, NORMAL_STATES, TEMPLATES
from zsad_core.errors import BundleError, ProductError


@pytest.fixture
def copy(tiny_bundle, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def rewrite_manifest(bundle: Path, **changes: object) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text()) | changes
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def test_folder_and_zip_are_the_same_bundle(copy, tmp_path):
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in copy.iterdir():
            file.write(path, path.name)
    around = Path(shutil.make_archive(str(tmp_path / "around"), "zip", copy.parent, copy.name))
    folder = load_bundle(copy)
    for path in (archive, around):
        zipped = load_bundle(path)
        assert (folder.sha256, folder.model_bin, folder.manifest) == (zipped.sha256, zipped.model_bin, zipped.manifest)


def test_a_zip_with_two_bundles_or_none_is_refused(copy, tmp_path):
    shutil.copytree(copy, tmp_path / "two" / "a")
    shutil.copytree(copy, tmp_path / "two" / "b")
    shutil.copytree(copy, tmp_path / "deep" / "a" / "b")
    for name in ("two", "deep"):
        archive = shutil.make_archive(str(tmp_path / name), "zip", tmp_path / name)
        with pytest.raises(BundleError, match=r"no manifest\.json at its top or in its one folder"):
            load_bundle(Path(archive))


def test_no_bundle_an_empty_folder_and_another_file_have_different_errors(tmp_path):
    with pytest.raises(BundleError, match="no such bundle"):
        load_bundle(tmp_path / "none")
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read"):
        load_bundle(tmp_path)
    (tmp_path / "photo.zip").write_bytes(b"\xff\xd8 no zip")
    with pytest.raises(BundleError, match=r"nor a readable \.zip"):
        load_bundle(tmp_path / "photo.zip")


@pytest.mark.parametrize("name", [MODEL_XML, MODEL_BIN, PROMPTS])
def test_a_missing_truncated_or_altered_file_is_named(copy, name):
    whole = (copy / name).read_bytes()
    (copy / name).write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=f"{name}: sha256 is .* truncated or was changed"):
        load_bundle(copy)
    (copy / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(BundleError, match=f"{name}: sha256 is"):
        load_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: cannot be read"):
        load_bundle(copy)


def test_a_truncated_zip_is_refused_at_every_length(copy, tmp_path):
    archive = tmp_path / "bundle.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in copy.iterdir():
            file.write(path, path.name)
    whole, expected = archive.read_bytes(), load_bundle(archive)
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        archive.write_bytes(whole[:length])
        with pytest.raises(BundleError):
            load_bundle(archive)
    for position in range(30, len(whole) - 30, max(1, len(whole) // 60)):
        archive.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with suppress(BundleError):  # a flipped bit in an unused field is not a fault
            assert load_bundle(archive).sha256 == expected.sha256


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"threshold": {"value": 1.5, "method": "guess"}}, "threshold.value"),
        ({"threshold": {"value": float("nan"), "method": "guess"}}, "threshold"),
        ({"region_level": "high"}, "region_level"),
        ({"files": {}}, "no hash for model.xml"),
        ({"products": ["object"]}, "products"),
    ],
)
def test_a_manifest_that_is_wrong_names_the_key(copy, changes, named):
    rewrite_manifest(copy, **changes)
    with pytest.raises(BundleError, match=named):
        load_bundle(copy)


def test_the_text_side_is_hashed_like_other_files(copy):
    (copy / TEXT_SIDE).write_bytes(b"whole")
    manifest = json.loads((copy / MANIFEST).read_text())
    rewrite_manifest(copy, files=manifest["files"] | {TEXT_SIDE: hashlib.sha256(b"whole").hexdigest()})
    load_bundle(copy)
    (copy / TEXT_SIDE).write_bytes(b"other")
    with pytest.raises(BundleError, match=f"{TEXT_SIDE}: sha256 is"):
        load_bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", '{"format_version": []}', "[" * 100_000])
def test_an_invalid_manifest_is_refused(copy, text):
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="manifest"):
        load_bundle(copy)


def test_a_manifest_cannot_name_files_outside_the_bundle(copy, tmp_path):
    (tmp_path / "secret").write_text("x")
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"]["../secret"] = "0" * 64
    rewrite_manifest(copy, files=manifest["files"])
    with pytest.raises(BundleError, match=r"files\.\.\./secret.*should match pattern"):
        load_bundle(copy)


def test_an_unknown_product_lists_the_known_ones(tiny_bundle):
    with pytest.raises(ProductError, match=r"product 'bottel' is not in the bundle. It has: bottle, object"):
        load_bundle(tiny_bundle).prompt("bottel")


def test_a_bundle_without_text_accepts_any_product(tmp_path):
    bundle = load_bundle(make_tiny_bundle(tmp_path / "bundle", needs_text=False))
    assert bundle.manifest.products == ()
    assert bundle.prompt("anything") is None


@pytest.mark.parametrize(
    ("facts", "products", "said"),
    [
        ({"prompt_shape": None}, ["object"], "model.prompt_shape is null, but there are products"),
        ({"prompt_shape": [2, 2, 8]}, [], r"no hash for prompts\.npz"),
    ],
)
def test_a_bundle_with_inconsistent_text_facts_is_refused(tmp_path, facts, products, said):
    folder = make_tiny_bundle(tmp_path / "bundle", needs_text=False)
    manifest = json.loads((folder / MANIFEST).read_text())
    rewrite_manifest(folder, model=manifest["model"] | facts, products=products)
    with pytest.raises(BundleError, match=said):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"object": np.zeros((2, 2, 7), np.float32)}, r"\(2, 2, 7\)"),
        ({"object": np.zeros((2, 2, 8))}, "float64"),
        ({"object": np.full((2, 2, 8), np.nan, np.float32)}, "finite"),
        ({"bottle": np.zeros((2, 2, 8), np.float32)}, "generic product 'object' is missing"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(tmp_path, arrays, named):
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(BundleError, match=named):
        PromptBank.load(tmp_path / "p.npz", (2, 2, 8))


@pytest.mark.parametrize("name", ["file", "allow_pickle", "ガラス瓶", "a b", "A:1"])
def test_every_product_is_loaded_under_its_name(tmp_path, name):
    saved = {"object": np.zeros((2, 2, 8), np.float32), name: np.ones((2, 2, 8), np.float32)}
    PromptBank(embeddings=saved).save(tmp_path / "p.npz")
    bank = PromptBank.load(tmp_path / "p.npz", (2, 2, 8))
    assert bank.products == sorted(saved)
    np.testing.assert_array_equal(bank[name], saved[name])


def test_prompts_with_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "p.npz", object=np.array([{"run": "me"}], dtype=object))
    with pytest.raises(BundleError, match="got object"):
        PromptBank.load(tmp_path / "p.npz", (2, 2, 8))


def test_sentences_combine_all_states_and_templates():
    normal, anomalous = sentences("metal_nut")
    assert len(normal) == len(NORMAL_STATES) * len(TEMPLATES)
    assert len(anomalous) == len(ANOMALOUS_STATES) * len(TEMPLATES)
    assert "a photo of a flawless metal nut." in normal
    assert "there is a damaged metal nut in the scene." in anomalous
    assert len(set(normal + anomalous)) == len(normal + anomalous)


def test_sentences_of_a_wording_combine_all_names_states_and_templates():
    wording = Wording(names=("cap", "{lid}"), normal_states=("whole {}",), templates=("a {}.", "the {}."))
    normal, anomalous = sentences("SKU_1", wording)
    assert normal == ["a whole cap.", "the whole cap.", "a whole {lid}.", "the whole {lid}."]
    assert len(anomalous) == 2 * len(ANOMALOUS_STATES) * 2
    assert "the {lid} with flaw." in anomalous


@pytest.fixture
def two_models(tmp_path) -> Path:
    return make_tiny_bundle(tmp_path / "two", int8_scale=0.5)


def test_a_variant_is_loaded_beside_the_main_model(two_models):
    bundle = load_bundle(two_models)
    assert bundle.arithmetics == ("fp", "int8")
    chosen = {name: bundle.computing_in(name) for name in bundle.arithmetics}
    assert (chosen["fp"].model_xml, chosen["fp"].model_bin) == (bundle.model_xml, bundle.model_bin)
    assert (chosen["int8"].model_xml, chosen["int8"].model_bin) == (bundle.variant_xml, bundle.variant_bin)
    assert chosen["int8"].model_xml != chosen["fp"].model_xml
    held = bundle.without_model()
    assert (held.model_xml, held.model_bin, held.variant_xml, held.variant_bin) == (b"", b"", b"", b"")


@pytest.mark.parametrize("name", [INT8_XML, INT8_BIN])
def test_a_variant_is_checked_like_the_main_model(two_models, name):
    whole = (two_models / name).read_bytes()
    (two_models / name).write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    with pytest.raises(BundleError, match=f"{name}: sha256 is .* was changed"):
        load_bundle(two_models)
    (two_models / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: cannot be read"):
        load_bundle(two_models)
    files = json.loads((two_models / MANIFEST).read_text())["files"]
    del files[name]
    rewrite_manifest(two_models, files=files)
    with pytest.raises(BundleError, match=f"files: no hash for {name}"):
        load_bundle(two_models)


def test_files_of_a_variant_that_is_not_in_the_manifest_are_refused(two_models):
    rewrite_manifest(two_models, variant=None)
    with pytest.raises(BundleError, match=f"'{INT8_XML}' is listed, but there is no variant"):
        load_bundle(two_models)


@pytest.mark.parametrize(("main", "variant"), [("int8", "int8"), ("fp16", "fp32")])
def test_a_variant_must_be_int8_beside_float(two_models, main, variant):
    manifest = json.loads((two_models / MANIFEST).read_text())
    rewrite_manifest(
        two_models,
        model=manifest["model"] | {"precision": main},
        variant=manifest["variant"] | {"precision": variant},
    )
    with pytest.raises(BundleError, match="only int8 beside fp32 or fp16 is supported"):
        load_bundle(two_models)


def test_a_manifest_without_variant_keys_is_read(copy):
    manifest = json.loads((copy / MANIFEST).read_text())
    for key in ("variant", "gate", "calibration", "accepted_loss"):
        del manifest[key]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    bundle = load_bundle(copy)
    assert (bundle.arithmetics, bundle.manifest.gate, bundle.manifest.accepted_loss) == (("fp",), None, ())
