import pytest

torch = pytest.importorskip("torch")

import numpy as np
from safetensors.torch import load_file, save_file
from small_model import SHALLOW, record, small_detector, text_embeddings

from zsad_core.errors import WeightsError
from zsad_core.model import joined, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "best.safetensors"
    detector = small_detector()
    save_checkpoint(path, detector, text_embeddings(), record())
    return path, detector


def test_a_loaded_checkpoint_gives_the_outputs_of_the_saved_model(saved):
    path, detector = saved
    loaded = load_checkpoint(path)
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    text = torch.from_numpy(loaded.text_embeddings["object"]).unsqueeze(0)
    with torch.no_grad():
        for ours, theirs in zip(loaded.detector.predict(image, text), detector.predict(image, text), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert loaded.record == record()


def test_a_joined_detector_is_loaded_with_its_second_one(tmp_path):
    detector = small_detector(**SHALLOW)
    text = torch.from_numpy(text_embeddings()["object"])[None]
    both = joined(detector, small_detector(input_hw=(48, 64), **SHALLOW), detector.head.prompt_vectors(text).detach())
    save_checkpoint(tmp_path / "both.safetensors", both, text_embeddings(), record())
    loaded = load_checkpoint(tmp_path / "both.safetensors").detector
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        for ours, theirs in zip(loaded.predict(image, text), both.predict(image, text), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_missing_checkpoint_names_the_command_that_makes_one(tmp_path):
    with pytest.raises(WeightsError, match=r"no such checkpoint.*train\.py"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 500, -100])
def test_a_truncated_checkpoint_is_refused(saved, tmp_path, keep):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(saved[0].read_bytes()[:keep])
    with pytest.raises(WeightsError, match="truncated"):
        load_checkpoint(cut)


def test_another_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match="not a checkpoint of this trainer"):
        load_checkpoint(path)


def test_missing_surplus_and_misshapen_weights_are_named(saved, tmp_path):
    from safetensors import safe_open

    with safe_open(saved[0], framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(saved[0])
    del tensors["head.text_projection.weight"]
    tensors["head.surplus"] = torch.zeros(1)
    tensors["backbone.vit.norm.bias"] = torch.zeros(3)
    path = tmp_path / "altered.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert "missing: head.text_projection.weight" in text
    assert "surplus: head.surplus" in text
    assert "backbone.vit.norm.bias: expected (192,), found (3,)" in text
