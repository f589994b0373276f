import os
import pickle
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from published_files import AD_MODULES, AVA_MODULES, module_states, visualad_content

from zsad_core.backbones.vit import import_timm
from zsad_core.errors import WeightsError
from zsad_core.heads import (
    AdDinoV3,
    AvaDino,
    AvaDinoConfig,
    InsertedTokens,
    MatchingConfig,
    Tokens,
    VisualAd,
    VisualAdConfig,
)
from zsad_core.model import TextFacts, VisualAdFacts
from zsad_core.model.published import load_published

DIM, TEXT, HIDDEN = 8, 6, 4
TAPS = [6, 12, 18, 24]


def ava_dino() -> AvaDino:
    return AvaDino(
        AvaDinoConfig(embed_dim=DIM, text_dim=TEXT, num_taps=4, hidden_dim=HIDDEN, interleave_text=True)
    ).eval()


def visual_ad() -> VisualAd:
    return VisualAd(VisualAdConfig(embed_dim=DIM, num_taps=4, max_positions=20)).eval()


def ava_file() -> dict[str, Any]:
    torch.manual_seed(1)
    return {"epoch": 20} | module_states(ava_dino(), AVA_MODULES)


def ad_file() -> dict[str, Any]:
    torch.manual_seed(2)
    return module_states(AdDinoV3(MatchingConfig(embed_dim=DIM, text_dim=TEXT, num_taps=4)), AD_MODULES)


def visualad_file() -> dict[str, Any]:
    torch.manual_seed(3)
    return visualad_content(visual_ad(), TAPS, image_size=518, backbone="ViT-L/14@336px")


FILES = {"ava_dino": ava_file, "ad_dinov3": ad_file, "visualad": visualad_file}


def written(folder: Path, content: object) -> Path:
    path = folder / "published.pth"
    torch.save(content, path)
    return path


def with_prefix(content: dict[str, Any]) -> dict[str, Any]:
    """The state with the parameter names of DataParallel."""
    return {
        name: {f"module.{key}": inner for key, inner in value.items()}
        if name in {*AVA_MODULES, *AD_MODULES, "cross_attn"}
        else value
        for name, value in content.items()
    }


@pytest.mark.parametrize("wrap", [dict, with_prefix])
def test_ava_dino_gives_the_same_outputs_after_the_round_trip(tmp_path, wrap):
    published = load_published("ava_dino", written(tmp_path, wrap(ava_file())))
    assert published.facts == TextFacts(
        embed_dim=DIM, text_dim=TEXT, hidden_dim=HIDDEN, num_taps=4, recorded={"epoch": 20}
    )
    assert published.facts.interleave_text
    torch.manual_seed(1)
    before, after = ava_dino(), ava_dino()
    published.load_into(after)
    tokens = Tokens(cls_tokens=[torch.randn(2, DIM)] * 4, patch_tokens=[torch.randn(2, 6, DIM)] * 4, grid_hw=(2, 3))
    text = torch.randn(2, TEXT, 2)
    assert torch.equal(after(tokens, text, map_hw=(4, 6)).cross_modal, before(tokens, text, map_hw=(4, 6)).cross_modal)


@pytest.mark.parametrize("wrap", [dict, with_prefix])
def test_visualad_gives_the_same_outputs_after_the_round_trip(tmp_path, wrap):
    published = load_published("visualad", written(tmp_path, wrap(visualad_file())))
    facts = published.facts
    assert isinstance(facts, VisualAdFacts)
    assert facts.config == VisualAdConfig(embed_dim=DIM, num_taps=4, anchors=4, max_positions=20, dropout=0.2)
    assert (facts.taps, facts.image_size, facts.backbone) == ((6, 12, 18, 24), 518, "ViT-L/14@336px")
    assert import_timm().is_model(facts.timm_name.split(".")[0])
    torch.manual_seed(3)
    before, after = visual_ad(), visual_ad()
    for head in (before, after):
        head.place(torch.arange(DIM) * 0.1)
    published.load_into(after)
    assert torch.equal(after.inserted(), before.inserted())  # the position comes from the backbone
    tapped = [torch.randn(2, 9, DIM) for _ in range(4)]
    tokens = InsertedTokens(learned=tapped[-1][:, :2], tapped=tapped, grid_hw=(2, 3))
    outputs = [head(tokens, map_hw=(4, 6)) for head in (before, after)]
    assert torch.equal(outputs[0].maps, outputs[1].maps)


