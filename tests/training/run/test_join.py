"""`zsad-join`: what the joined checkpoint holds, and what cannot be joined."""

from pathlib import Path

import pytest
from small_run import make_data, small_config

torch = pytest.importorskip("torch")

from small_model import SHALLOW, record, small_detector, text_embeddings

from zsad_core.model import load_checkpoint, save_checkpoint
from zsad_training.join import main


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def checkpoint(data: Path, file: Path, seed: int = 0, **model: object) -> Path:
    """As after a training on `data`."""
    settings = small_config(data, file.parent).model_dump(mode="json", exclude={"out"}) | {"seed": seed}
    file.parent.mkdir(parents=True, exist_ok=True)
    detector = small_detector(**model)
    torch.nn.init.normal_(detector.head.text_projection.weight, std=0.02 + 0.1 * seed)
    save_checkpoint(file, detector, text_embeddings(), record() | {"settings": settings})
    return file


def test_the_threshold_comes_from_the_joined_scores(data: Path, tmp_path: Path) -> None:
    first = checkpoint(data, tmp_path / "first/best.safetensors", **SHALLOW)
    second = checkpoint(data, tmp_path / "second/best.safetensors", input_hw=(48, 64))
    out = tmp_path / "both/best.safetensors"
    assert main([str(first), str(second), "--out", str(out)]) == 0
    both = load_checkpoint(out)
    assert both.detector.second is not None
    assert both.detector.config.second == load_checkpoint(second).detector.config
    prompts = both.detector.second.head.prompt_vectors(torch.from_numpy(text_embeddings()["object"])[None])
    torch.testing.assert_close(both.detector.second_prompts, prompts)
    written = both.record
    assert 0 < written["threshold"]["value"] < 1
    assert written["threshold"] != record()["threshold"]
    assert {row["dataset"].split("/")[0] for row in written["validation"]} == {"drawn", "synthetic"}
    assert written["command"].endswith(f"python training/join.py {first} {second} --out {out}")
    assert written["second"]["settings"] == load_checkpoint(second).record["settings"]


def test_other_held_out_pictures_are_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = checkpoint(data, tmp_path / "first/best.safetensors", **SHALLOW)
    second = checkpoint(data, tmp_path / "second/best.safetensors", seed=1, **SHALLOW)
    assert main([str(first), str(second), "--out", str(tmp_path / "both.safetensors")]) == 2
    assert "seed 1), that of" in capsys.readouterr().err
    assert not (tmp_path / "both.safetensors").exists()


def test_a_method_without_text_is_refused(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = checkpoint(data, tmp_path / "first/best.safetensors", **SHALLOW)
    detector = small_detector(method="visualad")
    settings = load_checkpoint(first).record["settings"]
    save_checkpoint(tmp_path / "visualad.safetensors", detector, {}, record() | {"settings": settings})
    for given in ((first, tmp_path / "visualad.safetensors"), (tmp_path / "visualad.safetensors", first)):
        assert main([*map(str, given), "--out", str(tmp_path / "both.safetensors")]) == 2
        assert (
            "visualad.safetensors: is no checkpoint of this trainer with a method with text" in capsys.readouterr().err
        )


def test_data_sets_may_have_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = checkpoint(make_data(tmp_path / "before"), tmp_path / "first/best.safetensors", **SHALLOW)
    (tmp_path / "before").rename(tmp_path / "after")
    given = [str(first), str(first), "--out", str(tmp_path / "both/best.safetensors")]
    assert main(given) == 1
    assert f"{tmp_path / 'before'}" in capsys.readouterr().err
    assert main([*given, "--data-root", str(tmp_path / "after")]) == 0
