"""Training and prediction, on accelerate: a CPU, a GPU or several, float32 or bfloat16.

`fit` follows the recipe that makes CSTN work (see notebook 05): the features are warmed up while
every theta stays at the identity, then the localization networks are let go at a fraction of the
learning rate and without weight decay.

After each epoch one checkpoint file is replaced: network, optimizer, history. Everything random is
a function of (seed, epoch), so training that was killed continues from there to the same result.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2.functional import horizontal_flip

from cstn_lib.config import TrainingConfig
from cstn_lib.data.images import ImageSet
from cstn_lib.evaluation.boxes import BoxList
from cstn_lib.evaluation.metrics import evaluate
from cstn_lib.evaluation.predictions import describe, judge, to_table
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError, first_line, unknown_name
from cstn_lib.support.progress import Progress
from cstn_lib.training.distributed import BatchParts, shared_batch_norm

__all__ = [
    "DEVICES",
    "TrainingConfig",
    "TrainingDivergedError",
    "check_precision",
    "fit",
    "make_accelerator",
    "predict",
    "resolve_device",
    "supports_bfloat16",
]

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "bfloat16")
PREDICT_BATCH = 128


class TrainingDivergedError(InputError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


def supports_bfloat16(device: str) -> bool:
    """Whether bfloat16 is fast on this device: matrix units on a CPU, Ampere or later on a GPU."""
    if resolve_device(device) == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch tells this only privately; where it no longer does, float32 is right if slower
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def check_precision(precision: str) -> None:
    """Refuse what is not one of `PRECISIONS`.

    Raises:
        InputError: it is not.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)


