"""Compares AVA-DINO and AD-DINOv3 with the outputs of the authors' code for seeded weights and inputs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from seeded import seeded_normal, seeded_state

from zsad_core.heads import AdDinoV3, AvaDino, AvaDinoConfig, MatchingConfig, Target, Tokens

TAPS, EMBED_DIM, TEXT_DIM, GRID_HW, MAP_HW = 4, 1024, 768, (32, 32), (512, 512)
WIDTHS = {"embed_dim": EMBED_DIM, "text_dim": TEXT_DIM, "num_taps": TAPS, "interleave_text": True}


@dataclass(frozen=True, kw_only=True)
class Case:
    stored: Any  # outputs of the authors' code
    output: Any
    loss: Any
    model: Any  # after backward


def build(method: str):
    if method == "ava_dino":
        return AvaDino(AvaDinoConfig(**WIDTHS, hidden_dim=768))
    return AdDinoV3(MatchingConfig(**WIDTHS))


@pytest.fixture(scope="module", params=["ava_dino", "ad_dinov3"])
def case(request: pytest.FixtureRequest) -> Case:
    stored = np.load(Path(__file__).with_name(f"{request.param}.npz"))
    seed = int(stored["seed"])
    model = build(request.param)
    model.load_state_dict(seeded_state(stored), strict=True)
    tokens = Tokens(
        cls_tokens=[torch.from_numpy(seeded_normal(seed, f"cls{i}", (2, 1, EMBED_DIM)))[:, 0] for i in range(TAPS)],
        patch_tokens=[torch.from_numpy(seeded_normal(seed, f"patch{i}", (2, 1024, EMBED_DIM))) for i in range(TAPS)],
        grid_hw=GRID_HW,
    )
    text = torch.from_numpy(seeded_normal(seed, "text", (2, TEXT_DIM, 2)))
    text = text / text.norm(dim=1, keepdim=True)
    mask = torch.zeros(2, *MAP_HW)
    mask[1, 64:128, 64:256] = 1
    output = model(tokens, text, map_hw=MAP_HW)
    loss = model.loss(output, Target(mask=mask, is_anomalous=torch.tensor([0, 1])))
    loss.total.backward()
    return Case(stored=stored, output=output, loss=loss, model=model)


def test_outputs_match_the_published_code(case: Case):
    output = case.output
    ours = {
        "awareness": output.awareness[:, :, ::8, ::8],
        "cross_modal": output.cross_modal[:, :, ::8, ::8],
        "global_score": output.global_score,
        "image_score": output.cross_modal[:, 1].amax(dim=(1, 2)),
    }
    if "w_normal" in case.stored:
        ours |= {"w_normal": output.routing[:, 0], "w_anomaly": output.routing[:, 1]}
    for name, value in ours.items():
        stored = case.stored[name]
        ours_shaped = value.detach().numpy().reshape(stored.shape)  # AD-DINOv3's code keeps an axis of size 1
        np.testing.assert_allclose(ours_shaped, stored, rtol=0, atol=1e-4, err_msg=name)


def test_losses_match_the_published_code(case: Case):
    loss = case.loss
    ours = {
        "loss_awareness": loss.awareness,
        "loss_seg": loss.segmentation,
        "loss_global": loss.global_,
        "loss_routing": loss.routing if loss.routing is not None else torch.tensor(float("nan")),
        "loss_total": loss.total,
    }
    for name, value in ours.items():
        np.testing.assert_allclose(value.item(), float(case.stored[name]), rtol=1e-4, err_msg=name)


def test_gradient_norms_match_the_published_code(case: Case):
    names = [key.removeprefix("grad_norm/") for key in case.stored.files if key.startswith("grad_norm/")]
    parameters = dict(case.model.named_parameters())
    assert names, "the stored case has gradient norms"
    for name in names:
        ours = parameters[name].grad.norm().item()
        np.testing.assert_allclose(ours, float(case.stored[f"grad_norm/{name}"]), rtol=1e-3, err_msg=name)
    assert {name for name, p in parameters.items() if p.grad is not None} == set(names)
