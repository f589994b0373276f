"""Gradient checkpointing, and caches whose size is known before they are written."""

import shutil

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_model import small_detector, text_embeddings
from small_run import HW, small_config

from zsad_core.backbones import BackboneConfig, build_backbone
from zsad_core.model import Detector, DetectorConfig
from zsad_training.config import OptimisationSpec
from zsad_training.pictures import Item, collate
from zsad_training.run import FeatureCache, announce_cache
from zsad_training.run.objective import MethodsLoss
from zsad_training.run.trainer import recompute_blocks

LABELS = {"is_anomalous": True, "has_pixel_truth": True, "product": "object"}


def step(method: str, blocks: int, *, recomputes: bool):
    """(gradients, bytes that the graph holds for the backward pass beside the weights) of a training step."""
    detector = small_detector(HW, method)
    detector.parameter_groups(lr=1, token_lr=1, backbone_lr=1, trainable_blocks=blocks)
    if recomputes:
        recompute_blocks(detector)
    spec = OptimisationSpec(trainable_blocks=blocks, mixed_precision="off")
    loss = MethodsLoss(detector.train(), text_embeddings(), spec, device=torch.device("cpu"))
    image = np.random.default_rng(0).integers(0, 255, (*HW, 3), np.uint8)
    batch = collate([Item(image_bgr=image, mask=np.eye(*HW, dtype=np.uint8), **LABELS)] * 2)
    held = {}

    def pack(value):
        held[value.untyped_storage().data_ptr()] = value.untyped_storage()  # kept, so that no address comes twice
        return value

    torch.manual_seed(1)  # of the dropout
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        total = loss.terms(batch, loss.counts(batch))["total"]
    weights = {one.untyped_storage().data_ptr() for one in detector.parameters()}
    total.backward()
    gradients = {name: one.grad for name, one in detector.named_parameters() if one.grad is not None}
    return gradients, sum(storage.nbytes() for place, storage in held.items() if place not in weights)


@pytest.mark.parametrize(("method", "blocks"), [("ava_dino", 12), ("visualad", 0)])
def test_gradient_checkpointing_gives_the_same_gradients_with_less_memory(method, blocks):
    expected, usual_bytes = step(method, blocks, recomputes=False)
    found, bytes_held = step(method, blocks, recomputes=True)
    assert bytes_held < 0.5 * usual_bytes
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_gradient_checkpointing_of_a_cnn_is_refused():
    config = DetectorConfig(backbone=BackboneConfig(name="tf_efficientnet_lite0", input_hw=(64, 64)))
    with pytest.raises(ValueError, match="tf_efficientnet_lite0 is a CNN"):
        recompute_blocks(Detector(config, build_backbone(config.backbone)))


def test_a_run_that_had_too_little_memory_may_go_on_with_gradient_checkpointing(tmp_path):
    without, changed = (
        small_config(tmp_path, tmp_path, trainable_blocks=2, gradient_checkpointing=value) for value in (False, True)
    )
    assert changed.identity() == without.identity()


def test_the_feature_cache_says_how_large_it_becomes(tmp_path, caplog):
    detector = small_detector(HW)
    detector.backbone.requires_grad_(False)
    cache = FeatureCache(tmp_path, detector)
    with caplog.at_level("INFO"):
        cache.announce(3, [(32, 32), HW])
    images = torch.randint(0, 255, (1, *HW, 3), dtype=torch.uint8)
    cache.tokens(images)
    (written,) = tmp_path.rglob("*.npy")
    size = written.stat().st_size
    assert size == 128 + 4 * 25 * 192 * 2  # 4 taps, 24 patches and the class token, float16
    assert (
        f"at most {6 * size / 1e9:.2f} GB in {written.parent} (6 images of {size / 1e6:.2f} MB, 0 files" in caplog.text
    )


def test_a_cache_for_which_the_disk_is_too_small_is_refused(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    (tmp_path / "there.npy").touch()
    announce_cache("feature cache", tmp_path, images=2, bytes_each=free // 2)  # one is there
    with pytest.raises(
        ValueError, match=r"feature cache: at most .* the disk has .* GB free: name a folder on a larger"
    ):
        announce_cache("feature cache", tmp_path, images=3, bytes_each=free)
