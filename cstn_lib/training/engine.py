"""Training and prediction: on a CPU or a GPU, in float32 or bfloat16.

`fit` follows the recipe that makes CSTN work (see notebook 05): the features are warmed up while
every theta stays at the identity, then the localization networks are let go at a fraction of the
learning rate and without weight decay.

After each epoch one checkpoint file is replaced: network, optimizer, history. Everything random is
a function of (seed, epoch), so training that was killed continues from there: on a CPU to the same
bits, with as many threads; on a GPU to what a second undisturbed training would give, for there
sums of gradients (of `grid_sample`, among others) come in any order.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from cstn_lib.config import TrainingConfig
from cstn_lib.data.images import ImageSet
from cstn_lib.data.maps import MapSet
from cstn_lib.evaluation.boxes import BoxList
from cstn_lib.evaluation.metrics import evaluate
from cstn_lib.evaluation.predictions import describe, judge, to_table
from cstn_lib.evaluation.views import describe_views
from cstn_lib.losses import box_loss
from cstn_lib.outputs import Localizer, LocalizerOutput, ScoreMapOutput
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError, Interrupted, first_line, unknown_name
from cstn_lib.support.machine import processors
from cstn_lib.support.progress import Progress

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
    """Raises `InputError` for what is not one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Within it a network computes in one of `PRECISIONS`; its parameters are float32 in both."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


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
    """An image's error in one line, also where torch puts a loading process's traceback before."""
    try:
        yield
    except InputError as error:
        *traceback, last = str(error).splitlines()
        if not traceback:
            raise
        raise InputError(last.partition(": ")[2]) from error


@_in_one_line()
def fit(
    model: Localizer,
    config: TrainingConfig,
    train: ImageSet | MapSet,
    val: ImageSet | MapSet | None,
    *,
    seed: int,
    device: str,
    checkpoint: Path,
    title: str,
    known: np.ndarray | None = None,
) -> pd.DataFrame:
    """Train in place; continue from `checkpoint` where one exists.

    Args:
        train: labels are used, boxes are not.
        val: watched after each epoch, where given; nothing is chosen by it here.
        seed: of the order and the flips of the images, and of what is random within the network.
        checkpoint: file replaced after each epoch.
        title: names the run in the progress bar and in errors.
        known: (N, 4) for self-training: the boxes of the N images of `train` that windows learn
            (`cstn_lib.losses.box_loss`); then the localization networks alone are trained.

    Returns:
        the history: one row per epoch with ``epoch``, the mean terms of the loss (see the network's
        ``losses``), the metrics on `val` after ``val_``, and the ``seconds`` of training, without
        the time that watching `val` took.

    Raises:
        TrainingDivergedError: the loss or a weight is no longer finite.
        Interrupted: Ctrl-C; says what is kept.
        InputError: a name in `config` is unknown or the checkpoint is damaged.
    """
    check_precision(config.precision)
    on = torch.device(resolve_device(device))
    model.to(device=on, memory_format=torch.channels_last)
    if known is not None:  # nothing but windows is taught, and nothing else changes
        model.requires_grad_(False)
        for parameter in model.localization_parameters():
            parameter.requires_grad_(True)
    optimizer = _make_optimizer(model, config)
    history = _load_checkpoint(checkpoint, model, optimizer)
    order = EpochOrder(len(train), seed)
    pairs = Mirrored(train, known)
    loader = DataLoader(pairs, config.batch_size, sampler=order, collate_fn=tuple, **_loading(on))
    steps = len(loader)
    bar = Progress(total=config.epochs * steps, initial=len(history) * steps, desc=title)
    with _own_settings(on), bar:
        for epoch in range(len(history), config.epochs):
            means = RunningMeans(f"{title}, epoch {epoch + 1}", checkpoint)
            with means.until_ctrl_c():
                started = time.perf_counter()
                order.epoch = epoch
                torch.manual_seed(_epoch_seed(seed, epoch))
                for losses in _steps(model, config, optimizer, loader, epoch):
                    means.add(losses)
                    bar.update()
                row = {"epoch": epoch + 1, **means.result(model)}
                seconds = round(time.perf_counter() - started, 2)
                shown = {"loss": f"{row['loss']:.3f}"}
                if val is not None:
                    table = _predict(model, val, on, config.precision, watching=True)
                    row |= {f"val_{name}": value for name, value in evaluate(table).items()}
                    shown["val GT-Known"] = f"{row['val_gt_known_loc']:.1%}"
                history.append({**row, "seconds": seconds})
                bar.set_postfix(shown)
                _save_checkpoint(checkpoint, model, optimizer, history)
    return pd.DataFrame(history)


