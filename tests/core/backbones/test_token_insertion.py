import pytest

torch = pytest.importorskip("torch")

from zsad_core.backbones import class_position, tapped_tokens
from zsad_core.backbones.token_insertion import resize_positions
from zsad_core.backbones.vit import import_timm
from zsad_core.errors import WeightsError

# name, patch size, prefix tokens; the models are made small below
FAMILIES = [
    ("vit_tiny_patch16_224", 16, 1),
    ("vit_small_patch14_dinov2", 14, 1),
    ("vit_small_patch14_reg4_dinov2", 14, 5),
    ("vit_large_patch14_clip_quickgelu_336", 14, 1),
    ("vit_small_patch16_dinov3", 16, 5),
    ("vit_small_patch16_rope_mixed_ape_224", 16, 1),  # rotations that differ from block to block
]
DIM = 48


def small_vit(name: str, input_hw: tuple[int, int] = (112, 112), **options):
    torch.manual_seed(3)
    options = {"depth": 3, "embed_dim": DIM, "num_heads": 3, "num_classes": 0, "dynamic_img_size": True} | options
    vit = import_timm().create_model(name, img_size=input_hw, **options).eval()
    with torch.no_grad():  # initial layer scales and class tokens would hide a fault in a block
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vit.requires_grad_(False)


@pytest.mark.parametrize(("name", "patch", "prefix"), FAMILIES)
def test_without_inserted_tokens_the_outputs_are_those_of_the_model(name, patch, prefix):
    vit = small_vit(name, (4 * patch, 6 * patch))
    images = torch.randn(2, 3, 4 * patch, 6 * patch)
    ours = tapped_tokens(vit, images, (1, 3), torch.zeros(0, DIM))
    theirs = vit.forward_intermediates(
        images, indices=[0, 2], return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    for tokens, (patches, prefix_tokens) in zip(ours, theirs, strict=True):
        assert prefix_tokens.shape[1] == prefix
        torch.testing.assert_close(tokens, torch.cat([prefix_tokens, patches], dim=1))


@pytest.mark.parametrize(("name", "patch", "prefix"), FAMILIES)
def test_inserted_tokens_affect_all_tokens_and_get_gradients_through_frozen_blocks(name, patch, prefix):
    vit = small_vit(name)
    images = torch.randn(2, 3, 4 * patch, 6 * patch)  # neither the model's size nor square
    inserted = torch.randn(2, DIM, requires_grad=True)
    first, last = tapped_tokens(vit, images, (1, 3), inserted)
    assert first.shape == last.shape == (2, 2 + prefix + 4 * 6, DIM)
    last[:, -1].square().sum().backward()  # only the last patch
    assert (inserted.grad.abs().sum(dim=1) > 0).all()
    assert all(parameter.grad is None for parameter in vit.parameters())


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_rope_mixed_ape_224"])
def test_rotary_positions_stay_with_their_patches(name):
    """An inserted token that gets no attention does not change the other tokens."""
    vit = small_vit(name)
    images = torch.randn(1, 3, 64, 96)
    alone = tapped_tokens(vit, images, (3,), torch.zeros(0, DIM))[0]
    for block in vit.blocks:  # the inserted token gets attention scores of -1000 or less from every query
        block.attn.forward = _without_first_token(block.attn)
    beside = tapped_tokens(vit, images, (3,), torch.randn(1, DIM))[0]
    torch.testing.assert_close(beside[:, 1:], alone, atol=1e-5, rtol=1e-4)


def _without_first_token(attention):
    original = type(attention).forward

    def forward(tokens, **options):
        mask = torch.zeros(1, 1, tokens.shape[1], tokens.shape[1])
        mask[..., 0] = float("-inf")
        return original(attention, tokens, **(options | {"attn_mask": mask}))

    return forward


def test_the_model_is_unchanged_after_tokens_were_inserted():
    vit = small_vit("vit_small_patch16_dinov3")
    images = torch.randn(1, 3, 64, 96)
    before = vit.forward_features(images)
    tapped_tokens(vit, images, (1, 3), torch.randn(2, DIM))
    assert torch.equal(vit.forward_features(images), before)


def test_patch_positions_are_resized_bilinearly_per_pass_or_permanently():
    vit = small_vit("vit_tiny_patch16_224", (32, 32), embed_dim=3, num_heads=1)
    table = torch.tensor([9.0, 0, 1, 2, 3]).view(1, 5, 1).expand(1, 5, 3)  # class, then a 2 x 2 grid
    with torch.no_grad():
        vit.pos_embed.copy_(table)
    images = torch.randn(1, 3, 32, 64)
    in_passing = tapped_tokens(vit, images, (3,), torch.ones(2, 3))[0]
    resize_positions(vit, (32, 64))
    expected = torch.tensor([9, 0, 0.25, 0.75, 1, 2, 2.25, 2.75, 3])  # by hand: corners not aligned, edges repeated
    torch.testing.assert_close(vit.pos_embed[0, :, 0], expected)
    assert not vit.pos_embed.requires_grad
    assert torch.equal(tapped_tokens(vit, images, (3,), torch.ones(2, 3))[0], in_passing)


def test_a_model_with_fixed_size_loads_the_resized_positions():
    vit = small_vit("vit_small_patch14_dinov2")
    fixed = small_vit("vit_small_patch14_dinov2", (56, 84), dynamic_img_size=False)
    images, inserted = torch.randn(1, 3, 56, 84), torch.randn(2, DIM)
    expected = tapped_tokens(vit, images, (3,), inserted)[0]
    resize_positions(vit, (56, 84))
    fixed.load_state_dict(vit.state_dict())
    torch.testing.assert_close(tapped_tokens(fixed, images, (3,), inserted)[0], expected)


def test_inserted_tokens_start_at_the_position_of_the_class_token():
    vit = small_vit("vit_tiny_patch16_224")
    assert torch.equal(class_position(vit), vit.pos_embed[0, 0])
    for name in ("vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"):
        assert torch.equal(class_position(small_vit(name)), torch.zeros(DIM))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_gradient_checkpointing_gives_the_same_gradients(name):
    vit = small_vit(name)
    images, inserted = torch.randn(1, 3, 64, 64), torch.randn(2, DIM, requires_grad=True)
    gradients = []
    for saving in (False, True):
        vit.set_grad_checkpointing(saving)
        loss = tapped_tokens(vit, images, (2,), inserted)[0].square().sum()
        gradients.append(torch.autograd.grad(loss, inserted)[0])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "VisionTransformerDistilled takes no inserted tokens"),
        ("vit_base_patch16_siglip_224", {}, "VisionTransformer without class token takes no inserted tokens"),
        ("vit_tiny_patch16_224", {"patch_drop_rate": 0.5}, "patch dropout"),
    ],
)
def test_models_with_unknown_tokens_are_refused(name, options, reason):
    vit = import_timm().create_model(name, depth=1, num_classes=0, **options)
    with pytest.raises(WeightsError, match=reason):
        tapped_tokens(vit, torch.zeros(1, 3, 224, 224), (1,), torch.zeros(2, vit.embed_dim))
