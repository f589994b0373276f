import pytest

from zsad_core.weights import backbone_licence, text_licence, weights_licences

AUGREG = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"


@pytest.mark.parametrize(
    ("name", "weights", "licence"),
    [
        ("vit_tiny_patch16_224", f"{AUGREG}.safetensors", "Apache-2.0"),
        ("vit_tiny_patch16_224", f"timm/{AUGREG}", "Apache-2.0"),
        ("vit_large_patch16_dinov3", "mine.pth", "DINOv3 License"),
        ("vit_small_patch16_dinov3", "timm hub", "DINOv3 License"),
        ("vit_tiny_patch16_dinov3_qkvb", "timm/vit_tiny_patch16_dinov3_qkvb.eupe_lvd1689m", "FAIR Research License"),
        ("vit_small_patch14_dinov2", "dinov2_vits14_pretrain.pth", "Apache-2.0"),
        ("vit_large_patch14_clip_quickgelu_336", "ViT-L-14-336px.pt", "MIT"),
        ("vit_large_patch14_clip_quickgelu_336", "timm/vit_large_patch14_clip_336.openai", "MIT"),
        ("vit_base_patch32_clip_224", "timm/vit_base_patch32_clip_224.laion2b_e16", "MIT"),
        ("tf_efficientnet_lite0", "efficientnet-lite0-57934424.pth", "Apache-2.0"),
        ("vit_base_patch32_clip_224", "mine.safetensors", "see their source"),
    ],
)
def test_the_licence_of_a_backbone_depends_on_its_name_and_weights(name, weights, licence):
    assert backbone_licence(name, weights).licence.startswith(licence)


def test_random_weights_have_no_licence():
    assert backbone_licence("vit_small_patch16_dinov3", "random") is None


@pytest.mark.parametrize(
    ("text_encoder", "licence"),
    [
        ("minilm", "Apache-2.0"),
        ("open_clip:ViT-L-14-336:openai", "MIT"),
        ("open_clip:ViT-B-32:laion2b_s34b_b79k", "MIT"),
        ("open_clip:ViT-L-14-336:/weights/ViT-L-14-336px.pt", "MIT"),
        ("open_clip:ViT-B-32:mine.safetensors", "see their source"),
    ],
)
def test_the_licence_of_prompts_is_that_of_their_text_encoder(text_encoder, licence):
    assert text_licence(text_encoder).licence == licence


def test_a_detector_without_text_or_with_random_weights_has_fewer_licences():
    assert weights_licences("vit_tiny_patch16_224", "random", None) == []
    of_both = weights_licences("vit_small_patch14_dinov2", "dinov2.pth", "minilm")
    assert [one.what for one in of_both] == ["backbone weights DINOv2", "prompt embeddings made with all-MiniLM-L6-v2"]
