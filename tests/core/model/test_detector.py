import numpy as np
import pytest

torch = pytest.importorskip("torch")

from small_model import SHALLOW, small_detector, text_embeddings

from zsad_core.heads import DecoderConfig, ScoreConfig, anomaly_score, match
from zsad_core.model import Detector, joined


def test_the_scored_map_is_the_published_map_at_temperature_one():
    detector = small_detector()
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    text = torch.from_numpy(text_embeddings()["object"]).expand(2, -1, -1)
    with torch.no_grad():
        anomaly_map, _ = detector.predict(images, text)
        published = detector(images, text).cross_modal[:, 1]
    torch.testing.assert_close(anomaly_map, published)


def test_the_published_score_is_the_maximum():
    anomaly_map = torch.rand(3, 8, 8)
    torch.testing.assert_close(anomaly_score(anomaly_map, ScoreConfig()), anomaly_map.amax(dim=(1, 2)))


def test_the_score_is_the_mean_of_the_highest_pooled_values():
    anomaly_map = torch.zeros(1, 4, 4)
    anomaly_map[0, :2, :2] = 0.8
    anomaly_map[0, 3, 3] = 1.0  # alone in its block: 0.25
    config = ScoreConfig(top_fraction=0.5, pool=2)  # two of four blocks
    torch.testing.assert_close(anomaly_score(anomaly_map, config), torch.tensor([(0.8 + 0.25) / 2]))


def test_a_power_mean_favours_many_values_over_few_high_ones():
    few, many = torch.zeros(2, 1, 4, 4)
    few[0, 0, 0] = 0.8
    many[0, 0] = 0.16
    config = ScoreConfig(top_fraction=0.25, power=0.5)
    scores = anomaly_score(torch.cat([few, many]), config)
    torch.testing.assert_close(scores, torch.tensor([(0.8**0.5 / 4) ** 2, 0.16]), atol=1e-4, rtol=0)
    assert anomaly_score(few, config.model_copy(update={"power": 1.0})) > 0.16


def test_a_power_mean_has_a_gradient_where_the_map_is_zero():
    logits = torch.full((1, 4, 4), -200.0, requires_grad=True)
    anomaly_score(torch.sigmoid(logits), ScoreConfig(top_fraction=0.5, power=0.3)).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()


def test_visualad_refuses_a_power_it_does_not_use():
    detector = small_detector(method="visualad")
    config = detector.config.model_copy(update={"score": ScoreConfig(power=0.5)})
    with pytest.raises(ValueError, match="visualad has no power mean"):
        Detector(config, detector.backbone)


@pytest.mark.parametrize("method", ["ava_dino", "visualad"])
def test_a_smaller_size_has_the_same_weight_in_the_map(method):
    """The map at the smaller size is the same detector's map of the smaller image, enlarged."""
    detector = small_detector(method=method)
    detector.config = detector.config.model_copy(update={"map_stride": 4, "score": ScoreConfig(top_fraction=0.1)})
    both = Detector(detector.config.model_copy(update={"smaller_hw": ((32, 48),)}), detector.backbone).eval()
    both.load_state_dict(detector.state_dict())
    images = torch.full((2, 64, 96, 3), 40, dtype=torch.uint8)
    images[:, :, 48:] = 200  # two halves: a smaller image has the same two values, except at the border between them
    smaller = images[:, ::2, ::2]
    text = torch.from_numpy(text_embeddings()["object"]).expand(2, -1, -1)
    with torch.no_grad():
        large, large_score = detector.predict(images, text)
        prompts = detector.head.prompt_vectors(text) if detector.needs_text else None
        tokens = detector.tokens(smaller)
        small, small_score = detector.head.predict(tokens, prompts, map_hw=(16, 24), score=detector.config.score)
        anomaly_map, score = both.predict(images, text)
    assert not torch.allclose(large, small, atol=1e-4)
    torch.testing.assert_close(anomaly_map, (large + small) / 2)
    if method == "visualad":  # its score is computed before its map is smoothed
        torch.testing.assert_close(score, (large_score + small_score) / 2)
    else:
        torch.testing.assert_close(score, anomaly_score(anomaly_map, detector.config.score))


@pytest.mark.parametrize(
    ("size_hw", "said"),
    [((33, 48), "multiple of the patch size"), ((96, 96), "not smaller"), ((64, 96), "not smaller")],
)
def test_an_invalid_smaller_size_is_refused(size_hw, said):
    detector = small_detector()
    config = detector.config.model_copy(update={"smaller_hw": (size_hw,)})
    with pytest.raises(ValueError, match=said):
        Detector(config, detector.backbone)


@pytest.mark.parametrize(
    ("method", "decoder", "name"),
    [
        ("ava_dino", DecoderConfig(width=8, detail=8), "decoded"),
        ("visualad", None, "maps"),
    ],
)
def test_logits_of_maps_are_float32_in_mixed_precision(method, decoder, name):
    """At the size of the patch grid nothing is interpolated, so values that were rounded to bf16 would be visible."""
    small = small_detector(method=method)
    config = small.config.model_copy(update={"decoder": decoder})
    detector = Detector(config, small.backbone).eval()
    if decoder is not None:
        torch.nn.init.normal_(detector.head.decoder.fine[1].weight)
    images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
    text = torch.from_numpy(np.stack([text_embeddings()["bottle"]] * 2))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = detector(images, text, map_hw=(4, 6))
    found = getattr(output, name)
    assert found.dtype == torch.float32
    assert (found != found.bfloat16().float()).float().mean() > 0.5


def test_a_match_is_the_same_in_mixed_precision():
    patches, matching = torch.randn(2, 24, 16), torch.randn(2, 2, 16)
    expected = match(patches, matching, (4, 6))
    with torch.autocast("cpu", torch.bfloat16):
        found = match(patches, matching, (4, 6))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_a_joined_detector_averages_the_logits_of_both_maps():
    first, second = small_detector(), small_detector(input_hw=(48, 64), **SHALLOW)
    text = torch.from_numpy(text_embeddings()["object"])[None]
    other_text = torch.from_numpy(text_embeddings()["bottle"])[None]
    with torch.no_grad():
        both = joined(first, second, second.head.prompt_vectors(other_text))
        images = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
        smaller = torch.nn.functional.interpolate(images.permute(0, 3, 1, 2).float(), size=(48, 64), mode="bilinear")
        ours, _ = first.predict(images, text.expand(2, -1, -1))
        theirs, _ = second.predict(smaller.permute(0, 2, 3, 1), other_text.expand(2, -1, -1))
        theirs = torch.nn.functional.interpolate(theirs[:, None], size=(64, 96), mode="bilinear")[:, 0]
        anomaly_map, score = both.predict(images, text.expand(2, -1, -1))
    expected = torch.sigmoid((torch.logit(ours, 1e-4) + torch.logit(theirs, 1e-4)) / 2)
    torch.testing.assert_close(anomaly_map, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(score, anomaly_score(expected, first.config.score), atol=1e-5, rtol=0)


def test_what_cannot_be_joined_is_refused():
    first, visualad = small_detector(**SHALLOW), small_detector(method="visualad")
    prompts = first.head.prompt_vectors(torch.from_numpy(text_embeddings()["object"])[None]).detach()
    with pytest.raises(ValueError, match="visualad: only detectors with text"):
        joined(first, visualad, prompts)
    with pytest.raises(ValueError, match="has a second one already"):
        joined(joined(first, first, prompts), first, prompts)
