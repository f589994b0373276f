from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file
from small_model import TEXT_DIM, record, small_detector, text_embeddings

from zsad_core.errors import WeightsError
from zsad_core.model import save_checkpoint
from zsad_training.config import ModelSpec, TrainConfig
from zsad_training.run import build_detector
from zsad_training.train import warn_of_known_validation

HW = (64, 96)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """(backbone weights file, checkpoint of a detector whose backbone weights are higher by 1, weights of its head)."""
    folder = tmp_path_factory.mktemp("start")
    tuned = small_detector(HW)
    save_file(tuned.backbone.vit.state_dict(), folder / "original.safetensors")
    with torch.no_grad():
        for parameter in tuned.backbone.parameters():
            parameter += 1
    save_checkpoint(folder / "tuned.safetensors", tuned, text_embeddings(), record())
    return folder / "original.safetensors", folder / "tuned.safetensors", tuned.head.state_dict()


def spec(files, **changes: object) -> ModelSpec:
    known = {"weights": files[0], "input_hw": HW, "taps": (2, 4, 6, 8), "hidden_dim": 16, "start": files[1]}
    return ModelSpec.model_validate(known | changes)


def test_a_run_from_a_checkpoint_starts_with_all_its_weights(files):
    detector, earlier = build_detector(spec(files), text_dim=TEXT_DIM, plain=True)
    for name, value in small_detector(HW).backbone.state_dict().items():
        torch.testing.assert_close(detector.backbone.state_dict()[name], value + 1)
    for name, value in files[2].items():
        torch.testing.assert_close(detector.head.state_dict()[name], value, rtol=0, atol=0)
    assert earlier == record()


def test_a_new_run_has_no_earlier_record_and_names_its_weights(files, caplog):
    detector, earlier = build_detector(spec(files, start=None), text_dim=TEXT_DIM, plain=False)
    assert earlier is None
    assert detector.config.backbone_weights == "original.safetensors"
    assert "RANDOM" not in caplog.text


@pytest.mark.parametrize(("changes", "warned"), [({"start": None}, True), ({}, False)])
def test_random_weights_are_used_with_a_warning_only(files, caplog, changes, warned):
    build_detector(spec(files, weights=None, **changes), text_dim=TEXT_DIM, plain=False)
    assert ("vit_tiny_patch16_224 starts from RANDOM weights" in caplog.text) is warned
    assert ("--weights" in caplog.text) is warned


def test_a_run_from_a_checkpoint_names_the_original_weights(files, tmp_path):
    first, _ = build_detector(spec(files, start=None), text_dim=TEXT_DIM, plain=False)
    save_checkpoint(tmp_path / "first.safetensors", first, text_embeddings(), record())
    then, _ = build_detector(
        spec(files, weights=None, start=tmp_path / "first.safetensors"), text_dim=TEXT_DIM, plain=True
    )
    assert then.config.backbone_weights == "original.safetensors"


def test_a_checkpoint_that_may_know_validation_images_is_named(files, caplog):
    config = TrainConfig(datasets=({"path": Path("plates")},), out=Path("out"), seed=1)
    for seed, trained_on, warns in ((1, ["plates"], False), (2, ["cups"], False), (2, ["plates"], True)):
        settings = config.model_copy(update={"seed": seed}).model_dump(mode="json")
        warn_of_known_validation(Path("first.safetensors"), {"settings": settings, "trained_on": trained_on}, config)
        assert ("it may know validation images" in caplog.text) == warns


def test_a_checkpoint_with_other_shapes_is_refused(files):
    with pytest.raises(WeightsError, match="do not fit the model"):
        build_detector(spec(files, hidden_dim=8), text_dim=TEXT_DIM, plain=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "visualad", "weights": None}, "has the method ava_dino, the run visualad: set --method ava_dino"),
        ({"backbone": "vit_small_patch16_224", "weights": None}, "set --backbone vit_tiny_patch16_224"),
        ({"taps": (1, 4, 6, 8)}, "has the taps"),
        ({"text_encoder": "open_clip:ViT-B-32"}, "set --text-encoder minilm"),
    ],
)
def test_a_checkpoint_of_another_method_or_backbone_names_the_flag_to_set(files, changes, said):
    with pytest.raises(WeightsError, match=said):
        build_detector(spec(files, **changes), text_dim=TEXT_DIM, plain=False)


@pytest.mark.parametrize(("side", "positions"), [(64, 1536), (640, 1600)])
def test_visualads_positions_grow_with_an_input_larger_than_the_papers(files, side, positions):
    detector, _ = build_detector(
        spec(files, method="visualad", weights=None, start=None, input_hw=(side, side)), text_dim=1, plain=False
    )
    assert detector.head.cross_attn[0].pos_encoding.shape[1] == positions


def test_a_run_may_start_from_a_cnns_checkpoint(tmp_path):
    known = {"backbone": "tf_efficientnet_lite0", "input_hw": (64, 64), "width": 16, "hidden_dim": 16}
    tuned, _ = build_detector(ModelSpec.model_validate(known), text_dim=TEXT_DIM, plain=False)
    save_checkpoint(tmp_path / "tuned.safetensors", tuned, text_embeddings(), record())
    start = ModelSpec.model_validate(known | {"start": tmp_path / "tuned.safetensors"})
    detector, _ = build_detector(start, text_dim=TEXT_DIM, plain=False)
    torch.testing.assert_close(detector.state_dict(), tuned.state_dict(), rtol=0, atol=0)