def _steps(
    model: Localizer,
    config: TrainingConfig,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    epoch: int,
) -> Iterator[dict[str, Tensor]]:
    """Take the steps of an epoch; the terms of each one's loss."""
    teaching = loader.dataset.boxes is not None
    model.train(not teaching)  # windows alone are taught: no statistics of batch norm
    device, steps = next(model.parameters()).device, len(loader)
    for step, batch in enumerate(loader):
        images, labels, *known = (_moved(part, device) for part in batch)
        scale = lr_scale(config, (epoch * steps + step) / (config.epochs * steps))
        for group in optimizer.param_groups:
            group["lr"] = group["highest_lr"] * scale
        with autocast(device, config.precision):
            output = model(images, transform=epoch >= config.warmup_epochs, labels=labels)
        losses = model.losses(output, labels, config)
        if teaching:
            far = box_loss(output.log_joint, output.boxes, labels, *known).mean()
            losses |= {"loss": losses["loss"] + config.box_weight * far, "loss_box": far}
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
        yield {name: loss.detach() for name, loss in losses.items()}


@_in_one_line()
def predict(
    model: Localizer,
    data: ImageSet | MapSet,
    *,
    device: str,
    precision: str = "float32",
    views: bool = False,
) -> pd.DataFrame:
    """The predictions table (`cstn_lib.evaluation.predictions`) of a network on a split.

    Args:
        views: ask for three views of each image, see `cstn_lib.evaluation.views`.
    """
    check_precision(precision)
    on = torch.device(resolve_device(device))
    model.to(device=on, memory_format=torch.channels_last)
    with _own_settings(on):
        return _predict(model, data, on, precision, watching=False, views=views)


def _predict(
    model: Localizer,
    data: ImageSet | MapSet,
    on: torch.device,
    precision: str,
    *,
    watching: bool,
    views: bool = False,
) -> pd.DataFrame:
    """The predictions table; quietly and without a sweep of thresholds while `watching`."""
    loader = DataLoader(data, PREDICT_BATCH, collate_fn=tuple, **_loading(on))
    model.eval()

    def network(images: Tensor) -> LocalizerOutput | ScoreMapOutput:
        with autocast(on, precision):
            return model(images)

    parts: list[dict[str, np.ndarray]] = []
    boxes = [data.boxes_of(index) for index in range(len(data))]
    bar = Progress(loader, f"predict {data.name} {data.split}", disable=watching)
    for start, batch in zip(range(0, len(data), PREDICT_BATCH), bar, strict=True):
        images, labels = (_moved(part, on) for part in batch)
        with torch.inference_mode():
            if views:
                columns = describe_views(network, images, labels)
            else:
                columns = describe(network(images), labels)
        part = {name: value.cpu().numpy() for name, value in columns.items()}
        truth = BoxList.of(boxes[start : start + len(labels)])
        parts.append(judge(part, truth, data.image_size, sweep=not watching))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    table = to_table({"image": np.arange(len(data)), **columns})
    table.insert(3, "gt_boxes", [some.ravel() for some in boxes])
    return table


@contextmanager
def _own_settings(device: torch.device) -> Iterator[None]:
    """Random numbers and products as the recipe has them; for the caller as they were.

    The environment (``TORCH_ALLOW_TF32_CUBLAS_OVERRIDE``) or the caller may want fewer digits.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []), tf32(False):
        yield


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Within it a GPU may round the factors of float32 products, or not; afterwards as before.

    Of matrix products and of convolutions: PyTorch lets it round the latter alone.
    """
    cudnn, digits = torch.backends.cudnn, torch.get_float32_matmul_precision()
    where, name, values = cudnn, "allow_tf32", (False, True)
    if hasattr(cudnn, "conv"):  # since PyTorch 2.9, which refuses to mix both ways
        where, name, values = cudnn.conv, "fp32_precision", ("ieee", "tf32")
    before = getattr(where, name)
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    setattr(where, name, values[allowed])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(digits)
        setattr(where, name, before)


def _epoch_seed(seed: int, epoch: int) -> int:
    """Of what a network draws in an epoch."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


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
    happened before.
    """

    def __init__(self, images: int, seed: int) -> None:
        self.images, self.seed, self.epoch = images, seed, 0

    def __len__(self) -> int:
        return self.images

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        mirrored = random.integers(0, 2, self.images) * self.images
        return iter((random.permutation(self.images) + mirrored).tolist())


