import csv

import pytest

from zsad_training.run import RunLog


def rows(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_resumed_run_removes_rows_after_the_last_save(tmp_path):
    path = tmp_path / "log.csv"
    with RunLog(path, size=0) as log:
        log.write(1, "train", "loss_total", 0.5)
        size = log.save()
        log.write(2, "train", "loss_total", 0.25)
    with RunLog(path, size=size) as log:
        log.write(2, "train", "loss_total", 0.125)
    assert rows(path) == [
        ["step", "split", "metric", "value"],
        ["1", "train", "loss_total", "0.5"],
        ["2", "train", "loss_total", "0.125"],
    ]


def test_a_new_run_overwrites_an_earlier_log(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("of another run\n")
    with RunLog(path, size=0):
        pass
    assert rows(path) == [["step", "split", "metric", "value"]]


@pytest.mark.parametrize("left", [None, "", "step,split,metric,value\n"])
def test_a_missing_or_truncated_log_starts_again_with_a_warning(tmp_path, caplog, left):
    path = tmp_path / "log.csv"
    if left is not None:
        path.write_text(left)
    with RunLog(path, size=100) as log:
        log.write(7, "train", "loss_total", 1.0)
    assert rows(path) == [["step", "split", "metric", "value"], ["7", "train", "loss_total", "1"]]
    assert "rows are lost" in caplog.text


def test_tensorboard_shows_the_rows_of_the_log_and_hides_those_of_a_killed_run(tmp_path):
    pytest.importorskip("torch")
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = tmp_path / "tensorboard"
    with RunLog(tmp_path / "log.csv", size=0, events=events) as log:
        log.write(1, "train", "loss_total", 0.5)
        size = log.save()
        log.write(2, "train", "loss_total", 0.25)
    with RunLog(tmp_path / "log.csv", size=size, events=events, step=1) as log:
        log.write(2, "train", "loss_total", 0.125)
    shown = reader.EventAccumulator(str(events)).Reload().Scalars("train/loss_total")
    assert [(one.step, one.value) for one in shown] == [(1, 0.5), (2, 0.125)]


def test_a_metric_without_a_value_has_no_row(tmp_path):
    with RunLog(tmp_path / "log.csv", size=0) as log:
        log.write(1, "drawn/plate", "pixel_ap", None)
    assert len(rows(tmp_path / "log.csv")) == 1
