import pytest

torch = pytest.importorskip("torch")

from zsad_core.heads import AvaDino, AvaDinoConfig, Decoder, DecoderConfig, ScoreConfig, SelfDistances, Target, Tokens

GRID_HW, DIM, TAPS = (2, 3), 16, 2


def inputs(*, patch: int = 16) -> tuple:
    torch.manual_seed(0)
    images = torch.randn(2, 3, GRID_HW[0] * patch, GRID_HW[1] * patch)
    patches = [torch.randn(2, 6, DIM) for _ in range(TAPS)]
    matches = [torch.randn(2, 2, *GRID_HW) for _ in range(TAPS)]
    distances = torch.rand(2, TAPS * 4, *GRID_HW)
    return images, patches, matches, distances, GRID_HW


def trained(config: DecoderConfig) -> Decoder:
    """A decoder whose last layer is random; in a new decoder it is zero."""
    decoder = Decoder(config, DIM, TAPS)
    torch.nn.init.normal_(decoder.fine[1].weight)
    return decoder


@pytest.mark.parametrize("detail", [0, 8])
@pytest.mark.parametrize("patch", [14, 16])
def test_the_map_has_four_by_four_values_per_patch(detail, patch):
    decoder = Decoder(DecoderConfig(width=8, detail=detail), DIM, TAPS)
    assert decoder(*inputs(patch=patch)).shape == (2, 1, 8, 12)


def test_an_untrained_decoder_gives_the_map_of_the_text_matches():
    images, patches, matches, _, grid_hw = inputs()
    for match in matches:
        match[:, 0], match[:, 1] = 0.0, 10.0
    decoder = Decoder(DecoderConfig(width=8, detail=0, self_distance=False), DIM, TAPS)
    calm = decoder(images, patches, matches, None, grid_hw)
    torch.testing.assert_close(calm, torch.full_like(calm, -2.0 + 0.1 * 10.0))


def test_an_untrained_decoder_marks_the_patch_that_differs_from_the_others():
    images, patches, matches, distances, grid_hw = inputs()
    distances[:] = 0.1
    distances[0, :, 1, 2] = 0.9
    logits = Decoder(DecoderConfig(width=8, detail=0), DIM, TAPS)(
        images, patches, [torch.zeros_like(match) for match in matches], distances, grid_hw
    )
    assert logits[0, 0, -1, -1] == logits[0].max() > logits[1].max()


def test_distances_and_text_are_added_with_their_weights():
    *_, matches, distances, _ = inputs()
    logits = torch.randn(2, 1, 8, 12)

    def added(**weights: float) -> torch.Tensor:
        found = Decoder(DecoderConfig(width=8, **weights), DIM, TAPS).with_weights(logits, matches, distances)
        return (found - logits)[:, 0, ::7, ::11]  # corners are not interpolated

    assert not added().any()
    sharpest_of_first, sharper_of_all = distances[:, 3], distances[:, [2, 6]].mean(dim=1)
    apart = 5 * (sharpest_of_first + sharper_of_all - 0.6)
    torch.testing.assert_close(added(distance_weight=5.0), apart[:, :, ::2])
    told = 0.25 * torch.stack([match[:, 1] - match[:, 0] for match in matches]).mean(dim=0)
    torch.testing.assert_close(added(text_weight=0.25), told[:, :, ::2])
    torch.testing.assert_close(added(text_weight=0.25, distance_weight=5.0), (told + apart)[:, :, ::2])


def test_a_weight_without_distances_is_refused():
    with pytest.raises(ValueError, match="no distances to add"):
        DecoderConfig(self_distance=False, distance_weight=5.0)


