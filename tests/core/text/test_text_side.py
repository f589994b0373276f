import json

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load, save

from zsad_core.errors import WeightsError
from zsad_core.heads import AdDinoV3, AvaDino, AvaDinoConfig, MatchingConfig
from zsad_core.text import load_text_side, text_side_bytes


def make_head(interleave_text: bool = False) -> AvaDino:
    torch.manual_seed(3)
    config = AvaDinoConfig(embed_dim=6, text_dim=10, num_taps=2, hidden_dim=4, interleave_text=interleave_text)
    return AvaDino(config).eval()


ADAPTERS = ["prompt_adapter.0.fc1.0.weight", "prompt_adapter.1.fc1.0.weight"]


@pytest.mark.parametrize(
    ("head", "tensors"),
    [
        (make_head(), [*ADAPTERS, "text_projection.weight"]),
        (make_head(interleave_text=True), [*ADAPTERS, "text_projection.weight"]),
        (AdDinoV3(MatchingConfig(embed_dim=6, text_dim=10, num_taps=2)).eval(), ADAPTERS),
    ],
)
def test_prompt_vectors_are_the_same_and_the_visual_side_is_left_out(head, tensors):
    data = text_side_bytes(head)
    text = torch.randn(3, 10, 2)
    with torch.no_grad():
        assert torch.equal(load_text_side(data, "t").prompt_vectors(text), head.prompt_vectors(text))
    assert sorted(load(data)) == tensors
    assert data == text_side_bytes(head)


def described(**changes: object) -> bytes:
    values = {"format": "zsad.text-side/1", "head": "AvaDino", "config": make_head().config.model_dump()} | changes
    return save(load(text_side_bytes(make_head())), {"text_side": json.dumps(values)})


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "t: not the text side of a head"),
        (text_side_bytes(make_head())[:-1], "t: not the text side of a head"),
        (save({"a": torch.zeros(1)}), "t: not the text side of a head"),
        (save({"a": torch.zeros(1)}, {"text_side": "[]"}), "t: not the text side of a head"),
        (described(format="zsad.text-side/2"), "t: 'zsad.text-side/2' of 'AvaDino'; known: 'zsad.text-side/1'"),
        (described(head="Other"), "of 'Other'; known: 'zsad.text-side/1' of AdDinoV3, AvaDino"),
        (described(config=[]), "t: not the text side of a head"),
        (described(config={"embed_dim": 6}), "t: config: text_dim: missing"),
        (
            described(config={"embed_dim": 7, "text_dim": 10, "num_taps": 2}),
            r"text_projection.weight: expected \(7, 10\), found \(6, 10\)",
        ),
        (described(config={"embed_dim": 6, "text_dim": 10**6, "num_taps": 1}), r"expected \(1000000, 1000000\)"),
    ],
)
def test_a_malformed_or_wrong_file_is_refused(data, said):
    with pytest.raises(WeightsError, match=said):
        load_text_side(data, "t")
