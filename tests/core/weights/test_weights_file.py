"""Reads tensors from files of every kind, and runs no code in them."""

import argparse
import os
import pickle
import zipfile

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import save_file

from zsad_core.errors import WeightsError
from zsad_core.weights import check_state, read_state_dict

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1.0, -2.0])}


def assert_is_state(found):
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        torch.testing.assert_close(found[name].float(), value)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth", "a"])
def test_the_kind_of_a_file_is_found_by_its_content(tmp_path, name):
    save_file(STATE, tmp_path / name)
    assert_is_state(read_state_dict(tmp_path / name))
    torch.save(STATE, tmp_path / name)
    assert_is_state(read_state_dict(tmp_path / name))
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=False)
    assert_is_state(read_state_dict(tmp_path / name))


@pytest.mark.parametrize(
    "wrapped",
    [
        {"state_dict": STATE, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
        {"model": {f"module.{name}": value for name, value in STATE.items()}},
        {"model": {}, "model_ema": {f"_orig_mod.module.{name}": value for name, value in STATE.items()}},
        {"teacher": {f"module._orig_mod.{name}": value for name, value in STATE.items()}, "step": 7},
        {
            "student": {"a.weight": torch.zeros(1)},
            "teacher": {"dino_head.mlp": torch.zeros(1)} | {f"backbone.{name}": v for name, v in STATE.items()},
        },
        {"model": {"state_dict": STATE}},
    ],
)
def test_wrapped_states_are_unwrapped_and_their_prefixes_removed(tmp_path, wrapped):
    torch.save(wrapped, tmp_path / "a.pth")
    assert_is_state(read_state_dict(tmp_path / "a.pth"))


class Inner(torch.nn.Module):
    """A state with the names of STATE; odd sizes, a shared storage and half precision, as in OpenAI's files."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(3, 2).half()
        self.a.load_state_dict({name.removeprefix("a."): value for name, value in STATE.items()})

    def forward(self, x):
        return self.a(x.half())


def script(path):
    torch.jit.trace(Inner(), torch.zeros(1, 3)).save(str(path))
    return path


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_torchscript_archive_is_read_without_opening_its_code(tmp_path):
    script(tmp_path / "whole.pt")
    assert_is_state(read_state_dict(tmp_path / "whole.pt"))
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "no-code.pt", "w") as without:
        for name in whole.namelist():
            without.writestr(name, b"raise SystemExit" if "/code/" in name else whole.read(name))
    assert_is_state(read_state_dict(tmp_path / "no-code.pt"))


class Attack:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_no_pickle_runs_code(tmp_path):
    marker, file = tmp_path / "ran", tmp_path / "a.pth"
    refused = "could run code, so it was not read: .*mkdir.*save only its state dict"

    torch.save({"a": Attack(marker)}, file)
    with pytest.raises(WeightsError, match=refused):
        read_state_dict(file)
    torch.save({"a": Attack(marker)}, file, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=refused):
        read_state_dict(file)
    file.write_bytes(pickle.dumps({"a": Attack(marker)}))
    with pytest.raises(WeightsError):
        read_state_dict(file)
    with zipfile.ZipFile(script(tmp_path / "whole.pt")) as whole, zipfile.ZipFile(file, "w") as altered:
        for name in whole.namelist():
            is_root = name.endswith("/data.pkl")
            altered.writestr(name, pickle.dumps(Attack(marker), protocol=2) if is_root else whole.read(name))
    with pytest.raises(WeightsError, match=refused):
        read_state_dict(file)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Attack(marker)))
    assert marker.exists()  # a plain unpickler runs the code


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy", "torchscript"])
@pytest.mark.parametrize("keep", [0, 5, 40, 150, -5])
def test_a_truncated_file_is_named(tmp_path, kind, keep):
    whole = tmp_path / "whole"
    if kind == "safetensors":
        save_file(STATE, whole)
    elif kind == "torchscript":
        script(whole)
    else:
        torch.save(STATE, whole, _use_new_zipfile_serialization=kind == "zip")
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"cut\.pth: cannot be read: truncated or of another format"):
        read_state_dict(tmp_path / "cut.pth")


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_torchscript_archive_with_a_short_storage_is_refused(tmp_path):
    with zipfile.ZipFile(script(tmp_path / "whole.pt")) as whole, zipfile.ZipFile(tmp_path / "a.pt", "w") as altered:
        for name in whole.namelist():
            altered.writestr(name, whole.read(name)[: 2 if "/data/" in name else None])
    with pytest.raises(WeightsError, match=r"a\.pt: cannot be read: truncated or of another format: RuntimeError"):
        read_state_dict(tmp_path / "a.pt")


def test_files_without_tensors_and_missing_files_are_named(tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        read_state_dict(tmp_path / "none.pth")
    for content in ({"epoch": 1}, {"state_dict": {}}, [1, 2], torch.zeros(2)):
        torch.save(content, tmp_path / "a.pth")
        with pytest.raises(WeightsError, match="contains no named tensors"):
            read_state_dict(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_text("<html>404</html>")
    with pytest.raises(WeightsError, match="truncated or of another format"):
        read_state_dict(tmp_path / "a.pth")


def test_a_state_that_does_not_fit_is_refused_with_the_differences(tmp_path):
    check_state(tmp_path, STATE, STATE)
    with pytest.raises(WeightsError) as caught:
        check_state(tmp_path, STATE, {"a.weight": torch.zeros(3, 2), "b": torch.zeros(1)}, model="vit")
    text = f"{tmp_path}: weights do not fit vit: missing: a.bias; surplus: b; a.weight: expected (2, 3), found (3, 2)"
    assert str(caught.value) == text
