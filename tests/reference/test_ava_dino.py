"""Our AVA-DINO against what the authors' code answered on seeded weights and inputs."""

import zlib
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zsad_core.ava_dino import AvaDino, AvaDinoConfig  # noqa: E402
from zsad_core.losses import ava_dino_loss  # noqa: E402

TAPS, EMBED_DIM, TEXT_DIM, GRID_HW, MAP_HW = 4, 1024, 768, (32, 32), (512, 512)


def seeded_normal(seed: int, name: str, shape: tuple[int, ...], std: float = 1.0, mean: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return (mean + std * rng.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def case(reference_dir: Path):
    """(stored answers, our outputs, our losses, our model after backward)."""
    file = reference_dir / "ava_dino.npz"
    if not file.is_file():
        pytest.skip(f"{file} is absent; name the folder of the reference cases with --reference-dir")
    stored = np.load(file)
    seed = int(stored["seed"])
    model = AvaDino(
        AvaDinoConfig(embed_dim=EMBED_DIM, text_dim=TEXT_DIM, num_taps=TAPS, hidden_dim=768, interleave_text=True)
    )
    state = {}
    for name, shape_text in zip(stored["state_names"], stored["state_shapes"], strict=True):
        shape = tuple(int(side) for side in str(shape_text).strip("()").split(",") if side.strip())
        fan_in = int(np.prod(shape[1:]))
        state[str(name)] = torch.from_numpy(seeded_normal(seed, str(name), shape, std=fan_in**-0.5))
    model.load_state_dict(state, strict=True)
    cls_tokens = [torch.from_numpy(seeded_normal(seed, f"cls{i}", (2, 1, EMBED_DIM)))[:, 0] for i in range(TAPS)]
    patches = [torch.from_numpy(seeded_normal(seed, f"patch{i}", (2, 1024, EMBED_DIM))) for i in range(TAPS)]
    text = torch.from_numpy(seeded_normal(seed, "text", (2, TEXT_DIM, 2)))
    text = text / text.norm(dim=1, keepdim=True)
    mask = torch.zeros(2, *MAP_HW)
    mask[1, 64:128, 64:256] = 1
    output = model(cls_tokens, patches, text, grid_hw=GRID_HW, map_hw=MAP_HW)
    loss = ava_dino_loss(output, mask, torch.tensor([0, 1]))
    loss.total.backward()
    return stored, output, loss, model


def test_outputs_match_the_published_code(case):
    stored, output, _, _ = case
    ours = {
        "w_normal": output.routing[:, 0],
        "w_anomaly": output.routing[:, 1],
        "awareness": output.awareness[:, :, ::8, ::8],
        "cross_modal": output.cross_modal[:, :, ::8, ::8],
        "global_score": output.global_score,
        "image_score": output.cross_modal[:, 1].amax(dim=(1, 2)),
    }
    for name, value in ours.items():
        np.testing.assert_allclose(value.detach().numpy(), stored[name], rtol=0, atol=1e-4, err_msg=name)


def test_losses_match_the_published_code(case):
    stored, _, loss, _ = case
    ours = {
        "loss_awareness": loss.awareness,
        "loss_seg": loss.segmentation,
        "loss_global": loss.global_,
        "loss_routing": loss.routing,
        "loss_total": loss.total,
    }
    for name, value in ours.items():
        np.testing.assert_allclose(value.item(), float(stored[name]), rtol=1e-4, err_msg=name)


def test_gradient_norms_match_the_published_code(case):
    stored, _, _, model = case
    names = [key.removeprefix("grad_norm/") for key in stored.files if key.startswith("grad_norm/")]
    parameters = dict(model.named_parameters())
    assert names, "the stored case has gradient norms"
    for name in names:
        ours = parameters[name].grad.norm().item()
        np.testing.assert_allclose(ours, float(stored[f"grad_norm/{name}"]), rtol=1e-3, err_msg=name)
    assert {name for name, p in parameters.items() if p.grad is not None} == set(names)
