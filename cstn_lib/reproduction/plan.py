"""What ``cstn reproduce`` would do, without doing it: its ``--dry-run``.

Which trainings the chosen notebooks need, on which images, which of them are finished, and what
memory and disk they take. Nothing is drawn, decoded, downloaded, trained or written. Of photographs
that were not decoded yet the lists are read and the files' headers.

Memory is that of one training step in float32 as a GPU takes it: parameters, gradients, the
optimizer's moments, and what the forward pass keeps for the backward pass. The last is measured:
the network runs on torch's ``meta`` device, which computes shapes alone. Workspaces of the
convolutions come on top; bfloat16 takes less.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pandas as pd
import torch
import torchvision
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cstn_lib.config import ModelConfig, TrainingConfig
from cstn_lib.data import DataConfig, SplitOutline, outline
from cstn_lib.models import build_model
from cstn_lib.reproduction.batch import asked_for, chosen_notebooks, store_of
from cstn_lib.reproduction.experiments import Experiment
from cstn_lib.reproduction.runs import RunStore

__all__ = ["Footprint", "Plan", "footprint", "make_plan"]


MOMENTS = {"adamw": 2, "sgd": 1}
"""Numbers that the optimizer keeps for each that it trains."""

FLOAT = 4  # bytes
GB = 1e9


@dataclass(frozen=True)
class Footprint:
    """What a network takes, in bytes.

    Attributes:
        parameters, gradients, moments, activations: of one training step, in memory.
        weights: of a finished run, on disk.
        checkpoint: of a run in training, on disk.
    """

    parameters: int
    gradients: int
    moments: int
    activations: int
    weights: int
    checkpoint: int

    @property
    def step(self) -> int:
        """Memory of a training step."""
        return self.parameters + self.gradients + self.moments + self.activations


def footprint(model: ModelConfig, training: TrainingConfig, image_size: int) -> Footprint:
    """Measured without computing anything; see the head of this file.

    Args:
        model: with its number of classes.
        image_size: side of the square images in pixels.
    """
    # where the backbone starts changes nothing here, and may have to be downloaded
    parameters, trained, state, kept = _sizes(
        replace(model, weights="none"), training.batch_size, image_size
    )
    moments = MOMENTS[training.optimizer] * trained
    return Footprint(parameters, trained, moments, kept, state, state + moments)


@cache
def _sizes(model: ModelConfig, batch: int, side: int) -> tuple[int, int, int, int]:
    """Bytes of all parameters, of those trained, of the state, and of what the graph keeps."""
    with torch.device("meta"):
        network = build_model(model).train().to(memory_format=torch.channels_last)
        images, labels = torch.empty(batch, 3, side, side), torch.zeros(batch, dtype=torch.long)
    own = {tensor.untyped_storage()._cdata for tensor in _state(network)}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        key = tensor.untyped_storage()._cdata
        if key not in own:
            kept[key] = tensor  # held, so that no other takes its place
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), torch.device("meta"):
        output = network(images, labels=labels)
        network.losses(output, labels, TrainingConfig())
    return (
        FLOAT * sum(p.numel() for p in network.parameters()),
        FLOAT * sum(p.numel() for p in network.parameters() if p.requires_grad),
        sum(t.numel() * t.element_size() for t in network.state_dict().values()),
        sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
    )


def _state(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


@dataclass(frozen=True)
class Plan:
    """What would be done; `str` of it fits a terminal.

    Attributes:
        profile: its name.
        notebooks: that would be executed, in reading order.
        trainings: one row a training: ``experiment``, ``data set``, ``seed``, ``state``
            (``"finished"``, ``"begun"`` or ``"to do"``), ``images``, ``epochs``, ``steps``, and in
            bytes ``memory``, ``weights`` and ``checkpoint``.
        images: bytes of pixels still to be drawn or decoded, by data set.
        starting: where torchvision keeps the starting weights that are needed, by backbone.
    """

    profile: str
    notebooks: Sequence[str]
    trainings: pd.DataFrame
    images: dict[str, int]
    starting: dict[str, Path]

    def __str__(self) -> str:
        rows = self.trainings
        todo = rows[rows["state"] != "finished"]
        counts = rows["state"].value_counts()
        states = ", ".join(f"{counts.get(s, 0)} {s}" for s in ("finished", "begun", "to do"))
        lines = [
            self._table(),
            "",
            f"{len(rows)} trainings of profile {self.profile}: {states}",
            f"steps to do: {todo['steps'].sum():,}",
            f"memory of the largest step: {_gb(todo['memory'].max() if len(todo) else 0)} "
            "(float32, without workspaces; bfloat16 takes less)",
            f"disk for runs: {_gb(todo['weights'].sum())}, and while training twice the largest "
            f"checkpoint: {_gb(2 * todo['checkpoint'].max() if len(todo) else 0)}",
        ]
        for data, size in self.images.items():
            lines.append(f"disk for images of {data}: {_gb(size) if size else 'there already'}")
        for backbone, path in self.starting.items():
            where = "there already" if path.is_file() else "torchvision will download them"
            lines.append(f"starting weights of {backbone}: {where}, {path}")
        lines.append(f"notebooks: {' '.join(name[:2] for name in self.notebooks)}")
        return "\n".join(lines)

    def _table(self) -> str:
        """Seeds share a row."""
        rows = []
        for (name, data), seeds in self.trainings.groupby(["experiment", "data set"], sort=False):
            first = seeds.iloc[0]
            rows.append(
                {
                    "experiment": name,
                    "data set": data,
                    "seeds": " ".join(map(str, seeds["seed"])),
                    "state": _joined(seeds["state"]),
                    "images": f"{first['images']:,}",
                    "epochs": first["epochs"],
                    "steps": f"{first['steps']:,}",
                    "memory": _gb(first["memory"]),
                    "disk": _gb(first["weights"]),
                }
            )
        return pd.DataFrame(rows).to_string(index=False)


def make_plan(only: Sequence[str], parameters: dict[str, object]) -> Plan:
    """What `cstn_lib.reproduction.batch.reproduce` would do with these arguments.

    Raises:
        InputError: a name is unknown, or a data set is not as expected.
    """
    notebooks = chosen_notebooks(only)
    needed, store = asked_for(notebooks, parameters), store_of(parameters)
    splits: dict[tuple[DataConfig, str], SplitOutline] = {}
    for experiment in needed:
        for split in (experiment.training_split, "val", "test"):
            if (experiment.data, split) not in splits:
                splits[experiment.data, split] = outline(experiment.data, split, store.data_root)
    images: dict[str, int] = {}
    for (data, _), found in splits.items():
        images[data.name] = images.get(data.name, 0) + found.missing_bytes
    rows = [_row(e, splits[e.data, e.training_split], store) for e in needed]
    backbones = [e.model.backbone for e in needed if e.model.weights == "imagenet"]
    starting = {name: _downloaded(name) for name in backbones}
    return Plan(str(parameters["profile"]), notebooks, pd.DataFrame(rows), images, starting)


def _row(experiment: Experiment, train: SplitOutline, store: RunStore) -> dict[str, object]:
    training = experiment.training
    state = "to do"
    if train.fingerprint is not None:  # or its images are new, and so would be the run
        run = store.open_on(experiment, train.classes, train.fingerprint)
        state = "finished" if run.finished else "begun" if run.begun else state
    model = replace(experiment.model, num_classes=train.classes)
    takes = footprint(model, training, experiment.data.image_size)
    return {
        "experiment": experiment.name,
        "data set": experiment.data.name,
        "seed": experiment.seed,
        "state": state,
        "images": train.images,
        "epochs": training.epochs,
        "steps": training.epochs * math.ceil(train.images / training.batch_size),
        "memory": takes.step,
        "weights": takes.weights,
        "checkpoint": takes.checkpoint,
    }


def _downloaded(backbone: str) -> Path:
    """Where torchvision keeps the ImageNet weights that `cstn_lib.backbones` starts from."""
    published = torchvision.models.get_model_weights(backbone)["IMAGENET1K_V1"]
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name


def _joined(states: pd.Series) -> str:
    """``to do``, or ``2 finished, 1 to do`` where seeds differ."""
    counts = states.value_counts(sort=False)
    if len(counts) == 1:
        return str(counts.index[0])
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def _gb(size: float) -> str:
    return f"{size / GB:.2f} GB" if size >= GB / 100 else f"{size / 1e6:.1f} MB"
