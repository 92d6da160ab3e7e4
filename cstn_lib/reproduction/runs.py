"""The run store: a trained network is a folder, named by the hash of its configuration and data.

    runs/birds-cub/cstn-seed0-1f2e3d4c5b/
        config.json                   the experiment and the fingerprint of its training images
        checkpoint.safetensors        while training: network, optimizer, history
        model.safetensors             the trained network
        history.csv                   one row per epoch
        predictions-test.parquet      see `cstn_lib.evaluation.predictions`
        predictions-test-views.parquet  the same for three views
        run.json                      written last: versions, machine, seconds; marks a finished run
        lock                          held while a process works here; empty

Asking for a run that is finished opens it; one that was interrupted continues from its last epoch;
any other is trained. Two runs share a folder only when they are the same run. Two commands may ask
for one run at the same time: the second waits for the first and then finds it finished.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cstn_lib.data import ImageSet, open_split
from cstn_lib.data.maps import MapSet, is_stored, open_maps
from cstn_lib.evaluation.predictions import TABLE_VERSION, array, load_table, save_table
from cstn_lib.models import build_model
from cstn_lib.outputs import Localizer
from cstn_lib.reproduction.experiments import Experiment
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.disk import alone_in
from cstn_lib.support.errors import InputError, first_line
from cstn_lib.support.machine import provenance
from cstn_lib.support.project import project_folder
from cstn_lib.training.engine import fit, predict, resolve_device, save_tensors

Content = TypeVar("Content")

TRAINING_VERSION = 4
"""Part of every run's name; raised when a change of the code changes what a training gives."""


@dataclass(frozen=True)
class RunStore:
    """All runs below one folder.

    Attributes:
        folder: of the runs, as `cstn_lib.support.project.user_path` takes it; where nothing is
            given, ``runs/`` of the repository.
        data_root: folder or archive of a data set that is read, see `cstn_lib.data.open_split`.
        device: one of `cstn_lib.training.engine.DEVICES`; None: ``"auto"``.
    """

    folder: object = None
    data_root: object = None
    device: str | None = None

    def run(self, experiment: Experiment) -> Run:
        """The finished run of an experiment: opened, resumed or trained."""
        run = self.open(experiment)
        if not run.finished:
            with run.held():
                if not run.finished:  # by another command in the meantime
                    run.train()
        return run

    def open(self, experiment: Experiment) -> Run:
        """The run of an experiment as it stands, without training it."""
        resolve_device(self.device)  # before anything is made
        # draws or decodes what is not there yet
        train = open_split(experiment.data, experiment.training_split, self.data_root)
        model = replace(experiment.model, num_classes=train.num_classes)
        experiment = replace(experiment, model=model)
        identity = {"version": TRAINING_VERSION, "data": train.fingerprint}
        named = {**identity, "experiment": _chosen(experiment)}
        digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:10]
        identity["experiment"] = json.loads(json.dumps(asdict(experiment)))
        name = f"{experiment.name}-seed{experiment.seed}-{digest}"
        folder = project_folder("runs", self.folder) / experiment.data.name / name
        return Run(folder, experiment, identity, self)


