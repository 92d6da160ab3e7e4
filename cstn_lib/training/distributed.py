"""One training on several processes: the same batches, statistics and losses as on one.

A batch of the configuration is a batch of all processes together, cut into parts. Gradients are
averaged by `torch.nn.parallel.DistributedDataParallel`; what else depends on the whole batch is
here: which images a process takes, and the statistics of batch norm.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from cstn_lib.support.errors import InputError


@dataclass(frozen=True)
class Processes:
    """Which process this is (`rank`, from 0), of how many together, and what it computes on."""

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that speaks and writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            distributed.barrier()

    def of_each(self, value: Any) -> list[Any]:
        """What each has, told to all."""
        told = [value] * self.count
        if self.count > 1:
            distributed.all_gather_object(told, value)
        return told

    def mean(self, values: Tensor) -> Tensor:
        """The mean over processes of a tensor, the same bits in each."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values / self.count

    def parallel(self, model: nn.Module) -> nn.Module:
        """The network whose gradients are averaged: each trained parameter needs one each step."""
        if self.count == 1:
            return model
        ids = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)


def processes(device: str) -> Processes:
    """Those that a launcher started together (``torchrun``, ``accelerate launch``); else one.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
    """
    own = torch.device(device)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Processes(own)
    if device == "cuda":
        own = torch.device(device, int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    if not distributed.is_initialized():
        distributed.init_process_group()  # gloo, and for tensors of a GPU nccl
    return Processes(own, distributed.get_rank(), distributed.get_world_size())


class BatchParts(Sampler[list[int]]):
    """One process's part of each batch.

    Parts of a batch differ by one image at most and never overlap. A last batch with fewer images
    than processes is left out.

    Args:
        order: the images of an epoch, the same in all processes.
        batch_size: of all parts together.
        part, parts: which process of how many.

    Raises:
        InputError: there are fewer images in a batch than processes.
    """

    def __init__(self, order: Sampler[int], batch_size: int, part: int = 0, parts: int = 1) -> None:
        if batch_size < parts:
            raise InputError(
                f"batch_size {batch_size}: expected at least one image for each of {parts} "
                "processes"
            )
        self.order, self.batch_size = order, batch_size
        self.part, self.parts = part, parts

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.batch_size)
        return whole + (rest >= self.parts)

    def __iter__(self) -> Iterator[list[int]]:
        images = list(self.order)
        for step in range(len(self)):
            batch = images[step * self.batch_size : (step + 1) * self.batch_size]
            yield batch[self.part :: self.parts]

    def share(self, step: int) -> float:
        """The weight of this process's mean loss in the average over processes.

        Its share of the images of the batch, times the number of processes.
        """
        count = min(self.batch_size, len(self.order) - step * self.batch_size)
        return len(range(self.part, count, self.parts)) * self.parts / count


@contextmanager
def shared_batch_norm(model: nn.Module, parts: int) -> Iterator[nn.Module]:
    """The network with batch norms that see the images of all processes; afterwards as it was."""
    norms = [m for m in model.modules() if type(m) is nn.BatchNorm2d] if parts > 1 else []
    for norm in norms:
        norm.__class__ = _SharedBatchNorm2d  # `torch.nn.SyncBatchNorm` refuses to run on a CPU
    try:
        yield model
    finally:
        for norm in norms:
            norm.__class__ = nn.BatchNorm2d


class _SharedBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` over the images of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            wide = x.float()
            count = _Sum.apply(wide.new_tensor(x.numel() / x.shape[1]))
            # first the mean, then the squares of what differs from it: the difference of two large
            # sums would lose the variance of a map far from zero
            mean = _Sum.apply(wide.sum((0, 2, 3))) / count
            centred = wide - mean[:, None, None]
            variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            scale = self.weight * (variance + self.eps).rsqrt()
            return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes; each process's loss depends on it, so gradients are summed, too."""

    @staticmethod
    def forward(ctx, values):  # type: ignore[no-untyped-def]
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return _Sum.apply(gradient)
