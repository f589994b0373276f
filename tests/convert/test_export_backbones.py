"""Every family of backbones in OpenVINO: rotary positions, registers, patches of 14, pyramids."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zsad_convert.export import to_openvino
from zsad_core.backbones import BackboneConfig, build_backbone
from zsad_core.model import Detector, DetectorConfig, joined
from zsad_core.openvino_offline import openvino_core

TAPS = (2, 3)  # blocks of a ViT, or levels of a pyramid; later ones are not computed, and a graph of few converts fast


@pytest.mark.parametrize(
    ("name", "input_hw", "smaller_hw"),
    [
        ("vit_small_patch16_dinov3", (64, 96), ((48, 64),)),
        ("vit_tiny_patch16_224", (64, 96), ((48, 64),)),
        ("vit_small_patch14_reg4_dinov2", (70, 98), ()),
        ("tf_efficientnet_lite0", (64, 96), ((48, 64),)),
        ("resnet18", (48, 80), ()),
    ],
)
def test_the_graph_gives_torchs_outputs(name, input_hw, smaller_hw):
    torch.manual_seed(0)
    config = BackboneConfig(name=name, input_hw=input_hw, taps=TAPS)
    settings = DetectorConfig(backbone=config, text_dim=8, hidden_dim=16, smaller_hw=smaller_hw)
    detector = Detector(settings, build_backbone(config)).eval()
    image = torch.randint(0, 256, (1, *input_hw, 3), dtype=torch.uint8)
    text = torch.randn(1, 8, 2)
    with torch.no_grad():
        anomaly_map, score = detector.predict(image, text)
        prompt = detector.head.prompt_vectors(text)[0]
    core = openvino_core()
    graph = core.compile_model(to_openvino(detector), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = graph([image.numpy(), prompt.numpy()])
    assert anomaly_map.std() > 1e-3
    np.testing.assert_allclose(answer["anomaly_map"], anomaly_map.numpy(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(answer["anomaly_score"], score.numpy(), rtol=0, atol=1e-3)


def test_visualads_graph_also_evaluates_smaller_sizes():
    torch.manual_seed(0)
    config = BackboneConfig(name="vit_tiny_patch16_224", input_hw=(64, 96), taps=TAPS, bilinear_positions=True)
    settings = DetectorConfig(method="visualad", backbone=config, smaller_hw=((48, 64),))
    detector = Detector(settings, build_backbone(config)).eval()
    image = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8)
    with torch.no_grad():
        anomaly_map, score = detector.predict(image, None)
    graph = openvino_core().compile_model(to_openvino(detector), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = graph([image.numpy()])
    np.testing.assert_allclose(answer["anomaly_map"], anomaly_map.numpy(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(answer["anomaly_score"], score.numpy(), rtol=0, atol=1e-3)


def test_a_joined_detectors_graph_computes_both():
    torch.manual_seed(0)
    detectors = []
    for name, input_hw in (("vit_tiny_patch16_224", (64, 96)), ("tf_efficientnet_lite0", (48, 64))):
        config = BackboneConfig(name=name, input_hw=input_hw, taps=TAPS)
        settings = DetectorConfig(backbone=config, text_dim=8, hidden_dim=16, map_stride=4)
        detectors.append(Detector(settings, build_backbone(config)).eval())
    image, text = torch.randint(0, 256, (1, 64, 96, 3), dtype=torch.uint8), torch.randn(1, 8, 2)
    with torch.no_grad():
        both = joined(*detectors, detectors[1].head.prompt_vectors(text))
        anomaly_map, score = both.predict(image, text)
        alone, _ = detectors[0].predict(image, text)
        prompt = both.head.prompt_vectors(text)[0]
    graph = openvino_core().compile_model(to_openvino(both), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    answer = graph([image.numpy(), prompt.numpy()])
    assert (anomaly_map - alone).abs().max() > 0.01
    np.testing.assert_allclose(answer["anomaly_map"], anomaly_map.numpy(), rtol=0, atol=1e-3)
    np.testing.assert_allclose(answer["anomaly_score"], score.numpy(), rtol=0, atol=1e-3)