class Mirrored(Dataset):
    """A split of N images as 2 N: item N + i is the mirror image of item i.

    Args:
        boxes: (N, 4) ``xyxy`` in [0, 1], one per image: given behind the label, as float32.
    """

    def __init__(self, data: ImageSet | MapSet, boxes: np.ndarray | None = None) -> None:
        self.data = data
        self.boxes = None
        if boxes is not None:
            mirrored = np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], 1)
            self.boxes = torch.from_numpy(np.concatenate([boxes, mirrored])).float()

    def __len__(self) -> int:
        return 2 * len(self.data)

    def __getitems__(self, indices: list[int]) -> tuple[Tensor | dict[str, Tensor], ...]:
        mirrored, rows = np.divmod(indices, len(self.data))
        found = self.data.oriented(rows, mirrored.astype(bool))
        return found if self.boxes is None else (*found, self.boxes[indices])


def _moved(batch: Tensor | dict[str, Tensor], device: torch.device) -> Tensor | dict[str, Tensor]:
    """Images, labels, or maps by level."""
    if isinstance(batch, dict):
        return {name: maps.to(device, non_blocking=True) for name, maps in batch.items()}
    return batch.to(device, non_blocking=True)


def _loading(device: torch.device) -> dict[str, object]:
    """How whole batches are fetched: for a GPU by other processes, into memory it can copy from."""
    if device.type != "cuda":
        return {}
    kept = {"persistent_workers": True}  # from epoch to epoch: starting them takes a second
    return {"num_workers": min(8, processors()), "pin_memory": True, **kept}


class RunningMeans:
    """Means of the losses over an epoch, which also notice NaN without slowing a GPU down.

    Args:
        where: the training and its epoch, for whoever is told why it stopped.
        checkpoint: what is kept then.
    """

    def __init__(self, where: str, checkpoint: Path) -> None:
        self.where, self.checkpoint = where, checkpoint
        self.steps: list[Tensor] = []
        self.checked = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        self.names = list(losses)
        self.steps.append(torch.stack(list(losses.values())))
        if len(self.steps) - self.checked >= (1 if self.steps[-1].device.type == "cpu" else 50):
            self._check_losses()

    def result(self, model: nn.Module) -> dict[str, float]:
        """The means, where losses and weights are finite: the last step is newer than its loss."""
        self._check_losses()
        for name, value in model.state_dict().items():
            if not value.isfinite().all():
                raise self._diverged(f"last step: {name} is not finite")
        return dict(zip(self.names, torch.stack(self.steps).mean(dim=0).tolist(), strict=True))

    @contextmanager
    def until_ctrl_c(self) -> Iterator[None]:
        """Ctrl-C in here raises `Interrupted`."""
        try:
            yield
        except KeyboardInterrupt as stop:
            raise Interrupted(
                f"{self.where}: stopped; {self._kept()}, and the same call goes on from there"
            ) from stop

    def _check_losses(self) -> None:
        unchecked = self.steps[self.checked :]
        finite = torch.stack(unchecked).isfinite().all(dim=1).tolist() if unchecked else []
        if not all(finite):
            step = self.checked + finite.index(False)
            values = zip(self.names, self.steps[step].tolist(), strict=True)
            listed = ", ".join(f"{name} {value:.4g}" for name, value in values)
            raise self._diverged(f"step {step + 1}: the loss is not finite ({listed})")
        self.checked = len(self.steps)

    def _diverged(self, found: str) -> TrainingDivergedError:
        advice = "try a lower learning rate"
        return TrainingDivergedError(f"{self.where}, {found}; {self._kept()}; {advice}")

    def _kept(self) -> str:
        kept = f"kept in {self.checkpoint}" if self.checkpoint.exists() else "the untrained network"
        return f"the last good state is {kept}"


def _make_optimizer(model: Localizer, config: TrainingConfig) -> torch.optim.Optimizer:
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
    path: Path, model: Localizer, optimizer: torch.optim.Optimizer, history: list[dict]
) -> None:
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": torch.as_tensor(v) for key, v in state.items()}
    save_tensors(path, tensors, {"history": json.dumps(history)})


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all."""
    contiguous = {name: value.cpu().contiguous() for name, value in tensors.items()}
    with atomic_file(path) as temporary:
        # `save_file` hides from the system's error that the disk is full
        temporary.write_bytes(save(contiguous, metadata))


def _load_checkpoint(
    path: Path, model: Localizer, optimizer: torch.optim.Optimizer
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
