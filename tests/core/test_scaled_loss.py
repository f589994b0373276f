import pytest

torch = pytest.importorskip("torch")

from zsad_core.losses import scaled  # noqa: E402
from zsad_core.matching import MatchingLoss  # noqa: E402
from zsad_core.visualad import VisualAdLoss  # noqa: E402


def loss(awareness: float, segmentation: float, global_: float, routing: float | None) -> MatchingLoss:
    parts = {"awareness": awareness, "segmentation": segmentation, "global_": global_, "routing": routing}
    return MatchingLoss(**{name: None if part is None else torch.tensor(part) for name, part in parts.items()})


@pytest.mark.parametrize(("routing", "routed"), [(None, None), (8.0, 2.0)])
def test_map_losses_are_scaled_apart_from_image_losses(routing, routed):
    found = scaled(loss(1.0, 2.0, 4.0, routing), pixel=0.5, image=0.25)
    assert found == loss(0.5, 1.0, 1.0, routed)


def test_of_visualads_losses_the_segmentation_alone_is_of_maps():
    parts = {name: torch.tensor(4.0) for name in ("segmentation", "classification", "contrastive")}
    found = scaled(VisualAdLoss(**parts), pixel=0.5, image=0.25)
    assert (found.segmentation, found.classification, found.contrastive) == (2.0, 1.0, 1.0)
    assert found.total == 4.0
