"""The run store: a trained network is a folder, named by the hash of its configuration and data.

    runs/birds-cub/cstn-seed0-1f2e3d4c5b/
        config.json                   the experiment and the fingerprints of its data
        checkpoint.safetensors        while training: network, optimizer, history
        model.safetensors             the trained network
        history.csv                   one row an epoch
        predictions-test.parquet      see `cstn_lib.predictions`
        run.json                      written last: versions, machine, seconds; marks a finished run

Asking for a run that is finished opens it; one that was interrupted continues from its last epoch;
any other is trained. Two runs share a folder only when they are the same run.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from cstn_lib.atomic import atomic_file
from cstn_lib.data import ImageSet, open_split
from cstn_lib.engine import fit, predict
from cstn_lib.errors import InputError
from cstn_lib.experiments import Experiment
from cstn_lib.models import build_model
from cstn_lib.predictions import load_table, save_table
from cstn_lib.project import project_folder

__all__ = ["Run", "RunStore"]

TRAINING_VERSION = 1
"""Part of every run's name; raised when a change of the code changes what a training gives."""


@dataclass(frozen=True)
class RunStore:
    """All runs below one folder.

    Attributes:
        folder: of the runs; ``""`` means ``runs/`` of the repository.
        data_root: folder or archive of a data set that is read, see `cstn_lib.data.open_split`.
        device: one of `cstn_lib.engine.DEVICES`.
    """

    folder: str | Path = ""
    data_root: str | Path = ""
    device: str = "auto"

    def run(self, experiment: Experiment) -> Run:
        """The finished run of an experiment: opened, resumed or trained."""
        run = self.open(experiment)
        if not run.finished:
            run.train()
        return run

    def open(self, experiment: Experiment) -> Run:
        """The run of an experiment as it stands, without training it."""
        names = ("pretext", "val") if experiment.name == "pretext" else ("train", "val")
        prints = {name: self._split(experiment, name).fingerprint for name in names}
        config = json.loads(json.dumps(asdict(experiment)))
        identity = {"version": TRAINING_VERSION, "experiment": config, "data": prints}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
        name = f"{experiment.name}-seed{experiment.seed}-{digest}"
        folder = project_folder("runs", self.folder) / experiment.data.name / name
        return Run(folder, experiment, identity, self)

    def _split(self, experiment: Experiment, split: str) -> ImageSet:
        return open_split(experiment.data, split, self.data_root)


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
    def title(self) -> str:
        return f"{self.experiment.name} on {self.experiment.data.name}, seed {self.experiment.seed}"

    def split(self, name: str) -> ImageSet:
        """One split of the run's data."""
        return open_split(self.experiment.data, name, self.store.data_root)

    @property
    def history(self) -> pd.DataFrame:
        """One row an epoch: see `cstn_lib.engine.fit`."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def facts(self) -> dict:
        """Versions, machine and seconds of the training."""
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    def model(self) -> nn.Module:
        """The trained network, in evaluation mode on the CPU."""
        model = build_model(self.experiment.model)
        path = self.folder / "model.safetensors"
        try:
            model.load_state_dict(load_file(path))
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{path}: cannot read the trained network ({str(error).splitlines()[0]}); delete "
                f"{self.folder} to train again"
            ) from error
        return model.eval()

    def predictions_path(self, split: str) -> Path:
        """Where the predictions table of a split lies; the name tells the split's content."""
        return self.folder / f"predictions-{split}-{self.split(split).fingerprint[:10]}.parquet"

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """The predictions table on a split, computed on the first call."""
        path = self.predictions_path(split)
        if not path.is_file():
            table = predict(
                self.model(),
                self.split(split),
                device=self.store.device,
                precision=self.experiment.training.precision,
            )
            save_table(table, path)
        return load_table(path)

    def save_backbone(self, path: Path) -> None:
        """Write the trained backbone alone, for `cstn_lib.models.ModelConfig.weights`."""
        with atomic_file(path) as temporary:
            state = self.model().backbone.state_dict().items()
            save_file({name: value.contiguous() for name, value in state}, temporary)

    def train(self) -> None:
        """Train to the end, from the last epoch's checkpoint where there is one."""
        started = time.perf_counter()
        _write_json(self.folder / "config.json", self.identity)
        torch.manual_seed(self.experiment.seed)
        model = build_model(self.experiment.model)
        checkpoint = self.folder / "checkpoint.safetensors"
        history = fit(
            model,
            self.experiment.training,
            self.split("pretext" if self.experiment.name == "pretext" else "train"),
            self.split("val"),
            seed=self.experiment.seed,
            device=self.store.device,
            checkpoint=checkpoint,
            title=self.title,
        )
        with atomic_file(self.folder / "model.safetensors") as temporary:
            state = model.state_dict().items()
            save_file({k: v.cpu().contiguous() for k, v in state}, temporary)
        with atomic_file(self.folder / "history.csv") as temporary:
            history.to_csv(temporary, index=False)
        facts = {
            "training_seconds": round(float(history["seconds"].sum()), 1),
            "total_seconds": round(time.perf_counter() - started, 1),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "machine": platform.machine(),
            "threads": torch.get_num_threads(),
        }
        _write_json(self.folder / "run.json", facts)
        checkpoint.unlink(missing_ok=True)


def _write_json(path: Path, content: dict) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
