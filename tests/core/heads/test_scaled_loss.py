import pytest

torch = pytest.importorskip("torch")

from zsad_core.heads import MatchingLoss, VisualAdLoss, scaled
from zsad_core.heads.losses import segmentation_loss


def loss(awareness: float, segmentation: float, global_: float, routing: float | None) -> MatchingLoss:
    parts = {"awareness": awareness, "segmentation": segmentation, "global_": global_, "routing": routing}
    return MatchingLoss(**{name: None if part is None else torch.tensor(part) for name, part in parts.items()})


@pytest.mark.parametrize(("routing", "routed"), [(None, None), (8.0, 2.0)])
def test_map_losses_and_image_losses_are_scaled_separately(routing, routed):
    found = scaled(loss(1.0, 2.0, 4.0, routing), pixel=0.5, image=0.25)
    assert found == loss(0.5, 1.0, 1.0, routed)


def test_only_the_segmentation_loss_of_visualad_is_a_map_loss():
    parts = {name: torch.tensor(4.0) for name in ("segmentation", "classification", "contrastive")}
    found = scaled(VisualAdLoss(**parts), pixel=0.5, image=0.25)
    assert (found.segmentation, found.classification, found.contrastive) == (2.0, 1.0, 1.0)
    assert found.total == 4.0


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_half_precision_maps_have_the_losses_and_gradients_of_float32(precision):
    mask = torch.zeros(1, 518, 518)
    mask[:, :100, :100] = 1
    losses, gradients = [], []
    for dtype in (torch.float32, precision):
        logits = torch.zeros(1, 518, 518, dtype=dtype, requires_grad=True)
        p = torch.sigmoid(logits)  # the sum is 134162, more than fp16 can hold
        loss = segmentation_loss(torch.stack([1 - p, p], dim=1), mask)
        loss.backward()
        losses.append(loss.item())
        gradients.append(logits.grad.float().norm().item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert gradients[1] == pytest.approx(gradients[0], rel=0.05)  # subnormal in fp16