def make_accelerator(device: str = "auto", precision: str = "float32") -> Accelerator:
    """An accelerator for one of `DEVICES`.

    Raises:
        InputError: the device is unknown or absent, or the precision unknown.
    """
    resolved = resolve_device(device)
    check_precision(precision)
    # accelerate keeps one state a process and refuses to change it; a notebook may want both
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=resolved == "cpu",
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        # thetas rest during the warm-up, and a level that does not vote is not used at all
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def resolve_device(device: str | None) -> str:
    """``"cpu"`` or ``"cuda"`` for one of `DEVICES`; None stands for ``"auto"``.

    Raises:
        InputError: the device is unknown or absent.
    """
    device = "auto" if device is None else device
    if device not in DEVICES:
        raise unknown_name("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device 'cuda': no CUDA device is available here; expected 'auto' or 'cpu'"
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


@contextmanager
def _in_one_line() -> Iterator[None]:
    """What is wrong with an image in one line, also where another process loads it.

    torch raises its error again with the traceback of that process before the message.
    """
    try:
        yield
    except InputError as error:
        *traceback, last = str(error).splitlines()
        if not traceback:
            raise
        raise InputError(last.partition(": ")[2]) from error


@_in_one_line()
def fit(
    model: nn.Module,
    config: TrainingConfig,
    train: ImageSet,
    val: ImageSet | None,
    *,
    seed: int,
    device: str,
    checkpoint: Path,
    title: str,
) -> pd.DataFrame:
    """Train in place; continue from `checkpoint` where one exists.

    Args:
        model: an `nn.Module` with the interface of `cstn_lib.outputs.Localizer`.
        train: labels are used, boxes are not.
        val: watched after each epoch, where given; nothing is chosen by it here.
        seed: of the order and the flips of the images, and of what is random within the network.
        checkpoint: file replaced after each epoch.
        title: names the run in the progress bar and in errors.

    Returns:
        the history: one row an epoch with ``epoch``, the mean terms of the loss (see the network's
        ``losses``), the metrics on `val` after ``val_``, and the ``seconds`` of training, without
        the time that watching `val` took.

    Raises:
        TrainingDivergedError: the loss is no longer finite.
        InputError: a name in `config` is unknown or the checkpoint is damaged.
    """
    accelerator = make_accelerator(device, config.precision)
    model.to(device=accelerator.device, memory_format=torch.channels_last)
    optimizer = _make_optimizer(model, config)
    history = _load_checkpoint(checkpoint, model, optimizer)
    order = EpochOrder(len(train), seed)
    parts = accelerator.num_processes
    batches = BatchParts(order, config.batch_size, accelerator.process_index, parts)
    loader = DataLoader(
        Mirrored(train),
        batch_sampler=batches,
        collate_fn=_as_is,
        **_loading(accelerator.device),
    )
    optimizer = accelerator.prepare_optimizer(optimizer)
    steps = len(loader)
    total, done = config.epochs * steps, len(history) * steps
    with (
        _own_random_numbers(accelerator),
        shared_batch_norm(model, parts),
        _prepared(accelerator, model) as network,
        Progress(
            total=total,
            initial=done,
            desc=title,
            disable=not accelerator.is_main_process,
        ) as bar,
    ):
        for epoch in range(len(history), config.epochs):
            started = time.perf_counter()
            order.epoch = epoch
            torch.manual_seed(_epoch_seed(seed, epoch, accelerator.process_index))
            network.train()
            means = RunningMeans(f"{title}, epoch {epoch + 1}", checkpoint)
            for step, (images, labels) in enumerate(loader):
                images = images.to(accelerator.device, non_blocking=True)
                labels = labels.to(accelerator.device, non_blocking=True)
                scale = lr_scale(config, (epoch * steps + step) / (config.epochs * steps))
                for group in optimizer.param_groups:
                    group["lr"] = group["highest_lr"] * scale
                transform = epoch >= config.warmup_epochs
                output = network(images, transform=transform, labels=labels)
                losses = model.losses(output, labels, config)
                # the average over processes is then the mean over the batch's images
                losses = {name: loss * batches.share(step) for name, loss in losses.items()}
                optimizer.zero_grad()
                accelerator.backward(losses["loss"])
                optimizer.step()
                means.add(_averaged(accelerator, losses))
                bar.update()
            row = {"epoch": epoch + 1, **means.result()}
            seconds = time.perf_counter() - started
            state = f"loss {row['loss']:.3f}"
            if val is not None:
                watched = evaluate(_predict(accelerator, network, val, watching=True))
                row |= {f"val_{name}": value for name, value in watched.items()}
                state += f", val GT-Known {row['val_gt_known_loc']:.1%}"
            row["seconds"] = round(seconds, 2)
            history.append(row)
            bar.set_postfix_str(state)
            if accelerator.is_main_process:
                _save_checkpoint(checkpoint, model, optimizer, history)
    return pd.DataFrame(history)


@_in_one_line()
def predict(
    model: nn.Module, data: ImageSet, *, device: str, precision: str = "float32"
) -> pd.DataFrame:
    """The predictions table (`cstn_lib.evaluation.predictions`) of a network on a split."""
    accelerator = make_accelerator(device, precision)
    model.to(device=accelerator.device, memory_format=torch.channels_last)
    with _prepared(accelerator, model, evaluation_mode=True) as network:
        return _predict(accelerator, network, data, watching=False)


@contextmanager
def _prepared(
    accelerator: Accelerator, model: nn.Module, evaluation_mode: bool = False
) -> Iterator[nn.Module]:
    """The network as accelerate runs it, and afterwards as it was.

    accelerate wraps `forward` for its precision and marks the network as prepared; left in place,
    the next `fit` or `predict` of the same object would keep the old precision.
    """
    network = accelerator.prepare_model(model, evaluation_mode=evaluation_mode)
    try:
        yield network
    finally:
        accelerator.unwrap_model(network, keep_fp32_wrapper=False)
        for name in ("_is_accelerate_prepared", "forward"):
            model.__dict__.pop(name, None)


def _predict(
    accelerator: Accelerator, network: nn.Module, data: ImageSet, *, watching: bool
) -> pd.DataFrame:
    """The predictions table; quietly and without a sweep of thresholds while `watching`."""
    options = _loading(accelerator.device)
    loader = accelerator.prepare_data_loader(
        DataLoader(data, PREDICT_BATCH, collate_fn=_as_is, **options)
    )
    network.eval()
    parts: list[dict[str, np.ndarray]] = []
    start = 0
    bar = Progress(loader, f"predict {data.name} {data.split}", disable=watching)
    for images, labels in bar:
        with torch.inference_mode():
            columns = describe(network(images), labels)
        columns = accelerator.gather_for_metrics(columns)
        part = {name: value.cpu().numpy() for name, value in columns.items()}
        images_here = np.arange(start, start + len(part["label"]))
        truth = BoxList.of([data.boxes_of(i) for i in images_here])
        part = judge(part, truth, data.image_size, sweep=not watching)
        parts.append({"image": images_here, **part})
        start += len(images_here)
    table = to_table({name: np.concatenate([p[name] for p in parts]) for name in parts[0]})
    table.insert(3, "gt_boxes", [data.boxes_of(i).ravel() for i in range(len(data))])
    return table


@contextmanager
def _own_random_numbers(accelerator: Accelerator) -> Iterator[None]:
    """Leave torch's random numbers as they were, whatever is seeded and drawn within."""
    device = accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def _epoch_seed(seed: int, epoch: int, process: int) -> int:
    """Of what a network draws in an epoch: a function of (seed, epoch), another a process."""
    return int(np.random.SeedSequence([seed, epoch, process]).generate_state(1)[0])


def lr_scale(config: TrainingConfig, progress: float) -> float:
    """The learning rate's share of its highest value at a `progress` in [0, 1) of the training."""
    if config.schedule == "constant":
        return 1.0
    if config.schedule != "one-cycle":
        raise unknown_name("schedule", config.schedule, ("one-cycle", "constant"))
    rise = 0.1
    if progress < rise:
        return 0.05 + 0.95 * progress / rise
    return 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))


