import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from zsad_core.heads import TOP_FRACTION, InsertedTokens, Target, VisualAd, VisualAdConfig, VisualAdOutput, top_mean
from zsad_core.heads.visualad import gaussian_blur

DIM, TAPS, GRID_HW, MAP_HW = 16, 3, (3, 5), (12, 20)


def small_head(**settings) -> VisualAd:
    torch.manual_seed(1)
    return VisualAd(VisualAdConfig(embed_dim=DIM, num_taps=TAPS, **settings)).eval()


def drawn_tokens(batch: int = 3, prefix: int = 5) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(2)
    tapped = [torch.randn(batch, 2 + prefix + math.prod(GRID_HW), DIM) for _ in range(TAPS)]
    return tapped[-1][:, :2], tapped


def given(learned: torch.Tensor, tapped: list[torch.Tensor], grid_hw: tuple[int, int] = GRID_HW) -> InsertedTokens:
    return InsertedTokens(learned=learned, tapped=tapped, grid_hw=grid_hw)


def loss_of(output, mask, is_anomalous, has_pixel_truth=None):
    target = Target(mask=mask, is_anomalous=is_anomalous, has_pixel_truth=has_pixel_truth)
    return small_head().loss(output, target)


def test_maps_of_a_non_square_grid_and_the_logit_of_their_sum():
    learned, tapped = drawn_tokens()
    output = small_head()(given(learned, tapped), map_hw=MAP_HW)
    assert output.maps.shape == (3, TAPS, *MAP_HW)
    assert output.anomaly_features.shape == output.normal_features.shape == (3, TAPS, DIM)
    torch.testing.assert_close(output.fused, output.maps.sum(dim=1))
    highest = output.fused.flatten(1).sort(dim=1, descending=True).values[:, :3].mean(dim=1)  # 1 % of 240, rounded up
    torch.testing.assert_close(output.image_logit, highest)


def test_the_score_does_not_depend_on_other_images_in_the_batch():
    head = small_head()
    learned, tapped = drawn_tokens()
    together = head(given(learned, tapped), map_hw=MAP_HW)
    order = torch.tensor([2, 0, 1])
    shuffled = head(given(learned[order], [tokens[order] for tokens in tapped]), map_hw=MAP_HW)
    torch.testing.assert_close(shuffled.fused, together.fused[order])
    alone = head(given(learned[1:2], [tokens[1:2] for tokens in tapped]), map_hw=MAP_HW)
    torch.testing.assert_close(alone.fused, together.fused[1:2])
    torch.testing.assert_close(alone.image_logit, together.image_logit[1:2])


def test_prefix_tokens_of_the_backbone_do_not_reach_the_map():
    head = small_head()
    learned, tapped = drawn_tokens()
    changed = [tokens.clone() for tokens in tapped]
    for tokens in changed:
        tokens[:, 2:7] = 100
    before = head(given(learned, tapped), map_hw=MAP_HW)
    torch.testing.assert_close(head(given(learned, changed), map_hw=MAP_HW).fused, before.fused)


def test_swapping_the_two_tokens_inverts_the_map():
    head = small_head()
    learned, tapped = drawn_tokens()
    before = head(given(learned, tapped), map_hw=MAP_HW)
    swapped = head(given(learned.flip(1), tapped), map_hw=MAP_HW)
    torch.testing.assert_close(swapped.fused, -before.fused)


