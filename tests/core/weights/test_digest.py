import hashlib

import pytest

torch = pytest.importorskip("torch")

from zsad_core.weights import weights_digest


def test_the_digest_is_that_of_settings_names_and_bytes():
    tensors = {"a": torch.tensor([[1.0, 2.0], [3.0, 4.0]]).T, "n": torch.tensor(7)}
    content = b"settings" + b"a" + tensors["a"].contiguous().numpy().tobytes() + b"n" + tensors["n"].numpy().tobytes()
    assert weights_digest(tensors, settings="settings") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool])
def test_tensors_of_any_type_have_a_digest(dtype):
    assert weights_digest({"a": torch.ones(3, dtype=dtype)}) != weights_digest({"a": torch.zeros(3, dtype=dtype)})