def test_the_trained_norm_of_visualad_is_only_returned_on_request(tmp_path):
    path = written(tmp_path, visualad_file())
    assert load_published("visualad", path).norm == {}  # as in the paper
    restored = load_published("visualad", path, restore_norm=True)
    assert restored.norm["weight"].tolist() == [2.0] * DIM
    assert restored.norm["bias"].tolist() == [3.0] * DIM
    with pytest.raises(ValueError, match="ava_dino: restore_norm is only for VisualAD"):
        load_published("ava_dino", path, restore_norm=True)


def test_ad_dinov3_keeps_the_published_names(tmp_path):
    content = ad_file()
    published = load_published("ad_dinov3", written(tmp_path, content))
    assert published.facts == TextFacts(embed_dim=DIM, text_dim=TEXT, hidden_dim=TEXT, num_taps=4, recorded={})
    expected = {f"{module}.{key}": value for module, state in content.items() for key, value in state.items()}
    assert published.state.keys() == expected.keys()
    assert all(torch.equal(published.state[name], value) for name, value in expected.items())


def test_half_precision_becomes_float32(tmp_path):
    content = ad_file()
    content["cls_token_adapter"] = {name: value.half() for name, value in content["cls_token_adapter"].items()}
    published = load_published("ad_dinov3", written(tmp_path, content))
    assert {value.dtype for value in published.state.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("method", "module", "key"),
    [
        ("ava_dino", "text_projection", "weight"),
        ("ad_dinov3", "prompt_adapter", "1.fc1.0.weight"),
        ("visualad", "cross_attn", "layer_attentions.layer_12.gate.0.bias"),
    ],
)
def test_missing_and_surplus_keys_and_wrong_shapes_are_named_in_one_error(tmp_path, method, module, key):
    content = FILES[method]()
    values = list(content[module])
    content[module]["stranger"] = content[module].pop(key)
    content["another"] = {"weight": torch.zeros(1)}
    wrong = next(name for name in [*values, "stranger"] if name in content[module])
    content[module][wrong] = torch.zeros(5, 99)
    with pytest.raises(WeightsError) as caught:
        load_published(method, written(tmp_path, content))
    text = str(caught.value)
    assert "published.pth" in text
    assert f"missing: {module}.{key}" in text
    assert f"surplus: another, {module}.stranger" in text
    if wrong != "stranger":
        assert f"{module}.{wrong}: expected (" in text
        assert "found (5, 99)" in text


@pytest.mark.parametrize("method", FILES)
def test_only_the_wrong_shape_is_named(tmp_path, method):
    content = FILES[method]()
    module = "layer_transforms" if method == "visualad" else "prompt_adapter"
    key, state = (
        ("0.fc1.0.weight", content[module]) if method != "visualad" else ("mlp.3.bias", content[module]["layer_6"])
    )
    right = tuple(state[key].shape)
    state[key] = torch.zeros(*right[:-1], 7)
    with pytest.raises(WeightsError) as caught:
        load_published(method, written(tmp_path, content))
    assert str(caught.value).count("expected (") == 1
    assert f"{key}: expected {right}, found {(*right[:-1], 7)}" in str(caught.value)