def test_distances_are_the_soft_minimum_over_patches_that_are_not_neighbours():
    torch.manual_seed(0)
    tokens = torch.randn(1, 30, DIM)
    found = SelfDistances()(tokens, (5, 6))
    unit = torch.nn.functional.normalize(tokens[0], dim=-1)
    for i in (0, 8, 29):
        others = [j for j in range(30) if max(abs(i // 6 - j // 6), abs(i % 6 - j % 6)) > 1]
        cosine = unit[others] @ unit[i]
        for number, softness in enumerate((0.2, 0.1, 0.05, 0.025)):
            expected = -softness * (torch.exp((cosine - 1) / softness).sum() / 30).log()
            assert found[0, number].flatten()[i].item() == pytest.approx(expected.item(), abs=1e-4)


def test_distances_are_float32_in_mixed_precision_and_finite_without_similar_patches():
    tokens = torch.eye(8)[None, :4] * 50
    with torch.autocast("cpu", torch.bfloat16):
        found = SelfDistances()(tokens, (2, 2))  # all patches are neighbours
    assert found.dtype == torch.float32
    assert torch.isfinite(found).all()


def test_the_output_depends_on_patches_text_and_image():
    images, patches, matches, distances, grid_hw = inputs()
    decoder = trained(DecoderConfig(width=8, detail=8)).eval()
    rest = (distances, grid_hw)
    before = decoder(images, patches, matches, *rest)
    assert not torch.allclose(before, decoder(images + 1, patches, matches, *rest))
    assert not torch.allclose(before, decoder(images, [patches[0] * 2, patches[1]], matches, *rest))
    assert not torch.allclose(before, decoder(images, patches, [matches[0].flip(1), matches[1]], *rest))
    assert not torch.allclose(before, decoder(images, patches, matches, distances * 2, grid_hw))
    with pytest.raises(ValueError, match="distances"):
        decoder(images, patches, matches, None, grid_hw)


def test_images_without_pixel_truth_count_only_in_the_score_loss():
    decoder = Decoder(DecoderConfig(width=8, detail=0), DIM, TAPS)
    logits = torch.zeros(2, 1, 8, 12)
    target = Target(
        mask=torch.zeros(2, 8, 12), is_anomalous=torch.tensor([1, 1]), has_pixel_truth=torch.tensor([False, False])
    )
    assert decoder.map_loss(logits, target) == 0
    assert decoder.score_loss(logits, target).item() == pytest.approx(0.6931, abs=1e-3)  # -log 1/2


def test_the_map_loss_is_lower_for_a_correct_map():
    decoder = Decoder(DecoderConfig(width=8, detail=0), DIM, TAPS)
    mask = torch.zeros(1, 16, 24)  # a mask of another size
    mask[:, :8] = 1
    target = Target(mask=mask, is_anomalous=torch.tensor([1]))
    right = torch.where(mask[:, None, ::2, ::2] > 0, 8.0, -8.0)
    assert decoder.map_loss(right, target) < 0.1 < 0.9 < decoder.map_loss(-right, target)


def test_a_detector_with_a_decoder_gives_the_decoders_map_at_any_size():
    head = AvaDino(
        AvaDinoConfig(embed_dim=DIM, text_dim=8, num_taps=TAPS, hidden_dim=8, decoder=DecoderConfig(width=8))
    )
    images, patches, _, distances, grid_hw = inputs()
    classes = [torch.randn(2, DIM)] * TAPS
    tokens = Tokens(cls_tokens=classes, patch_tokens=patches, grid_hw=grid_hw, images=images, distances=distances)
    prompts = head.prompt_vectors(torch.nn.functional.normalize(torch.randn(2, 8, 2), dim=1))
    score = ScoreConfig(top_fraction=0.01)
    small, _ = head.predict(tokens, prompts, map_hw=(8, 12), score=score)
    large, highest = head.predict(tokens, prompts, map_hw=(32, 48), score=score)
    assert large.shape == (2, 32, 48)
    assert small.mean().item() == pytest.approx(large.mean().item(), rel=1e-3)
    assert ((highest >= 0) & (highest <= 1)).all()


def test_tokens_without_images_are_refused():
    head = AvaDino(
        AvaDinoConfig(embed_dim=DIM, text_dim=8, num_taps=TAPS, hidden_dim=8, decoder=DecoderConfig(width=8))
    )
    _, patches, _, _, grid_hw = inputs()
    tokens = Tokens(cls_tokens=[torch.randn(2, DIM)] * TAPS, patch_tokens=patches, grid_hw=grid_hw)
    with pytest.raises(ValueError, match="needs a head with a decoder, and tokens with images"):
        head(tokens, torch.randn(2, 8, 2), map_hw=(8, 12))


def test_group_norm_is_the_same_in_training_and_evaluation():
    """In evaluation mode the group norm is computed in other steps, which suit an exported graph."""
    torch.manual_seed(1)
    decoder = trained(DecoderConfig(width=8, self_distance=False))
    for module in decoder.modules():
        if isinstance(module, torch.nn.GroupNorm):
            torch.nn.init.normal_(module.weight)
            torch.nn.init.normal_(module.bias)
    images, patches, matches, _, grid_hw = inputs()
    with torch.no_grad():
        in_training = decoder.train()(images + 3, patches, matches, None, grid_hw)
        afterwards = decoder.eval()(images + 3, patches, matches, None, grid_hw)
    torch.testing.assert_close(afterwards, in_training, rtol=1e-4, atol=1e-4)
