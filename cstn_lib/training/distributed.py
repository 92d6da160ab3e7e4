"""One training on several processes: the same batches, statistics and losses as on one.

A batch of the configuration is a batch of all processes together, cut into parts. Gradients are
averaged by `torch.nn.parallel.DistributedDataParallel`; what else depends on the whole batch is
here: which images a process takes, and the statistics of batch norm.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.utils.data import Sampler

from cstn_lib.support.errors import InputError

__all__ = ["BatchParts", "processes", "shared_batch_norm"]


def processes(device: str) -> PartialState:
    """Which process this is, of how many; alone unless a launcher started several.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
    """
    return PartialState(cpu=device == "cpu")


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
        self.order = order
        self.batch_size = batch_size
        self.part = part
        self.parts = parts

    def __len__(self) -> int:
        whole, rest = divmod(len(self.order), self.batch_size)
        return whole + (rest >= self.parts)

    def __iter__(self) -> Iterator[list[int]]:
        images = list(self.order)
        for step in range(len(self)):
            batch = images[step * self.batch_size : (step + 1) * self.batch_size]
            yield batch[self.part :: self.parts]

    def share(self, step: int) -> float:
        """This process's share of the images of a batch, times the number of processes.

        The weight of its mean loss in the average over processes.
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
            count = wide.new_tensor([x.numel() / x.shape[1]])
            count, total, squares = _Sum.apply(
                torch.cat([count, wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3))])
            ).split([1, x.shape[1], x.shape[1]])
            mean = total / count
            variance = (squares / count - mean.square()).clamp(min=0)
            with torch.no_grad():
                self.num_batches_tracked += 1
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            scale = self.weight * (variance + self.eps).rsqrt()
            shift = self.bias - mean * scale
            return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes; each process's loss depends on it, so gradients are summed, too."""

    @staticmethod
    def forward(ctx, values):  # type: ignore[no-untyped-def]
        total = values.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        total = gradient.clone()
        torch.distributed.all_reduce(total)
        return total
