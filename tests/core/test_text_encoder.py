import importlib.util

import numpy as np
import pytest

pytest.importorskip("torch")

from zsad_core.errors import WeightsError
from zsad_core.text_encoder import embed_products, load_text_encoder


def test_an_embedding_is_the_normalised_mean_of_normalised_sentences():
    directions = {"flawless": [3.0, 0.0], "damaged": [0.0, 5.0]}

    def encoder(texts: list[str]) -> np.ndarray:
        return np.array([next((v for k, v in directions.items() if k in text), [1.0, 1.0]) for text in texts])

    embedding = embed_products(encoder, ["cap"])["cap"]
    diagonal = np.sqrt(0.5)
    normal = np.array([1 + 6 * diagonal, 6 * diagonal])  # one of seven states is "flawless", the others fall through
    anomalous = np.array([4 * diagonal, 1 + 4 * diagonal])  # one of five is "damaged"
    assert embedding.dtype == np.float32 and embedding.shape == (2, 2)
    np.testing.assert_allclose(embedding[:, 0], normal / np.linalg.norm(normal), rtol=1e-6)
    np.testing.assert_allclose(embedding[:, 1], anomalous / np.linalg.norm(anomalous), rtol=1e-6)


def test_minilm_needs_no_network_and_tells_products_and_states_apart(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = embed_products(load_text_encoder("minilm"), ["bottle", "circuit_board"])
    assert text["bottle"].shape == (384, 2)
    np.testing.assert_allclose((text["bottle"] ** 2).sum(axis=0), 1, rtol=1e-5)
    normal, anomalous = text["bottle"].T
    assert normal @ anomalous < 0.99
    assert normal @ text["circuit_board"][:, 0] < 0.8


@pytest.mark.parametrize("name", ["bert", "open_clip", "open_clip:ViT-L-14", "open_clip::laion2b"])
def test_an_unknown_encoder_lists_the_known_ones(name):
    with pytest.raises(WeightsError, match="Known: minilm, open_clip:MODEL"):
        load_text_encoder(name)


def test_open_clip_without_its_package_or_weights_says_what_to_fetch(tmp_path):
    wanted = "no such weights file" if importlib.util.find_spec("open_clip") else r"zsad-agent\[clip\]"
    with pytest.raises(WeightsError, match=wanted):
        load_text_encoder(f"open_clip:ViT-L-14:{tmp_path}/none.safetensors")
