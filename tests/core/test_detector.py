import pytest

torch = pytest.importorskip("torch")

from small_model import small_detector, text_embeddings  # noqa: E402

from zsad_core.scoring import ScoreConfig, anomaly_score  # noqa: E402


def test_the_map_that_scores_is_the_published_one_at_temperature_one():
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