class EpochOrder(Sampler[int]):
    """The images of an epoch in random order, each mirrored with probability one half.

    Yields i for image i and N + i for its mirror image: a function of (seed, epoch) alone, whatever
    happened before and however many processes share the work.
    """

    def __init__(self, images: int, seed: int) -> None:
        self.images = images
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.images

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        mirrored = random.integers(0, 2, self.images) * self.images
        return iter((random.permutation(self.images) + mirrored).tolist())


class Mirrored(Dataset):
    """A split of N images as 2 N: item N + i is the mirror image of item i."""

    def __init__(self, data: ImageSet) -> None:
        self.data = data

    def __len__(self) -> int:
        return 2 * len(self.data)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        wanted = np.asarray(indices)
        images, labels = self.data.__getitems__((wanted % len(self.data)).tolist())
        mirrored = torch.from_numpy(wanted >= len(self.data))
        images[mirrored] = horizontal_flip(images[mirrored])
        return images, labels


def _loading(device: torch.device) -> dict[str, object]:
    """How batches are fetched: beside a GPU by other processes, into memory it can copy from."""
    if device.type != "cuda":
        return {}
    return {"num_workers": min(8, os.cpu_count() or 1), "pin_memory": True}


def _as_is(batch: object) -> object:
    """`ImageSet.__getitems__` returns whole batches: there is nothing left to collate."""
    return batch


def _averaged(accelerator: Accelerator, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Over processes, so that all of them see the same numbers and stop together."""
    values = accelerator.reduce(torch.stack([v.detach() for v in losses.values()]), "mean")
    return dict(zip(losses, values.unbind(), strict=True))


class RunningMeans:
    """Means of the losses over an epoch, which also notice NaN without slowing a GPU down."""

    def __init__(self, where: str, checkpoint: Path) -> None:
        self.where = where
        self.checkpoint = checkpoint
        self.steps: list[Tensor] = []
        self.checked = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        self.names = list(losses)
        self.steps.append(torch.stack(list(losses.values())))
        if len(self.steps) - self.checked >= (1 if self.steps[-1].device.type == "cpu" else 50):
            self._check()

    def result(self) -> dict[str, float]:
        self._check()
        return dict(zip(self.names, torch.stack(self.steps).mean(dim=0).tolist(), strict=True))

    def _check(self) -> None:
        unchecked = self.steps[self.checked :]
        finite = torch.stack(unchecked).isfinite().all(dim=1).tolist() if unchecked else []
        if not all(finite):
            step = self.checked + finite.index(False)
            values = zip(self.names, self.steps[step].tolist(), strict=True)
            kept = (
                f"kept in {self.checkpoint}"
                if self.checkpoint.exists()
                else "the untrained network"
            )
            raise TrainingDivergedError(
                f"{self.where}, step {step + 1}: the loss is not finite ("
                + ", ".join(f"{name} {value:.4g}" for name, value in values)
                + f"); the last good state is {kept}; try a lower learning rate"
            )
        self.checked = len(self.steps)


def _make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    moving = model.localization_parameters()
    slow = {id(parameter) for parameter in moving}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in slow]
    groups = [{"params": rest, "highest_lr": config.lr, "weight_decay": config.weight_decay}]
    if moving:
        slow_lr = config.lr * config.localization_lr
        groups.append({"params": moving, "highest_lr": slow_lr, "weight_decay": 0.0})
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    raise unknown_name("optimizer", config.optimizer, ("adamw", "sgd"))


# The checkpoint: one safetensors file, so that network, optimizer and history always agree.


def _save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, history: list[dict]
) -> None:
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(v) for key, v in state.items()}
    with atomic_file(path) as temporary:
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata={"history": json.dumps(history)})


def _load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[dict[str, float]]:
    if not path.exists():
        return []
    try:
        with safe_open(path, "pt") as file:
            history = json.loads(file.metadata()["history"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        model.load_state_dict(_below("model/", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _below("optimizer/", tensors).items():
            index, key = name.split("/")
            state.setdefault(int(index), {})[key] = value
        if not isinstance(history, list) or not state:
            raise ValueError("its history or optimizer is missing")
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable checkpoint ({first_line(error)}); delete it to train "
            "from the start"
        ) from error
    return history


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): value for n, value in tensors.items() if n.startswith(prefix)}
