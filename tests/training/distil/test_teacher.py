"""The teacher's answers and their cache."""

import math
from pathlib import Path

import pytest
from small_run import make_data

torch = pytest.importorskip("torch")

from small_distillation import TEACHERS_HW, distil_config, small_pictures, small_teacher, texts

from zsad_core.errors import ConfigError
from zsad_core.heads import anomaly_score
from zsad_training.distil import DistilBatch, KeptAnswers, Layout, Teacher, collate_distil
from zsad_training.distil.teacher import on_grid, shrink, tiled, with_details
from zsad_training.run import stacked_text

LAYOUT = Layout(map_hw=(2, 3), features_hw=(2, 2), taps=2, embed_dim=3)


class CountingTeacher:
    """A teacher whose answer is the image's first pixel. It records its calls."""

    layout = LAYOUT
    digest = "c0ffee" * 8

    def __init__(self) -> None:
        self.text = texts()
        self.asked: list[str] = []

    def rows(self, batch: DistilBatch) -> torch.Tensor:
        self.asked += batch.digests
        first = batch.teachers_images_bgr[:, 0, 0, :1].half()
        return first.expand(-1, LAYOUT.length).clone()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def config(data):
    return distil_config(data, data / "out")


@pytest.fixture(scope="module")
def batch(config) -> DistilBatch:
    return collate_distil([small_pictures(config)[index] for index in range(4)])


def of_products(batch: DistilBatch, *products: str) -> DistilBatch:
    return DistilBatch(**vars(batch) | {"products": list(products)})


