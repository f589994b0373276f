"""The processes of one training run: one, or those that torchrun started."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from zsad_training.run.devices import pick_device

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process's place among all processes. All of them must call each method, in the same order."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process logs and saves."""
        return self.rank == 0

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def from_first(self, make: Callable[[], T]) -> T:
        """The result of `make`, which only the first process calls; the others get a copy."""
        if self.count == 1:
            return make()
        made = [make() if self.is_first else None]
        dist.broadcast_object_list(made, src=0, device=self.device)
        return cast(T, made[0])

    def gather(self, own: T) -> list[T]:
        """`own` of every process, by rank; in each process."""
        if self.count == 1:
            return [own]
        all_of_them: list[T | None] = [None] * self.count
        dist.all_gather_object(all_of_them, own)
        return cast(list[T], all_of_them)

    def copy_from_first(self, values: Iterable[Tensor]) -> None:
        """Overwrites the tensors with those of the first process."""
        for value in values if self.count > 1 else ():
            dist.broadcast(value, src=0)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes; it overwrites `values`."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces each gradient by its sum over the processes.

        A parameter without a gradient in every process keeps none: with a zero gradient the optimiser would decay it.
        DistributedDataParallel does not fit: with cached features only the head is called, batches are accumulated in
        parts, and blocks after the last tap have no gradient.
        """
        if self.count == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        has_gradient = torch.tensor([float(one.grad is not None) for one in trained], device=self.device)
        flat = [one.grad.flatten() if one.grad is not None else torch.zeros_like(one).flatten() for one in trained]
        has_gradient, *sums = self.sum(torch.cat([has_gradient, *flat])).split([len(trained), *map(len, flat)])
        for parameter, used, total in zip(trained, has_gradient.tolist(), sums, strict=True):
            parameter.grad = total.view_as(parameter) if used else None


def make_loader(
    pictures: Dataset[Any],
    batches: Sequence[list[int]],
    collate: Callable[[list[Any]], Any],
    *,
    workers: int,
    device: torch.device,
) -> DataLoader[Any]:
    """Loads the items of each batch in worker processes, in pinned memory for a GPU."""
    return DataLoader(
        pictures,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_one_thread,
    )


def _one_thread(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def usual_workers() -> int:
    """Default number of workers that prepare images: half of the cores, divided among torchrun's processes; 1 to 16.

    A worker reads 30 PNG files of 1024 px a second (benchmarks/loader.py), and a large GPU needs some hundred.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(cores // (2 * beside), 1), 16)


@contextmanager
def join_processes(device_name: str) -> Iterator[Processes]:
    """Joins the processes of torchrun, with gloo on CPUs and NCCL on GPUs, one GPU each. One process without torchrun.

    Raises:
        ValueError: the device does not exist, or there are more processes than GPUs.
    """
    device = pick_device(device_name)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(device=device)
        return
    if device.type == "cuda":
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"process {local} has no GPU, there are {gpus}: start torchrun --nproc_per_node={gpus}")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    # All wait while the first one evaluates, which may take long. If it dies, torchrun ends the others.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield Processes(device=device, rank=dist.get_rank(), count=count)
    finally:
        dist.destroy_process_group()
