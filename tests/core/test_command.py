import pytest

from zsad_core.command import guarded
from zsad_core.errors import ConfigError, DatasetError


def raising(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("a.yaml:1: x\na.yaml:2: y"), 2, "zsad-x: a.yaml:1: x\nzsad-x: a.yaml:2: y\n"),
        (DatasetError("no such folder"), 1, "zsad-x: no such folder\n"),
        (PermissionError(13, "Permission denied", "/o"), 1, "zsad-x: [Errno 13] Permission denied: '/o'\n"),
        (KeyboardInterrupt(), 1, "zsad-x: interrupted\n"),
    ],
)
def test_each_error_gives_its_lines_and_an_exit_code(capsys, error, code, said):
    assert guarded("zsad-x", lambda: raising(error)) == code
    assert capsys.readouterr().err == said


def test_the_trace_of_a_data_worker_is_left_out(capsys):
    torch_data = pytest.importorskip("torch.utils.data")

    class Broken(torch_data.Dataset):
        def __getitem__(self, index: int) -> int:
            raise DatasetError("a.png: the file is empty")

    loader = torch_data.DataLoader(Broken(), sampler=range(2), num_workers=1)
    assert guarded("zsad-x", lambda: print(list(loader))) == 1
    assert capsys.readouterr().err == "zsad-x: a.png: the file is empty\n"


def test_an_error_in_the_code_is_not_caught():
    with pytest.raises(ZeroDivisionError):
        guarded("zsad-x", lambda: print(1 / 0))