@pytest.mark.parametrize("key", list(visualad_file()))
def test_every_entry_of_a_visualad_file_is_needed(tmp_path, key):
    content = visualad_file()
    del content[key]
    with pytest.raises(WeightsError, match=f"missing: .*{key}"):
        load_published("visualad", written(tmp_path, content))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"features_list": "all"}, "features_list is 'all'"),
        ({"features_list": [6, 12, 18, 23]}, "missing: .*layer_23.*surplus: .*layer_24"),
        ({"image_size": "518"}, "image_size is '518', expected pixels"),
        ({"backbone": 3}, "backbone is 3, expected a name"),
        ({"cross_attn_config": None}, "cross_attn_config is None, expected a dict"),
        ({"cross_attn_config": {"num_anchors": 8}}, "num_anchors.*expected 4"),
        ({"cross_attn_config": {"dropout": 1.5}}, "dropout is 1.5"),
        ({"token_insert_layer": 3}, "token_insert_layer is 3, expected 0"),
        ({"transform_type": "linear"}, "transform_type is 'linear', expected mlp"),
    ],
)
def test_an_unknown_kind_of_visualad_model_is_refused(tmp_path, change, reason):
    with pytest.raises(WeightsError, match=reason):
        load_published("visualad", written(tmp_path, visualad_file() | change))


@pytest.mark.parametrize("method", FILES)
@pytest.mark.parametrize("other", FILES)
def test_a_file_of_another_method_is_refused(tmp_path, method, other):
    path = written(tmp_path, FILES[other]())
    if method == other:
        assert load_published(method, path).method == method
    else:
        theirs, ours = FILES[other]().keys(), FILES[method]().keys()
        with pytest.raises(WeightsError, match="surplus: ") as caught:
            load_published(method, path)
        named = str(caught.value).split("surplus: ")
        assert all(name in named[0] for name in sorted(ours - theirs - {"epoch"})[:8])  # the error lists eight
        assert all(name in named[1] for name in sorted(theirs - ours - {"epoch"})[:8])


@pytest.mark.parametrize("method", FILES)
def test_missing_truncated_and_other_files_are_refused(tmp_path, method):
    with pytest.raises(WeightsError, match="no such checkpoint"):
        load_published(method, tmp_path / "none.pth")
    path = written(tmp_path, FILES[method]())
    whole = path.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match=r"published\.pth: cannot be read: truncated"):
            load_published(method, path)
    path.write_bytes(b"\x89PNG no weights")
    with pytest.raises(WeightsError, match="of another format"):
        load_published(method, path)
    with pytest.raises(WeightsError, match="holds a list, expected a dict"):
        load_published(method, written(tmp_path, [torch.zeros(1)]))
    with pytest.raises(WeightsError, match="missing: "):
        load_published(method, written(tmp_path, {}))


class Malicious:
    def __init__(self, touched: Path) -> None:
        self.touched = touched

    def __reduce__(self):
        return os.system, (f"touch {self.touched}",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path, zipped):
    touched = tmp_path / "touched"
    path = tmp_path / "malicious.pth"
    content = ava_file() | {"epoch": Malicious(touched)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"malicious\.pth: .*could run code, so it was not read: .*system"):
        load_published("ava_dino", path)
    assert not touched.exists()
    path.write_bytes(pickle.dumps(Malicious(touched), protocol=2))
    with pytest.raises(WeightsError, match="could run code"):
        load_published("ava_dino", path)
    assert not touched.exists()


def test_a_head_with_other_sizes_is_refused(tmp_path):
    published = load_published("visualad", written(tmp_path, visualad_file()))
    other = VisualAd(VisualAdConfig(embed_dim=DIM, num_taps=4, anchors=2, max_positions=20))
    with pytest.raises(WeightsError, match=r"cross_attn\.0\.anchor_queries: expected \(2, 8\), found \(4, 8\)"):
        published.load_into(other)
    with pytest.raises(WeightsError, match=r"missing: .*surplus: "):
        published.load_into(ava_dino())
