"""Adds products to a bundle: a model with known outputs, and a head and a text encoder of a few random numbers."""

import functools
import hashlib
import json
import os
import shutil
import stat
import zlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_model import record, small_detector, text_embeddings, write_pictures
from tiny_bundle_maker import make_tiny_bundle

from zsad_agent.config import InferenceConfig
from zsad_agent.model import Detector as DeviceDetector
from zsad_convert.bundle import MODEL_CARD, write_bundle
from zsad_convert.bundle.rewrite import put
from zsad_convert.cli import main, parser
from zsad_convert.export import prompt_arrays
from zsad_convert.prompt_bank import make_prompts, run
from zsad_core.bundle import MANIFEST, MODEL_BIN, MODEL_XML, PAPERS_WORDING, TEXT_SIDE, Variant, load_bundle
from zsad_core.command import guarded
from zsad_core.heads import AdDinoV3, AvaDino, AvaDinoConfig, MatchingConfig
from zsad_core.model import save_checkpoint
from zsad_core.text import embed_products, load_text_encoder, text_side_bytes

TEXT_DIM = 24


def tower(texts: list[str], width: int = TEXT_DIM) -> np.ndarray:
    """A text encoder that maps each sentence to its own random vector."""
    return np.stack([np.random.default_rng(zlib.crc32(text.encode())).standard_normal(width) for text in texts])


