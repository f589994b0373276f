"""Names of devices."""

import pytest

torch = pytest.importorskip("torch")

from zsad_training.run import pick_device


@pytest.mark.parametrize("name", ["meta", "xpu", "cuda:99", "gpu"])
def test_a_missing_device_or_one_that_cannot_train_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}': .*auto"):
        pick_device(name)


def test_auto_always_finds_a_device():
    assert pick_device("auto").type in ("cpu", "cuda")
