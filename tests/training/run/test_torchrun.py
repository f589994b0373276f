"""Two processes give the same result as one."""

import csv
import multiprocessing
import shutil
from pathlib import Path

import pytest
from mvtec_tree import make_mvtec_tree
from small_run import assert_same_but_for_rounding
from two_processes import STARTED_BY, run_two

torch = pytest.importorskip("torch")

from safetensors.torch import load_file

from zsad_training.run import Processes
from zsad_training.train import main


@pytest.fixture
def flags(tmp_path) -> list[str]:
    data = make_mvtec_tree(tmp_path / "drawn", good=16, bad=12)
    # Defects without masks give the processes different numbers of images with pixel truth.
    shutil.copytree(data / "plate" / "test" / "blot", data / "plate" / "test" / "unmasked")
    settings = ["optimisation.steps_per_epoch=2", "optimisation.ema_decay=0.5", "validation.max_per_class=3"]
    return [
        *["--data", str(data), "--input-size", "64", "--workers", "0", "--device", "cpu", "--mixed-precision", "off"],
        *["--backbone", "test_vit", "--epochs", "2", "--batch-size", "8", "--trainable-blocks", "2"],
        *["--set", *settings],
    ]


def losses(folder: Path) -> list[tuple[str, float]]:
    with (folder / "log.csv").open() as file:
        return [(row["step"] + row["metric"], float(row["value"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("started_by", STARTED_BY)
def test_two_processes_give_the_same_weights_as_one(tmp_path, flags, started_by):
    assert main([*flags, "--out", str(tmp_path / "one")]) == 0
    two = [*flags, "--accumulate", "2", "--out", str(tmp_path / "two")]
    told = run_two("train", two, tmp_path, started_by=started_by)
    assert told == f"{tmp_path / 'two' / 'best.safetensors'}\n"  # only the first process prints
    expected, found = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [key for key, _ in found] == [key for key, _ in expected]
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], abs=2e-5)  # rounded
    assert_same_but_for_rounding(*(load_file(tmp_path / run / "best.safetensors") for run in ("two", "one")))


def test_one_process_does_not_change_gradients():
    parameter, unused = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, 2.0])
    Processes(device=torch.device("cpu")).sum_gradients([parameter, unused])
    assert parameter.grad.tolist() == [1.0, 2.0]
    assert unused.grad is None


def share_with_another(rank: int, store: Path) -> None:
    """The work of one of two processes."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    made: list[int] = []

    def make() -> dict[str, int]:
        made.append(rank)
        return {"made by": rank}

    processes = Processes(device=torch.device("cpu"), rank=rank, count=2)
    assert processes.from_first(make) == {"made by": 0}
    assert made == ([0] if rank == 0 else [])
    assert processes.gather({"of": rank}) == [{"of": 0}, {"of": 1}]
    values = [torch.full((2,), float(rank)), torch.tensor(rank)]
    processes.copy_from_first(values)
    assert [value.tolist() for value in values] == [[0.0, 0.0], 0]
    torch.distributed.destroy_process_group()


def test_two_processes_exchange_results(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=share_with_another, args=(rank, tmp_path / "store")) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0, 0]
