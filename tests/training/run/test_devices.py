"""Which device a name is, and which names are refused."""

import pytest

torch = pytest.importorskip("torch")

from zsad_training.run import pick_device


@pytest.mark.parametrize("name", ["meta", "xpu", "cuda:99", "gpu"])
def test_a_device_that_is_not_here_or_cannot_train_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}': .*auto"):
        pick_device(name)


def test_auto_is_always_one():
    assert pick_device("auto").type in ("cpu", "cuda")
