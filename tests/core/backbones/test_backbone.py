import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zsad_core.backbones import Backbone, BackboneConfig, standardise_patches
from zsad_core.backbones.vit import evenly_spaced_taps
from zsad_core.errors import WeightsError
from zsad_core.heads import AvaDino, AvaDinoConfig
from zsad_core.heads.matching import to_grid
from zsad_training.config import ModelSpec


@pytest.mark.parametrize(
    ("name", "input_hw", "grid_hw", "prefix_tokens"),
    [
        ("vit_tiny_patch16_224", (64, 96), (4, 6), 1),
        ("vit_small_patch16_dinov3", (96, 64), (6, 4), 5),  # class token and four registers
        ("vit_small_patch14_dinov2", (70, 98), (5, 7), 1),
        ("vit_small_patch14_reg4_dinov2", (70, 98), (5, 7), 5),
        ("vit_base_patch32_clip_224", (64, 96), (2, 3), 1),
    ],
)
def test_vit_tokens_at_sizes_that_are_not_square(name, input_hw, grid_hw, prefix_tokens):
    backbone = Backbone(BackboneConfig(name=name, input_hw=input_hw)).eval()
    assert backbone.vit.num_prefix_tokens == prefix_tokens
    assert backbone.taps == (3, 6, 9, 12)
    assert backbone.grid_hw(input_hw) == grid_hw
    with torch.no_grad():
        cls_tokens, patch_tokens = backbone(torch.randn(2, 3, *input_hw))
    assert [tuple(token.shape) for token in cls_tokens] == [(2, backbone.embed_dim)] * 4
    assert [tuple(patches.shape) for patches in patch_tokens] == [(2, grid_hw[0] * grid_hw[1], backbone.embed_dim)] * 4


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vit_tiny_patch16_224", 64),
        ("vit_small_patch16_dinov3", 64),
        ("vit_small_patch14_reg4_dinov2", 70),
        ("vit_base_patch32_clip_224", 64),
    ],
)
def test_the_last_tap_equals_the_models_output(name, side):
    backbone = Backbone(BackboneConfig(name=name, input_hw=(side, side))).eval()
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        cls_tokens, patch_tokens = backbone(image)
        tokens = backbone.vit.forward_features(image)
    torch.testing.assert_close(cls_tokens[-1], tokens[:, 0])
    torch.testing.assert_close(patch_tokens[-1], tokens[:, backbone.vit.num_prefix_tokens :])


@pytest.mark.parametrize(("depth", "taps"), [(24, (6, 12, 18, 24)), (12, (3, 6, 9, 12)), (32, (8, 16, 24, 32))])
def test_taps_are_evenly_spaced(depth, taps):
    assert evenly_spaced_taps(depth) == taps


@pytest.mark.parametrize("taps", [(0, 3), (6, 3), (3, 3), (3, 13)])
def test_taps_that_do_not_fit_are_refused(taps):
    with pytest.raises(ValueError):
        Backbone(BackboneConfig.model_construct(name="vit_tiny_patch16_224", input_hw=(64, 64), taps=taps))


@pytest.mark.parametrize(
    ("name", "input_hw", "nearest"),
    [
        ("vit_tiny_patch16_224", (64, 70), r"\(64, 64\) and \(64, 80\)"),
        ("vit_small_patch14_dinov2", (512, 512), r"\(504, 504\) and \(518, 518\)"),
    ],
)
def test_an_input_that_is_not_a_multiple_of_the_patch_is_refused_with_valid_sizes(name, input_hw, nearest):
    with pytest.raises(ValueError, match=rf"not a multiple of the patch size .*; nearest: {nearest}"):
        Backbone(BackboneConfig(name=name, input_hw=input_hw))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("vit_tiny_patch16_224", 384),
        ("vit_large_patch16_dinov3", 512),
        ("vit_base_patch14_dinov2", 518),
        ("vit_large_patch14_clip_336", 518),
    ],
)
def test_the_default_input_is_the_methods_size(name, side):
    assert BackboneConfig(name=name).input_hw == (side, side)
    assert BackboneConfig(name=name, input_hw=(28, 56)).input_hw == (28, 56)
    assert ModelSpec(backbone=name).input_hw == (side, side)


def test_an_unknown_model_a_missing_file_and_wrong_weights_have_different_errors(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(WeightsError, match="has no model 'vit_enormous'"):
        Backbone(BackboneConfig(name="vit_enormous"))
    with pytest.raises(WeightsError, match="no such weights file"):
        Backbone(BackboneConfig(), weights=tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(
        WeightsError, match=r"foreign\.safetensors: weights do not fit vit_tiny.*missing: .*; surplus: a"
    ):
        Backbone(BackboneConfig(), weights=tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="ViT"):
        Backbone(BackboneConfig(name="resnet18"))


def test_fixed_and_any_size_backbones_have_the_same_state_and_outputs():
    any_size = Backbone(BackboneConfig(input_hw=(64, 96))).eval()
    fixed = Backbone(BackboneConfig(input_hw=(64, 96)), any_size=False).eval()
    fixed.load_state_dict(any_size.state_dict())
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(any_size(image)[1][-1], fixed(image)[1][-1], atol=2e-5, rtol=1e-4)
        any_size(torch.randn(1, 3, 32, 48))  # only this one accepts another size


def test_patches_are_standardised_per_image_and_channel():
    patches = standardise_patches(torch.randn(2, 30, 5) * 7 + 3)
    torch.testing.assert_close(patches.mean(dim=1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(patches.std(dim=1), torch.ones(2, 5), atol=1e-4, rtol=0)


def test_tokens_are_placed_correctly_in_the_grid():
    tokens = torch.arange(6.0).view(1, 6, 1)
    np.testing.assert_array_equal(to_grid(tokens, (2, 3))[0, 0], [[0, 1, 2], [3, 4, 5]])


def test_stacked_text_separates_normal_and_anomalous_and_interleaved_text_mixes_them():
    torch.manual_seed(0)
    stacked = AvaDino(AvaDinoConfig(embed_dim=8, text_dim=6, num_taps=1, hidden_dim=4))
    mixed = AvaDino(AvaDinoConfig(embed_dim=8, text_dim=6, num_taps=1, hidden_dim=4, interleave_text=True))
    mixed.load_state_dict(stacked.state_dict())
    text = torch.randn(1, 6, 2)
    other_normal = text.clone()
    other_normal[..., 0] = torch.randn(6)
    anomalous = (0, 1, 1)  # image, matching vector, class
    with torch.no_grad():
        for head, stays in ((stacked, True), (mixed, False)):
            before, after = head.prompt_vectors(text)[anomalous], head.prompt_vectors(other_normal)[anomalous]
            assert torch.equal(before, after) is stays
