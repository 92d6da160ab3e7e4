"""What ``cstn reproduce`` would do, without doing it: its ``--dry-run``.

Nothing is drawn, decoded, downloaded, trained or written. Of photographs that were not decoded yet
the lists are read and the files' headers.
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

from cstn_lib.config import ModelConfig
from cstn_lib.data import DataConfig, SplitOutline, outline
from cstn_lib.models import build_model
from cstn_lib.reproduction.batch import asked_for, chosen_notebooks, store_of
from cstn_lib.reproduction.experiments import Experiment
from cstn_lib.reproduction.runs import RunStore

MOMENTS = {"adamw": 2, "sgd": 1}
"""Numbers that each optimizer keeps for each number that it trains."""


@cache
def bytes_on_disk(model: ModelConfig, optimizer: str) -> tuple[int, int]:
    """Of a finished run's network, and of a checkpoint in training; shapes are all it takes."""
    with torch.device("meta"):  # where the backbone starts may have to be downloaded
        network = build_model(replace(model, weights="none"))
    state = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    trained = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    return state, state + MOMENTS[optimizer] * trained


@dataclass(frozen=True)
class Plan:
    """What would be done; `str` of it fits a terminal.

    Attributes:
        profile: its name.
        notebooks: that would be executed, in reading order.
        trainings: one row per training: ``experiment``, ``data set``, ``seed``, ``state``
            (``"finished"``, ``"begun"`` or ``"to do"``), ``images``, ``epochs``, ``steps``, and in
            bytes ``weights`` and ``checkpoint``.
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
        groups = self.trainings.groupby(["experiment", "data set"], sort=False)
        table = groups.agg(
            seeds=("seed", lambda seeds: " ".join(map(str, seeds))),
            state=("state", _joined),
            images=("images", "first"),
            epochs=("epochs", "first"),
            steps=("steps", "first"),
            disk=("weights", "first"),
        )
        formats = {"images": "{:,}".format, "steps": "{:,}".format, "disk": _gb}
        return table.reset_index().to_string(index=False, formatters=formats)


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
    # where torchvision keeps what `cstn_lib.backbones` starts from
    kept = Path(torch.hub.get_dir()) / "checkpoints"
    starting = {}
    for name in dict.fromkeys(e.model.backbone for e in needed if e.model.weights == "imagenet"):
        published = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        starting[name] = kept / Path(published.url).name
    return Plan(str(parameters["profile"]), notebooks, pd.DataFrame(rows), images, starting)


def _row(experiment: Experiment, train: SplitOutline, store: RunStore) -> dict[str, object]:
    state = "to do"
    if train.fingerprint is not None:  # or its images are new, and so would be the run
        run = store.open_on(experiment, train.classes, train.fingerprint)
        state = "finished" if run.finished else "begun" if run.begun else state
    model = replace(experiment.model, num_classes=train.classes)
    training = experiment.training
    weights, checkpoint = bytes_on_disk(model, training.optimizer)
    return {
        "experiment": experiment.name,
        "data set": experiment.data.name,
        "seed": experiment.seed,
        "state": state,
        "images": train.images,
        "epochs": training.epochs,
        "steps": training.epochs * math.ceil(train.images / training.batch_size),
        "weights": weights,
        "checkpoint": checkpoint,
    }


def _joined(states: pd.Series) -> str:
    """``to do``, or ``2 finished, 1 to do`` where seeds differ."""
    counts = states.value_counts(sort=False)
    return ", ".join(f"{n} {state}" if len(counts) > 1 else state for state, n in counts.items())


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.1f} MB"
