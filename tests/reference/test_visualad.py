"""Compares our VisualAD with the outputs of the authors' code for seeded weights and inputs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from seeded import seeded_normal, seeded_state

from zsad_core.backbones import tapped_tokens
from zsad_core.backbones.vit import import_timm
from zsad_core.heads import InsertedTokens, Target, VisualAd, VisualAdConfig

TAPS, EMBED_DIM, PATCH, NATIVE, SIDE = (2, 4, 6, 8), 128, 14, 70, 98
GRID_HW, MAP_HW = (SIDE // PATCH, SIDE // PATCH), (SIDE, SIDE)
OURS = {  # parameters of the published ViT that are in our head
    "anomaly_token": "anomaly_token",
    "normal_token": "normal_token",
    "anomaly_pos": "anomaly_position",
    "normal_pos": "normal_position",
}


def head_name(published: str) -> str:
    """`layer_attentions.layer_4.gate.0.weight` -> `cross_attn.1.gate.0.weight`; likewise the transforms."""
    attention = "layer_attentions."
    module = "cross_attn" if published.startswith(attention) else "layer_transforms"
    rest = published.removeprefix(attention)
    tap, parameter = rest.removeprefix("layer_").split(".", 1)
    return f"{module}.{TAPS.index(int(tap))}.{parameter}"


@pytest.fixture(scope="module")
def case():
    """(stored outputs, our outputs by name, our losses, parameters with gradients by published name)."""
    stored = np.load(Path(__file__).with_name("visualad.npz"))
    seed = int(stored["seed"])
    vit = import_timm().create_model(
        "vit_tiny_patch16_224",
        img_size=NATIVE,
        patch_size=PATCH,
        embed_dim=EMBED_DIM,
        depth=TAPS[-1],
        num_heads=2,
        pre_norm=True,
        act_layer="quick_gelu",
        norm_layer=torch.nn.LayerNorm,  # its eps is 1e-5
        dynamic_img_size=True,
        num_classes=0,
    )
    tower = seeded_state(stored, "vit")
    head_state = {ours: tower.pop(name).flatten() for name, ours in OURS.items()}
    tower["positional_embedding"] = tower.pop("positional_embedding_frozen")
    rename = import_timm().models.vision_transformer.checkpoint_filter_fn
    timm_state = rename({f"visual.{name}": value for name, value in tower.items()}, vit)
    vit.load_state_dict(timm_state, strict=True)
    for part in ("cross_attn", "transforms"):
        head_state |= {head_name(name): value for name, value in seeded_state(stored, part).items()}
    head = VisualAd(VisualAdConfig(embed_dim=EMBED_DIM, num_taps=len(TAPS)))
    head.load_state_dict(head_state, strict=True)
    head.eval().requires_grad_(True)  # the stored gradients include frozen parameters

    images = torch.from_numpy(seeded_normal(seed, "image", (2, 3, SIDE, SIDE)))
    tapped = tapped_tokens(vit.eval(), images, TAPS, head.inserted())
    output = head(InsertedTokens(learned=tapped[-1][:, :2], tapped=tapped, grid_hw=GRID_HW), map_hw=MAP_HW)
    mask = torch.zeros(2, *MAP_HW)
    mask[1, 12:24, 12:49] = 1
    loss = head.loss(output, Target(mask=mask, is_anomalous=torch.tensor([0, 1])))
    loss.total.backward()

    outputs = {
        "anomaly_features": tapped[-1][:, 0],
        "normal_features": tapped[-1][:, 1],
        "class_features": tapped[-1][:, 2],
        "maps": output.maps.transpose(0, 1)[:, :, ::7, ::7],
        "fused": output.fused,
        "image_score_topk": output.image_logit,
        "filtered": head.filtered(output.fused),
    }
    in_vit, in_head = dict(vit.named_parameters()), dict(head.named_parameters())
    parameters = {f"vit.{name}": in_vit[timm_name] for name, timm_name in zip(tower, timm_state, strict=True)}
    parameters |= {f"vit.{name}": in_head[ours] for name, ours in OURS.items()}
    for part in ("cross_attn", "transforms"):
        parameters |= {f"{part}.{name}": in_head[head_name(str(name))] for name in stored[f"state_names/{part}"]}
    return stored, outputs, loss, parameters


def test_outputs_match_the_published_code(case):
    stored, outputs, _, _ = case
    for name, value in outputs.items():
        np.testing.assert_allclose(value.detach().numpy(), stored[name], rtol=0, atol=1e-4, err_msg=name)


def test_losses_match_the_published_code(case):
    stored, _, loss, _ = case
    ours = {"loss_seg": loss.segmentation, "loss_cls": loss.classification, "loss_contrastive": loss.contrastive}
    for name, value in ours.items():
        np.testing.assert_allclose(value.item(), float(stored[name]), rtol=1e-4, err_msg=name)


def test_gradient_norms_match_the_published_code(case):
    stored, _, _, parameters = case
    names = [key.removeprefix("grad_norm/") for key in stored.files if key.startswith("grad_norm/")]
    assert names, "the stored case has gradient norms"
    for name in names:
        ours = parameters[name].grad.norm().item()
        # a bias before a softmax has a gradient of zero, except for rounding
        np.testing.assert_allclose(ours, float(stored[f"grad_norm/{name}"]), rtol=1e-3, atol=1e-8, err_msg=name)
