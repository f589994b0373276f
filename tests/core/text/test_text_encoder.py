import importlib.util
import json
import os
import socket

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

from zsad_core.backbones import ensure_torchvision_imports
from zsad_core.errors import WeightsError
from zsad_core.text import embed_products, load_text_encoder


def test_an_embedding_is_the_normalised_mean_of_normalised_sentences():
    directions = {"flawless": [3.0, 0.0], "damaged": [0.0, 5.0]}

    def encoder(texts: list[str]) -> np.ndarray:
        return np.array([next((v for k, v in directions.items() if k in text), [1.0, 1.0]) for text in texts])

    embedding = embed_products(encoder, ["cap"])["cap"]
    diagonal = np.sqrt(0.5)
    normal = np.array([1 + 6 * diagonal, 6 * diagonal])  # one of seven states is "flawless", the others get the default
    anomalous = np.array([4 * diagonal, 1 + 4 * diagonal])  # one of five is "damaged"
    assert embedding.dtype == np.float32 and embedding.shape == (2, 2)
    np.testing.assert_allclose(embedding[:, 0], normal / np.linalg.norm(normal), rtol=1e-6)
    np.testing.assert_allclose(embedding[:, 1], anomalous / np.linalg.norm(anomalous), rtol=1e-6)


def test_minilm_needs_no_network_and_separates_products_and_states(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = embed_products(load_text_encoder("minilm"), ["bottle", "circuit_board"])
    assert text["bottle"].shape == (384, 2)
    np.testing.assert_allclose((text["bottle"] ** 2).sum(axis=0), 1, rtol=1e-5)
    normal, anomalous = text["bottle"].T
    assert normal @ anomalous < 0.99
    assert normal @ text["circuit_board"][:, 0] < 0.8


@pytest.mark.parametrize("name", ["bert", "open_clip", "open_clip:ViT-L-14", "open_clip::laion2b"])
def test_an_unknown_encoder_is_refused_with_the_known_ones(name):
    with pytest.raises(WeightsError, match="Known: minilm, open_clip:MODEL"):
        load_text_encoder(name)


def test_open_clip_without_its_package_says_how_to_install_it():
    if importlib.util.find_spec("open_clip"):
        pytest.skip("it is installed")
    with pytest.raises(WeightsError, match=r"zsad-agent\[clip\]"):
        load_text_encoder("open_clip:ViT-L-14:openai")


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory):
    """(open_clip, a CLIP with random weights, its folder); the model's name is zsad-small."""
    ensure_torchvision_imports()
    open_clip = pytest.importorskip("open_clip", reason="pip install 'zsad-agent[clip]'")
    folder = tmp_path_factory.mktemp("clip")
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    (folder / "zsad-small.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "zsad-small.json")
    torch.manual_seed(0)
    model = open_clip.create_model("zsad-small").eval()
    save_file(model.state_dict(), folder / "small.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "small.pt")
    return open_clip, model, folder


@pytest.mark.parametrize("file", ["small.safetensors", "small.pt"])
def test_open_clip_from_a_file_gives_the_embeddings_of_the_model(small_clip, file):
    open_clip, model, folder = small_clip
    texts = ["a photo of a bottle.", "a photo of a damaged bottle."]
    found = load_text_encoder(f"open_clip:zsad-small:{folder / file}")(texts)
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("zsad-small")(texts)).numpy()
    assert found.shape == (2, 24) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(found[0], found[1])


def test_openais_weights_run_with_quickgelu(small_clip):
    open_clip, model, folder = small_clip
    constants = {name: torch.tensor(32) for name in ("input_resolution", "context_length", "vocab_size")}
    torch.save(model.state_dict() | constants, folder / "openai.pt")
    quick = open_clip.create_model("zsad-small", force_quick_gelu=True).eval()
    quick.load_state_dict(model.state_dict())
    with torch.no_grad():
        expected = quick.encode_text(open_clip.get_tokenizer("zsad-small")(["a cap"])).numpy()
    found = load_text_encoder(f"open_clip:zsad-small:{folder / 'openai.pt'}")(["a cap"])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_weights_that_open_clip_cannot_get_are_named_at_once(small_clip, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asks the network"))
    folder = small_clip[2]
    faults = {
        "ViT-L-14-336:openai": (
            r"vit_large_patch14_clip_336\.openai/resolve/main/open_clip_model\.safetensors cannot be fetched.*"
            r"name the file with --text-encoder open_clip:ViT-L-14-336-quickgelu:FILE"
        ),
        "ViT-B-16-SigLIP:webli": "cannot be fetched",
        "ViT-L-14:nowhere": r"no such weights file, and no tag that open_clip knows.*Tags: openai, laion400m_e31",
        "ViT-Z:openai": "open_clip has no such model. It has: .*ViT-L-14-336",
        f"zsad-small:{folder}/none.pt": "no such weights file",
        f"zsad-small:{folder}/zsad-small.json": "truncated or of another format",
        f"ViT-S-32-alt:{folder}/small.pt": r"weights do not fit open_clip's ViT-S-32-alt: missing: .*layers|resblocks",
    }
    for name, said in faults.items():
        with pytest.raises(WeightsError, match=said):
            load_text_encoder(f"open_clip:{name}")


def test_open_clip_does_not_run_a_pickle(small_clip):
    _, _, folder = small_clip

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(folder / "ran"),)

    torch.save({"state_dict": Attack()}, folder / "attack.pt")
    with pytest.raises(WeightsError, match="could run code"):
        load_text_encoder(f"open_clip:zsad-small:{folder / 'attack.pt'}")
    assert not (folder / "ran").exists()