@pytest.mark.parametrize("method", ["ava_dino", "visualad"])
def test_a_teacher_with_tiles_adds_their_details_to_the_map_of_the_whole_image(config, batch, method):
    plain = small_teacher(config, method)
    input_hw = plain.image_hw
    grid_hw = config.distillation.features.grid_hw
    teacher = Teacher(plain.detector, texts(), grid_hw=grid_hw, device=plain.device, tiles=True)
    assert teacher.image_hw == (input_hw[0] * 3 // 2, input_hw[1] * 3 // 2)
    assert teacher.digest != Teacher(plain.detector, texts(), grid_hw=grid_hw, device=plain.device).digest
    large = torch.nn.functional.interpolate(
        batch.teachers_images_bgr.permute(0, 3, 1, 2).float(), teacher.image_hw, mode="bilinear"
    )
    images = large.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    answers = teacher.layout.unpack(teacher.rows(DistilBatch(**vars(batch) | {"teachers_images_bgr": images})))
    text = stacked_text(texts(), batch.products, torch.device("cpu")) if method != "visualad" else None
    with torch.no_grad():
        whole = plain.detector.predict(shrink(images, input_hw), text)[0]
        parts = tiled(images, input_hw, lambda tile: torch.logit(plain.detector.predict(tile, text)[0]))
    whole = torch.nn.functional.interpolate(whole[:, None], teacher.layout.map_hw, mode="area")[:, 0]
    expected = with_details(torch.logit(whole), parts)
    torch.testing.assert_close(answers.map_logits.sigmoid(), expected.sigmoid(), atol=2e-3, rtol=0)
    shrunk = DistilBatch(**vars(batch) | {"teachers_images_bgr": shrink(images, input_hw)})
    of_whole = plain.layout.unpack(plain.rows(shrunk))
    torch.testing.assert_close(answers.features, of_whole.features, atol=2e-3, rtol=0)
    scores = of_whole.score_logits.sigmoid()
    if plain.detector.head.score_from_map:
        scores = anomaly_score(expected.sigmoid(), plain.detector.config.score)
    torch.testing.assert_close(answers.score_logits.sigmoid(), scores, atol=2e-3, rtol=0)


def test_tiles_cover_the_image_and_their_overlaps_are_averaged():
    images = torch.zeros(1, 96, 96, 3, dtype=torch.uint8)
    images[0, :32, :32] = 1  # only the first tile sees it
    images[0, 40:56, 40:56] = 4  # all tiles see it
    seen = tiled(images, (64, 64), lambda tile: tile[..., 0].float())
    torch.testing.assert_close(seen, images[..., 0].float()[:, 1::4, 1::4])
    marked = iter([1.0, 3.0, 5.0, 7.0])
    seen = tiled(images, (64, 64), lambda tile: torch.full((1, 16, 16), next(marked)))[0]
    assert (seen[0, 0], seen[0, 12], seen[12, 12], seen[23, 23]) == (1, 2, 4, 7)


def test_details_have_no_low_frequencies():
    whole = torch.linspace(-3, 3, 40).expand(1, 40, 40)
    torch.testing.assert_close(with_details(whole, whole + 2.0), whole)
    tiles = whole.clone()
    tiles[0, 20, 20] += 9.0
    detailed = with_details(whole, tiles)
    assert detailed[0, 20, 20] > whole[0, 20, 20] + 4.0
    assert (detailed - whole).mean().abs() < 1e-4


def test_tiles_need_an_even_input_size(config):
    plain = small_teacher(config, "visualad")
    plain.detector.config = plain.detector.config.model_copy(
        update={"backbone": plain.detector.config.backbone.model_copy(update={"input_hw": (63, 64)})}
    )
    with pytest.raises(ConfigError, match=r"distillation.tiles: .* \[63, 64\] must be even"):
        Teacher(plain.detector, texts(), grid_hw=None, device=plain.device, tiles=True)


@pytest.mark.parametrize("method", ["ava_dino", "ad_dinov3", "visualad"])
def test_answers_equal_the_detectors_outputs(config, batch, method):
    teacher = small_teacher(config, method)
    answers = teacher.layout.unpack(teacher.rows(batch))
    text = stacked_text(texts(), batch.products, torch.device("cpu")) if method != "visualad" else None
    with torch.no_grad():
        maps, scores = teacher.detector.predict(batch.teachers_images_bgr, text)
    coarse = torch.nn.functional.avg_pool2d(maps.unsqueeze(1), 4).squeeze(1)
    torch.testing.assert_close(torch.sigmoid(answers.map_logits), coarse, rtol=0, atol=2e-3)
    torch.testing.assert_close(torch.sigmoid(answers.score_logits), scores, rtol=0, atol=2e-3)
    assert answers.features.shape == (4, 4, 24, 192)
    torch.testing.assert_close(answers.features.mean(dim=2), torch.zeros(4, 4, 192), rtol=0, atol=1e-2)


def test_an_answer_does_not_depend_on_the_other_images_of_the_batch(config, batch):
    teacher = small_teacher(config)
    together = teacher.rows(batch)
    alone = teacher.rows(collate_distil([small_pictures(config)[2]]))
    torch.testing.assert_close(alone[0], together[2], rtol=0, atol=0)


def test_a_teacher_without_features_answers_with_map_and_score(data, batch):
    teacher = small_teacher(distil_config(data, data / "out", features={"weight": 0.0}))
    assert teacher.layout.length == 1 + math.prod(side // 4 for side in TEACHERS_HW)
    assert teacher.layout.unpack(teacher.rows(batch)).features is None


def test_a_broken_teacher_is_an_error_and_no_answer_is_kept(config, batch, tmp_path):
    teacher = small_teacher(config)
    with torch.no_grad():
        teacher.detector.head.text_projection.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="the teacher's answer holds NaN or infinity"):
        KeptAnswers(teacher, tmp_path).rows(batch)
    assert not list(tmp_path.rglob("*.bin"))


def test_other_weights_have_another_digest(config):
    first, second = small_teacher(config), small_teacher(config)
    assert first.digest == second.digest
    with torch.no_grad():
        second.detector.head.text_projection.weight[0, 0] += 1
    changed = Teacher(second.detector, texts(), grid_hw=config.distillation.features.grid_hw, device=second.device)
    assert changed.digest != first.digest


def test_each_image_is_computed_once_for_a_cache_folder(batch, tmp_path):
    teacher = CountingTeacher()
    first = KeptAnswers(teacher, tmp_path).rows(batch)
    assert teacher.asked == batch.digests
    again = KeptAnswers(teacher, tmp_path).rows(batch)
    assert teacher.asked == batch.digests
    assert again.equal(first)
    assert again.equal(CountingTeacher().rows(batch))


def test_another_text_has_its_own_answer(batch, tmp_path):
    teacher = CountingTeacher()
    teacher.text = texts() | {"bottle": -texts()["object"]}
    kept = KeptAnswers(teacher, tmp_path)
    kept.rows(of_products(batch, "object", "object", "object", "object"))
    kept.rows(of_products(batch, "object", "plate", "bottle", "object"))  # the text of plate is unchanged
    assert teacher.asked == [*batch.digests, batch.digests[2]]


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes() + b"\0"),
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"\x55"),
        lambda file: file.unlink(),
    ],
    ids=["empty", "cut", "longer", "one byte changed", "gone"],
)
def test_a_damaged_answer_is_computed_again(batch, tmp_path, damage):
    teacher = CountingTeacher()
    kept = KeptAnswers(teacher, tmp_path)
    expected = kept.rows(batch)
    damaged = kept._file(batch.digests[1], batch.products[1])
    damage(damaged)
    assert kept.rows(batch).equal(expected)
    assert teacher.asked == [*batch.digests, batch.digests[1]]
    assert damaged.stat().st_size == kept.bytes_each


def test_a_kept_answer_has_the_stated_size(batch, tmp_path):
    kept = KeptAnswers(CountingTeacher(), tmp_path)
    kept.rows(batch)
    files = list(tmp_path.rglob("*.bin"))
    assert len(files) == 4
    assert {file.stat().st_size for file in files} == {kept.bytes_each} == {4 + 2 * (1 + 2 * 3 + 2 * 2 * 2 * 3)}


def test_a_row_is_unpacked_to_score_map_and_features():
    answers = LAYOUT.unpack(torch.arange(LAYOUT.length).unsqueeze(0).half())
    assert answers.score_logits.tolist() == [0]
    assert answers.map_logits.tolist() == [[[1, 2, 3], [4, 5, 6]]]
    assert answers.features.shape == (1, 2, 4, 3)
    assert answers.features[0, 1, 3].tolist() == [28, 29, 30]


def test_tokens_on_a_coarser_grid_are_means_of_the_covered_area():
    patches = torch.arange(8.0).view(1, 8, 1)  # 2 x 4
    halved = on_grid(patches, (2, 4), (2, 2))[0, :, 0]
    assert halved.shape == (4,)
    assert halved[0] < halved[1] < halved[2] < halved[3]
    assert float(halved.mean()) == pytest.approx(3.5)
    assert on_grid(patches, (2, 4), (2, 4)) is patches