@dataclass(frozen=True)
class Run:
    """One training and what it left; made by `RunStore`."""

    folder: Path
    experiment: Experiment
    identity: dict = field(repr=False)
    store: RunStore = field(repr=False)

    @property
    def finished(self) -> bool:
        return (self.folder / "run.json").is_file()

    @property
    def predicted(self) -> bool:
        """Whether the predictions tables of val and test are there."""
        return all(self.predictions_path(split).is_file() for split in ("val", "test"))

    @property
    def checkpoint(self) -> Path:
        """The file that training continues from."""
        return self.folder / "checkpoint.safetensors"

    @property
    def title(self) -> str:
        return f"{self.experiment.name} on {self.experiment.data.name}, seed {self.experiment.seed}"

    @cached_property
    def _splits(self) -> dict[str, ImageSet]:
        """Those that were opened, which takes a list of thousands of photographs."""
        return {}

    def split(self, name: str) -> ImageSet:
        """One split of the run's data, opened once."""
        if name not in self._splits:
            found = open_split(self.experiment.data, name, self.store.data_root)
            self._splits[name] = found
        return self._splits[name]

    def given(self, model: Localizer, split: str) -> ImageSet | MapSet:
        """One split as a network of this run is given it: of a frozen backbone, the maps."""
        images, device = self.split(split), resolve_device(self.store.device)
        if not (model.takes_maps and model.backbone.frozen and is_stored(images)):
            return images
        model.to(device=device, memory_format=torch.channels_last).eval()

        def compute(batch: Tensor) -> dict[str, Tensor]:
            return model.backbone.frozen_maps(model.normalize(batch.to(device)))

        backbone = [self.experiment.model.backbone, model.backbone.fingerprint()]
        learned = split == self.experiment.training_split
        return open_maps(images, backbone, compute, mirrored=learned)

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: see `cstn_lib.training.engine.fit`."""
        return self._read("history.csv", pd.read_csv)

    @property
    def facts(self) -> dict:
        """Versions, machine and seconds of the training."""
        return self._read("run.json", lambda path: json.loads(path.read_text(encoding="utf-8")))

    def model(self) -> Localizer:
        """The trained network, in evaluation mode on the CPU."""
        # what the backbone started from is overwritten: it need not be there any more
        model = build_model(replace(self.experiment.model, weights="none"))
        self._read("model.safetensors", lambda path: model.load_state_dict(load_file(path)))
        return model.eval()

    def _read(self, name: str, read: Callable[[Path], Content]) -> Content:
        try:
            return read(self.folder / name)
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            raise InputError(
                f"{self.folder / name}: cannot read this part of a run ({first_line(error)}); "
                "delete its folder to train again"
            ) from error

    def predictions_path(self, split: str, *, views: bool = False) -> Path:
        """Where the predictions table of a split lies; the name tells the split's content."""
        asked = f"{split}-views" if views else split
        content = f"{self.split(split).fingerprint[:10]}-{TABLE_VERSION}"
        return self.folder / f"predictions-{asked}-{content}.parquet"

    def predictions(self, split: str = "test", *, views: bool = False) -> pd.DataFrame:
        """The predictions table on a split, computed on the first call.

        Args:
            views: the one for three views of each image, see `cstn_lib.evaluation.views`.

        Raises:
            InputError: the network knows other classes than the split's.
        """
        shown, known = self.split(split).num_classes, self.experiment.model.num_classes
        if shown != known:
            raise InputError(
                f"split {split!r}: {shown} classes, expected the {known} of {self.title}"
            )
        path = self.predictions_path(split, views=views)
        if not path.is_file():
            with self.held():
                if not path.is_file():  # by another command in the meantime
                    model = self.model()
                    table = predict(
                        model,
                        self.split(split) if views else self.given(model, split),
                        device=self.store.device,
                        precision=self.experiment.training.precision,
                        views=views,
                    )
                    save_table(table, path)
        return load_table(path)

    def held(self) -> AbstractContextManager[None]:
        """Keep other commands away from the folder; wait where another one has it."""
        return alone_in(self.folder, "lock", self.title)

    def save_backbone(self, path: Path) -> None:
        """Write the trained backbone alone, for `cstn_lib.models.ModelConfig.weights`."""
        save_tensors(path, self.model().backbone.state_dict())

    def train(self) -> None:
        """Train to the end, from the last epoch's checkpoint where there is one."""
        started = time.perf_counter()
        device = self.store.device
        teacher = self.experiment.teacher and self.store.run(self.experiment.teacher)
        _write_json(self.folder / "config.json", self.identity)
        torch.manual_seed(self.experiment.seed)
        if teacher:
            model = teacher.model()
            known = array(teacher.predictions("train"), "true_fused_box")[:, 0]
        else:
            model, known = build_model(self.experiment.model), None
        history = fit(
            model,
            self.experiment.training,
            self.given(model, self.experiment.training_split),
            None if self.experiment.name == "pretrain" else self.given(model, "val"),
            seed=self.experiment.seed,
            device=device,
            checkpoint=self.checkpoint,
            title=self.title,
            known=known,
        )
        save_tensors(self.folder / "model.safetensors", model.state_dict())
        with atomic_file(self.folder / "history.csv") as temporary:
            history.to_csv(temporary, index=False)
        facts = {
            "training_seconds": round(float(history["seconds"].sum()), 1),
            "total_seconds": round(time.perf_counter() - started, 1),
            **provenance(resolve_device(device)),
        }
        _write_json(self.folder / "run.json", facts)
        self.checkpoint.unlink(missing_ok=True)


def _chosen(config: object) -> object:
    """A configuration without what stands at its default: an option added later renames no run."""
    if isinstance(config, tuple):
        return [_chosen(part) for part in config]
    if not is_dataclass(config):
        return config
    values = {one.name: (getattr(config, one.name), one.default) for one in fields(config)}
    return {name: _chosen(value) for name, (value, usual) in values.items() if value != usual}


def _write_json(path: Path, content: dict) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
