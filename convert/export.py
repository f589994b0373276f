"""Converts a detector to OpenVINO IR."""

import copy
import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsad_core.backbones import AnyBackbone, build_backbone, plain_attention, take_size
from zsad_core.model import Detector, DeviceGraph
from zsad_core.openvino_offline import import_openvino

logger = logging.getLogger(__name__)


def to_openvino(detector: Detector) -> Any:
    """The detector's `DeviceGraph` as a static OpenVINO model.

    Inputs: `image` uint8 [1, H, W, 3]; for a method with text also `prompt` float32 [K, 2, M].
    Outputs: `anomaly_map` [1, H, W] and `anomaly_score` [1].
    """
    ov = import_openvino()
    from openvino.tools.ovc import convert_model

    static = _of_fixed_sizes(detector)
    height, width = detector.config.backbone.input_hw
    image = torch.zeros((1, height, width, 3), dtype=torch.uint8)
    example, ports = {"image": image}, [("image", image.shape, ov.Type.u8)]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # sizes are meant to be constants here
        if static.needs_text:
            prompt = static.head.prompt_vectors(torch.zeros((1, static.config.text_dim, 2)))[0]
            example["prompt"] = prompt
            ports.append(("prompt", prompt.shape, ov.Type.f32))
        model = convert_model(DeviceGraph(static).eval(), example_input=example, input=ports)
    for output, name in zip(model.outputs, ("anomaly_map", "anomaly_score"), strict=True):
        output.get_tensor().set_names({name})
    return model


def _of_fixed_sizes(detector: Detector) -> Detector:
    """A copy of the detector for its own input sizes only, so that the graph does not resample position embeddings.

    A method without text resamples them at run time, bilinearly: the graph gives the same result as torch. timm's
    bicubic resampling would give a different one.
    """
    config = detector.config
    with plain_attention(True):
        any_size = bool(config.smaller_hw) and not detector.needs_text
        fixed = Detector(config, build_backbone(config.backbone, any_size=any_size))
        fixed.load_state_dict(detector.state_dict())
        if config.smaller_hw and not any_size:
            fixed.backbone = _OfSizes(fixed.backbone, config.smaller_hw)  # type: ignore[assignment]
    return fixed.eval()


class _OfSizes(nn.Module):
    """A backbone and its copies for smaller input sizes. OpenVINO stores equal weights only once."""

    def __init__(self, backbone: AnyBackbone, smaller_hw: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.grid_hw = backbone.grid_hw
        self._sizes = (backbone.config.input_hw, *smaller_hw)
        copies = [copy.deepcopy(backbone) for _ in smaller_hw]
        for one, size_hw in zip(copies, smaller_hw, strict=True):
            take_size(one, size_hw)
        self.backbones = nn.ModuleList([backbone, *copies])

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        of_size = self._sizes.index((int(images.shape[2]), int(images.shape[3])))
        return self.backbones[of_size](images)


def prompt_arrays(head: Any, text: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Product -> float32 [K, 2, M] for the graph's `prompt`, from text embeddings [T, 2]; empty without text."""
    if not head.needs_text:
        return {}
    with torch.no_grad():
        return {
            product: head.prompt_vectors(torch.from_numpy(embedding).unsqueeze(0))[0].contiguous().numpy()
            for product, embedding in text.items()
        }