def make_head(seed: int = 1) -> AvaDino:
    torch.manual_seed(seed)
    return AvaDino(AvaDinoConfig(embed_dim=8, text_dim=TEXT_DIM, num_taps=1, hidden_dim=4)).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A bundle whose map is darkness times (0.5 - mean of the prompt), with its text side."""
    folder = tmp_path_factory.mktemp("made")
    darkness = load_bundle(make_tiny_bundle(folder / "darkness", output_scale=0.5))
    facts = darkness.manifest
    write_bundle(
        folder / "bundle",
        name="small",
        version="1.2.3",
        facts=facts.model,
        ir=(darkness.model_xml, darkness.model_bin),
        prompts=prompt_arrays(make_head(), embed_products(tower, ["object", "bottle"])),
        threshold=facts.threshold,
        region_level=facts.region_level,
        evaluation=None,
        proof=Variant(precision="fp32", parity=facts.parity),
        made_by="test",
        licences=facts.licences,
        text_side=text_side_bytes(make_head()),
    )
    return folder / "bundle"


@pytest.fixture(params=["folder", "zip", "zip of the folder"])
def bundle(request, made, tmp_path) -> Path:
    return copy_of(made, tmp_path, request.param)


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return copy_of(made, tmp_path, "folder")


def copy_of(made: Path, tmp_path: Path, kind: str) -> Path:
    folder = Path(shutil.copytree(made, tmp_path / "small"))
    if kind == "folder":
        return folder
    root, base = (folder, None) if kind == "zip" else (tmp_path, "small")
    archive = Path(shutil.make_archive(str(tmp_path / "archive"), "zip", root, base))
    shutil.rmtree(folder)
    return archive


def prompts(*flags: object, encoder=tower) -> int:
    args = parser().parse_args(["prompts", *map(str, flags)])
    return guarded("zsad-convert", lambda: run(args, "the command", load_encoder=lambda name: encoder))


def test_adding_a_product_changes_only_the_prompts(bundle):
    before, mode = load_bundle(bundle), stat.S_IMODE(bundle.stat().st_mode)
    assert prompts(bundle, "--add", "pump housing", "Flasche", "瓶子") == 0
    after = load_bundle(bundle)
    assert after.manifest.products == ("Flasche", "bottle", "object", "pump housing", "瓶子")
    assert (after.model_xml, after.model_bin) == (before.model_xml, before.model_bin)
    assert (after.manifest.name, after.manifest.version) == ("small", "1.2.3")
    assert after.sha256 != before.sha256
    assert after.manifest.added_products["Flasche"].made_by == "the command"
    assert after.manifest.made_by == before.manifest.made_by
    expected = prompt_arrays(
        make_head(), embed_products(tower, ["object", "bottle", "pump housing", "Flasche", "瓶子"])
    )
    for product, array in expected.items():
        np.testing.assert_array_equal(after.prompt_bank[product], array, err_msg=product)
    assert stat.S_IMODE(bundle.stat().st_mode) == mode
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_the_models_files_do_not_change(folder):
    before = {name: (folder / name).read_bytes() for name in (MODEL_XML, MODEL_BIN, TEXT_SIDE)}
    (folder / "NOTES.txt").write_text("whatever else lies there")
    assert prompts(folder, "--add", "gear") == 0
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert (folder / "NOTES.txt").read_text() == "whatever else lies there"
    assert "gear" in (folder / MODEL_CARD).read_text()


def test_the_agent_inspects_the_new_product_without_compiling(folder, tmp_path):
    assert prompts(folder, "--add", "Gehäuse") == 0
    bundle = load_bundle(folder)
    device = DeviceDetector(bundle, InferenceConfig(bundle=folder, cache_dir=tmp_path / "cache"))
    compiled = sorted((tmp_path / "cache").rglob("*"))
    black = np.zeros((64, 64, 3), np.uint8)
    scores = {product: device.predict(black, product).anomaly_score for product in ("object", "Gehäuse", "bottle")}
    for product, score in scores.items():
        assert score == pytest.approx(0.5 - bundle.prompt_bank[product].mean(), abs=1e-3)
    assert len(set(scores.values())) == 3
    assert device.predict(black, "Geha\u0308use").anomaly_score == scores["Gehäuse"]  # decomposed, as typed on a Mac
    assert sorted((tmp_path / "cache").rglob("*")) == compiled


def test_a_file_has_names_states_and_templates(folder, tmp_path):
    (tmp_path / "products.yaml").write_text(
        "products:\n"
        "  Flasche:\n"
        "    names: [bottle, flask]\n"
        "    normal_states: ['intact {}']\n"
        "    anomalous_states: ['chipped {}', 'leaking {}']\n"
        "    templates: ['see the {}']\n"
        "  pump housing:\n"
    )
    assert prompts(folder, "--file", tmp_path / "products.yaml", "--add", "gear") == 0
    after = load_bundle(folder)
    normal = ["see the intact bottle", "see the intact flask"]
    anomalous = ["see the chipped bottle", "see the leaking bottle", "see the chipped flask", "see the leaking flask"]
    text = np.stack([unit(unit(tower(texts)).mean(axis=0)) for texts in (normal, anomalous)], axis=1)
    (expected,) = prompt_arrays(make_head(), {"Flasche": text.astype(np.float32)}).values()
    np.testing.assert_allclose(after.prompt_bank["Flasche"], expected, rtol=0, atol=1e-6)
    papers = prompt_arrays(make_head(), embed_products(tower, ["pump housing"]))["pump housing"]
    np.testing.assert_array_equal(after.prompt_bank["pump housing"], papers)
    written = json.loads((folder / MANIFEST).read_text())["added_products"]
    assert sorted(written) == ["Flasche", "gear", "pump housing"]
    assert written["Flasche"]["wording"]["names"] == ["bottle", "flask"]


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "p.yaml: products: missing"),
        ("products:\n  cap:\n   names: [x\n", "p.yaml:4: "),
        ("products:\n  cap:\n    name: [x]\n", "p.yaml:3: products.cap.name: unknown key. Known here: "),
        ("products:\n  cap:\n    names: []\n", "p.yaml:3: products.cap.names: got []"),
        ("products:\n  cap:\n    names: [0712]\n", "p.yaml:3: products.cap.names.0: got 458"),
        (
            "products:\n  cap:\n    templates:\n    - a {}\n    - a cap\n",
            "p.yaml:5: products.cap.templates.1: got 'a cap'",
        ),
        ("products:\n  cap:\n    normal_states: ['{} {}']\n", "must hold {} exactly once"),
        ("products:\n  cap:\n    normal_states: ['{0} {}']\n", "must hold {} exactly once"),
        ("products:\n  a/b:\n", "p.yaml:2: products.a/b"),
        ("products:\n  0712:\n", "p.yaml:2: products: YAML does not read 0712 as text. Put it into quotes."),
        ("products:\n  cap:\n  no:\n", "p.yaml:3: products: YAML does not read no as text. Put it into quotes."),
        ("products:\n  cap:\n  cap:\n", "p.yaml:3: key 'cap' is given twice"),
        ("products:\n  é:\n  e\u0301:\n", "p.yaml:3: products: 'é' is given twice"),
    ],
)
def test_a_fault_in_the_file_has_line_and_key(folder, tmp_path, capsys, text, said):
    (tmp_path / "p.yaml").write_text(text)
    before = load_bundle(folder).sha256
    assert prompts(folder, "--file", tmp_path / "p.yaml") == 2
    assert said in capsys.readouterr().err
    assert load_bundle(folder).sha256 == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is empty"),
        (" cap", "has a space at its start or end"),
        ("../cap", "no slash"),
        ("a\\b", "no slash, backslash"),
        ("a..b", "or '..'"),
        ("cap.npy", ".npy"),
        (".cap", "starts with no dot"),
        ("a\0b", "not printable"),
        ("a\nb", "not printable"),
        ("a\u202eb", "not printable"),
        ("a\udce4", "not printable"),
        ("x" * 81, "at most 80"),
    ],
)
def test_an_invalid_name_is_bad_usage(folder, capsys, name, said):
    with pytest.raises(SystemExit) as caught:
        prompts(folder, "--add", name)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "nothing to change"),
        (["--add", "bottle"], "bottle already in"),
        (["--add", "cap", "cap"], "added twice: cap"),
        (["--add", "ü", "u\u0308"], "added twice: ü"),
        (["--remove", "object"], "--remove object: agents without a configured product need it"),
        (["--remove", "cap"], "cap not in"),
    ],
)
def test_a_contradictory_change_is_bad_usage(folder, capsys, flags, said):
    before = load_bundle(folder).sha256
    assert prompts(folder, *flags) == 2
    assert said in capsys.readouterr().err
    assert load_bundle(folder).sha256 == before


def test_remove_deletes_a_product_and_with_add_replaces_it(bundle, tmp_path, capsys):
    assert prompts(bundle, "--add", "cap") == 0
    (tmp_path / "p.yaml").write_text("products:\n  bottle:\n    names: [flask]\n")
    assert prompts(bundle, "--remove", "bottle", "cap", "--file", tmp_path / "p.yaml") == 0
    after = load_bundle(bundle)
    flask = prompt_arrays(make_head(), embed_products(tower, ["flask"]))["flask"]
    np.testing.assert_array_equal(after.prompt_bank["bottle"], flask)
    assert list(after.manifest.added_products) == ["bottle"]
    capsys.readouterr()
    assert prompts(bundle, "--list") == 0
    assert capsys.readouterr().out == "bottle\nobject\n"


def test_a_bundle_without_text_side_needs_the_checkpoint(tiny_bundle, tmp_path, capsys):
    shutil.copytree(tiny_bundle, tmp_path / "b")
    assert prompts(tmp_path / "b", "--add", "cap") == 1
    assert f"has no {TEXT_SIDE}, which adding products needs. Name its checkpoint with --checkpoint" in (
        capsys.readouterr().err
    )
    assert prompts(tmp_path / "b", "--remove", "bottle") == 0
    manifest = load_bundle(tmp_path / "b").manifest
    assert manifest.products == ("object",)
    assert manifest.made_by == "tests/tiny_bundle_maker.py; the command"  # the command is added


def test_a_method_without_text_needs_no_products(tmp_path, capsys):
    make_tiny_bundle(tmp_path / "b", needs_text=False)
    assert prompts(tmp_path / "b", "--add", "cap") == 1
    assert "b: darkness uses no text and needs no products" in capsys.readouterr().err
    assert prompts(tmp_path / "b", "--list") == 0


def test_ad_dinov3s_prompts_are_the_adapted_text_alone():
    head = AdDinoV3(MatchingConfig(embed_dim=8, text_dim=TEXT_DIM, num_taps=1))
    generic, cap = prompt_arrays(head, embed_products(tower, ["object", "cap"])).values()
    made = make_prompts({"cap": PAPERS_WORDING}, head, tower, generic, "h")
    assert made["cap"].shape == (1, 2, TEXT_DIM)
    np.testing.assert_array_equal(made["cap"], cap)


def test_another_checkpoint_head_or_tower_is_refused(folder, tmp_path, capsys):
    save_checkpoint(tmp_path / "other.safetensors", small_detector(), text_embeddings(), record())
    before = load_bundle(folder).sha256
    assert prompts(folder, "--add", "cap", "--checkpoint", tmp_path / "other.safetensors") == 1
    assert "other.safetensors: makes prompts of (2, 2, 192), the bundle's model takes (2, 2, 8)" in (
        capsys.readouterr().err
    )
    assert prompts(folder, "--add", "cap", encoder=lambda texts: tower(texts, 32)) == 1
    assert "takes text embeddings of 24 numbers, the text encoder gives 32" in capsys.readouterr().err
    assert prompts(folder, "--add", "cap", encoder=lambda texts: tower([text.upper() for text in texts])) == 1
    assert "from another checkpoint or with another text encoder" in capsys.readouterr().err
    assert load_bundle(folder).sha256 == before
    other = text_side_bytes(make_head(seed=2))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][TEXT_SIDE] = hashlib.sha256(other).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / TEXT_SIDE).write_bytes(other)
    assert prompts(folder, "--add", "cap") == 1
    assert f"{TEXT_SIDE}: the prompt of 'object' differs by " in capsys.readouterr().err


def test_out_does_not_change_the_source(bundle, tmp_path):
    before = load_bundle(bundle).sha256
    out = tmp_path / "other" / bundle.name
    assert prompts(bundle, "--add", "cap", "--out", out) == 0
    assert "cap" in load_bundle(out).manifest.products
    assert prompts(bundle, "--add", "gear", "--out", out) == 0
    assert "cap" not in load_bundle(out).manifest.products
    assert load_bundle(bundle).sha256 == before


def test_out_replaces_only_a_bundle(bundle, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "letter.zip").write_text("keep me")
    for out in (tmp_path / "photos", tmp_path / "letter.zip"):
        assert prompts(bundle, "--add", "cap", "--out", out) == 1
        assert "exists and is not a bundle" in capsys.readouterr().err
    assert (tmp_path / "letter.zip").read_text() == "keep me"
    assert prompts(bundle, "--add", "cap", "--out", bundle / "inner") == 1
    assert "lies inside the bundle" in capsys.readouterr().err


def test_a_full_disk_does_not_change_the_bundle(made, tiny_disk, capsys):
    bundle = Path(shutil.copytree(made, tiny_disk / "bundle"))
    room = os.statvfs(tiny_disk)
    (tiny_disk / "filling").write_bytes(b"\0" * (room.f_bavail - 2) * room.f_frsize)
    before = load_bundle(bundle).sha256
    assert prompts(bundle, "--add", "cap") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{bundle}: cannot be written: " in line and "No space left" in line and "--out" in line
    assert load_bundle(bundle).sha256 == before
    assert sorted(path.name for path in tiny_disk.iterdir()) == ["bundle", "filling"]


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert prompts(folder, "--add", "cap", "--out", tmp_path / "file" / "bundle") == 1
    assert "file/bundle: cannot be written: " in capsys.readouterr().err


def test_a_link_to_a_bundle_stays_a_link(folder, tmp_path):
    (tmp_path / "current").symlink_to(folder)
    assert prompts(tmp_path / "current", "--add", "cap") == 0
    assert (tmp_path / "current").is_symlink()
    assert "cap" in load_bundle(folder).manifest.products


@pytest.mark.parametrize("exchange", [None, lambda first, second: False])
def test_a_folder_is_replaced_with_and_without_an_atomic_swap(tmp_path, exchange):
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    put(tmp_path / "new", tmp_path / "old", exchange)
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["new"]


def test_with_minilm_an_added_product_equals_an_exported_one(tmp_path):
    """Exports with a product, removes it, and adds it again, from the bundle and from the checkpoint."""
    minilm = load_text_encoder("minilm")
    encode = functools.cache(lambda texts: minilm(list(texts)))
    checkpoint, bundle = tmp_path / "c.safetensors", tmp_path / "bundle"
    text = embed_products(lambda texts: encode(tuple(texts)), ["object"])
    save_checkpoint(checkpoint, small_detector(text_dim=384), text, record())
    pictures = ["--images", str(write_pictures(tmp_path / "pictures", 2))]
    flags = ["--name", "b", "--products", "Flasche", *pictures]
    assert main(["export", str(checkpoint), "--out", str(bundle), *flags]) == 0
    exported = load_bundle(bundle).prompt_bank["Flasche"]
    for source in ([], ["--checkpoint", checkpoint]):
        flags = ["--remove", "Flasche", "--add", "Flasche", "--out", tmp_path / "again", *source]
        assert prompts(bundle, *flags, encoder=lambda texts: encode(tuple(texts))) == 0
        again = load_bundle(tmp_path / "again").prompt_bank["Flasche"]
        np.testing.assert_allclose(again, exported, rtol=0, atol=1e-6)
    (tmp_path / "p.yaml").write_text("products:\n  Flasche:\n    names: [bottle]\n    templates: ['a {}']\n")
    flags = ["--remove", "Flasche", "--file", tmp_path / "p.yaml"]
    assert prompts(bundle, *flags, encoder=lambda texts: encode(tuple(texts))) == 0
    assert main(["verify", str(bundle), "--checkpoint", str(checkpoint), *pictures]) == 0


def test_a_change_of_a_signed_bundle_reports_the_removed_signature(folder, tmp_path, capsys):
    from zsad_core.bundle import is_signed

    assert main(["keygen", "--out", str(tmp_path / "line")]) == 0
    assert main(["sign", str(folder), "--key", str(tmp_path / "line.key")]) == 0
    assert prompts(folder, "--add", "gear", "--out", tmp_path / "new") == 0
    assert "sign it again with zsad-convert sign" in capsys.readouterr().out
    assert is_signed(folder)
    assert not is_signed(tmp_path / "new")
    assert prompts(tmp_path / "new", "--add", "cog") == 0
    assert "signature" not in capsys.readouterr().out
