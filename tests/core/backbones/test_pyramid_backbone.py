import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zsad_core.backbones import Backbone, BackboneConfig, PyramidBackbone, build_backbone
from zsad_core.backbones.pyramid import _to_grid
from zsad_core.model import Detector, DetectorConfig, load_checkpoint, save_checkpoint


@pytest.mark.parametrize(
    ("name", "taps", "embed_dim", "tapped"),
    [
        ("resnet18", None, 512, (2, 3, 4, 5)),
        ("resnet18", (2, 4), 256, (2, 4)),
        ("tf_efficientnet_lite0", None, 320, (2, 3, 4, 5)),
        ("mobilenetv3_small_100", (1, 3), 24, (1, 3)),
    ],
)
def test_a_cnn_gives_tokens_like_a_vit(name, taps, embed_dim, tapped):
    backbone = build_backbone(BackboneConfig(name=name, input_hw=(80, 112), taps=taps)).eval()
    assert isinstance(backbone, PyramidBackbone)
    assert (backbone.embed_dim, backbone.taps, backbone.grid_hw((80, 112))) == (embed_dim, tapped, (5, 7))
    with torch.no_grad():
        cls_tokens, patch_tokens = backbone(torch.randn(2, 3, 80, 112))
    assert [tuple(token.shape) for token in cls_tokens] == [(2, embed_dim)] * len(tapped)
    assert [tuple(patches.shape) for patches in patch_tokens] == [(2, 35, embed_dim)] * len(tapped)
    torch.testing.assert_close(cls_tokens[0], patch_tokens[0].mean(dim=1))


def test_a_vit_name_builds_a_vit():
    assert isinstance(build_backbone(BackboneConfig(input_hw=(32, 32))), Backbone)


def test_the_width_of_tokens_can_only_be_set_for_cnns():
    backbone = build_backbone(BackboneConfig(name="resnet18", input_hw=(64, 96), width=24)).eval()
    with torch.no_grad():
        cls_tokens, patch_tokens = backbone(torch.randn(1, 3, 64, 96))
    assert (backbone.embed_dim, cls_tokens[0].shape, patch_tokens[3].shape) == (24, (1, 24), (1, 24, 24))
    with pytest.raises(ValueError, match=r"width 24: .*tokens is fixed; leave width out"):
        build_backbone(BackboneConfig(input_hw=(32, 32), width=24))


def test_the_common_width_keeps_lengths_and_angles():
    backbone = build_backbone(BackboneConfig(name="resnet18", input_hw=(64, 96))).eval()
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = backbone.cnn.forward_intermediates(image, indices=[3], intermediates_only=True)[0]  # stride 16
        tokens = backbone(image)[1][2]
    own = features.flatten(2).transpose(1, 2)
    torch.testing.assert_close(tokens @ tokens.transpose(1, 2), own @ own.transpose(1, 2), rtol=1e-3, atol=1e-3)


def test_levels_are_averaged_or_interpolated_to_the_grid():
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    np.testing.assert_array_equal(_to_grid(fine, (2, 2))[0, 0], [[2.5, 4.5], [10.5, 12.5]])
    coarse = torch.tensor([[[[0.0, 4.0]]]])
    np.testing.assert_array_equal(_to_grid(coarse, (1, 4))[0, 0], [[0, 1, 3, 4]])
    assert _to_grid(fine, (4, 4)) is fine


def test_a_frozen_network_keeps_its_statistics_and_trains_all_or_none():
    backbone = build_backbone(BackboneConfig(name="resnet18", input_hw=(32, 32)))
    images = torch.randn(4, 3, 32, 32)
    assert backbone.trainable_blocks(0) == []
    before = backbone.cnn.bn1.running_mean.clone()
    with torch.no_grad():
        first = backbone.train()(images)[1][-1]
    torch.testing.assert_close(backbone.cnn.bn1.running_mean, before, rtol=0, atol=0)
    torch.testing.assert_close(backbone(images[:1])[1][-1], first[:1], atol=1e-4, rtol=1e-3)
    assert len(backbone.trainable_blocks(4)) == len(list(backbone.parameters()))
    backbone.train()(images)
    assert not torch.equal(backbone.cnn.bn1.running_mean, before)
    with pytest.raises(ValueError, match="2 trainable blocks: a CNN trains all, 4, or none, 0"):
        backbone.trainable_blocks(2)


def test_inputs_and_taps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(40, 64\): not a multiple of .*nearest: \(32, 64\) and \(48, 64\)"):
        build_backbone(BackboneConfig(name="resnet18", input_hw=(40, 64)))
    with pytest.raises(ValueError, match=r"taps \(2, 6\): expected increasing block numbers from 1 to 5"):
        build_backbone(BackboneConfig(name="resnet18", input_hw=(64, 64), taps=(2, 6)))


def test_a_method_that_inserts_tokens_into_a_vit_refuses_a_cnn():
    config = BackboneConfig(name="resnet18", input_hw=(32, 32))
    with pytest.raises(ValueError, match="visualad inserts its tokens into a ViT, but resnet18 is not a ViT"):
        Detector(DetectorConfig(method="visualad", backbone=config), build_backbone(config))


def test_a_head_works_with_it_and_its_checkpoint_gives_the_same_outputs(tmp_path):
    torch.manual_seed(0)
    config = BackboneConfig(name="tf_efficientnet_lite0", input_hw=(64, 96))
    detector = Detector(DetectorConfig(backbone=config, text_dim=8, hidden_dim=16), build_backbone(config)).eval()
    save_checkpoint(tmp_path / "a.safetensors", detector, {}, {})
    loaded = load_checkpoint(tmp_path / "a.safetensors").detector
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    text = torch.randn(1, 8, 2)
    with torch.no_grad():
        anomaly_map, score = detector.predict(image, text)
        torch.testing.assert_close(loaded.predict(image, text), (anomaly_map, score))
    assert anomaly_map.shape == (1, 64, 96)