def test_a_patch_near_the_anomaly_token_is_anomalous_and_one_near_the_normal_token_is_not():
    head = small_head()
    with torch.no_grad():
        for attend, align in zip(head.cross_attn, head.layer_transforms, strict=True):
            attend.res_scale.zero_()  # the tokens stay as they are
            align.mlp[0].weight.copy_(torch.eye(DIM))
            align.mlp[3].weight.copy_(torch.eye(DIM))
            align.mlp[0].bias.fill_(20)  # at this value GELU is the identity
            align.mlp[3].bias.fill_(-20)
    learned = torch.zeros(1, 2, DIM)
    learned[0, 0, 0] = learned[0, 1, 1] = 2.0  # two orthogonal directions
    tokens = torch.zeros(1, 2 + 2, DIM)
    tokens[0, 2, 0] = tokens[0, 3, 1] = 3.0
    output = head(given(learned, [tokens] * TAPS, (1, 2)), map_hw=(1, 2))
    torch.testing.assert_close(output.maps[0, 0], torch.tensor([[1.0, -1.0]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.fused[0], torch.tensor([[TAPS * 1.0, -TAPS * 1.0]]), atol=1e-5, rtol=0)


def test_more_patches_than_positions_are_refused():
    learned, tapped = drawn_tokens()
    with pytest.raises(ValueError, match="15 patches, SCA has 14 positions"):
        small_head(max_positions=14)(given(learned, tapped), map_hw=MAP_HW)


def test_positions_are_frozen_and_added_to_the_tokens():
    head = small_head()
    position = torch.arange(DIM, dtype=torch.float32)
    head.place(position)
    torch.testing.assert_close(head.inserted()[0], head.anomaly_token + position)
    torch.testing.assert_close(head.inserted()[1], head.normal_token + position)
    frozen = {name for name, parameter in head.named_parameters() if not parameter.requires_grad}
    assert frozen == {"anomaly_position", "normal_position"}


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 1), 1), ((10, 10), 1), ((10, 11), 2), ((98, 98), 97)]
)  # a hundredth, rounded up
def test_the_logit_is_the_mean_of_the_highest_hundredth(shape, count):
    values = torch.arange(float(math.prod(shape)))
    shuffled = values[torch.randperm(len(values))].view(1, *shape)
    torch.testing.assert_close(top_mean(shuffled, TOP_FRACTION), values[-count:].mean().view(1))


@pytest.mark.parametrize(("shape", "sigma"), [((1, 1), 4.0), ((5, 40), 4.0), ((30, 23), 1.5)])
def test_the_blur_equals_scipys(shape, sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    maps = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    expected = np.stack([ndimage.gaussian_filter(one, sigma=sigma) for one in maps])
    np.testing.assert_allclose(gaussian_blur(torch.from_numpy(maps), sigma).numpy(), expected, atol=1e-6)


def test_zero_blur_does_not_change_the_map():
    maps = torch.randn(1, 4, 4)
    assert torch.equal(small_head(blur_sigma=0.0).filtered(maps), maps)


def hand_made_output(maps: torch.Tensor, cosine: float) -> VisualAdOutput:
    """Output with maps [B, L, H, W] and tokens with a given cosine at the last tap; at the first they are equal."""
    batch = len(maps)
    anomaly = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(batch, 2, 2)
    normal = torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]]).expand(batch, 2, 2)
    fused = maps.sum(dim=1)
    return VisualAdOutput(
        anomaly_features=anomaly,
        normal_features=normal,
        maps=maps,
        fused=fused,
        image_logit=top_mean(fused, TOP_FRACTION),
    )


def test_losses_equal_hand_computed_values():
    maps = torch.zeros(1, 2, 1, 2)  # sigmoid 0.5 everywhere
    loss = loss_of(hand_made_output(maps, cosine=0.3), torch.tensor([[[0.0, 1.0]]]), torch.tensor([1]))
    focal = 0.25 * math.log(2)  # (1 - 0.5)^2 * -log 0.5
    dice = 1 - (2 * 0.5 + 1) / (1 + 1 + 1)
    assert loss.segmentation.item() == pytest.approx(2 * (focal + dice), abs=1e-4)  # except for the smoothing of 1e-5
    assert loss.classification.item() == pytest.approx(math.log(2))
    assert loss.contrastive.item() == pytest.approx(0.8)
    assert loss.total.item() == pytest.approx(2 * (focal + dice) + math.log(2) + 0.8, abs=1e-4)


def test_distant_tokens_have_no_contrastive_loss():
    loss = loss_of(hand_made_output(torch.zeros(1, 2, 1, 2), -0.6), torch.zeros(1, 1, 2), torch.tensor([0]))
    assert loss.contrastive.item() == 0


def test_images_without_pixel_truth_count_only_in_the_image_losses():
    torch.manual_seed(0)
    maps, mask, label = torch.randn(3, 2, 4, 4), torch.zeros(3, 4, 4), torch.tensor([1, 0, 1])
    mask[0, 1:3] = 1
    whole = loss_of(hand_made_output(maps, 0.1), mask, label)
    kept = torch.tensor([True, True, False])
    some = loss_of(hand_made_output(maps, 0.1), mask, label, kept)
    first_two = loss_of(hand_made_output(maps[:2], 0.1), mask[:2], label[:2])
    torch.testing.assert_close(some.segmentation, first_two.segmentation)
    torch.testing.assert_close(some.classification, whole.classification)
    none = loss_of(hand_made_output(maps, 0.1), mask, label, torch.zeros(3, dtype=torch.bool))
    assert none.segmentation.item() == 0
    assert torch.isfinite(none.total)
