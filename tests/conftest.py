"""Small data, small networks and finished runs that several test files share."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cstn_lib.config import LevelConfig, ModelConfig
from cstn_lib.data import DataConfig, ImageSet
from cstn_lib.evaluation.score_maps import CAM_THRESHOLD, THRESHOLDS
from cstn_lib.reproduction.experiments import Experiment, make_experiment
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.training.engine import TrainingConfig

# networks this small are no work for two threads, and waiting for each other takes longer
torch.set_num_threads(1)


DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=getattr(pytest.mark, name)) for name in DEVICES],
)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each device that there is; in float32 a GPU's convolutions round nothing, as a CPU's."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "cuda":
            patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield request.param


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where data sets are drawn and decoded instead of the repository's data folder."""
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cstn_lib.data.project_folder", lambda name, chosen=None: folder)
        yield folder


@pytest.fixture(scope="session")
def make_images() -> Callable[..., ImageSet]:
    """Random images in memory, with none, one or two boxes an image."""

    def make(count: int, *, seed: int = 0, size: int = 32, classes: int = 3) -> ImageSet:
        random = np.random.default_rng(seed)
        counts = np.arange(count) % 3
        corners = np.sort(random.random((counts.sum(), 2, 2)), axis=1)
        return ImageSet(
            name="random",
            split="train",
            images=random.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
            labels=np.arange(count) % classes,
            boxes=corners.reshape(-1, 4).astype(np.float32),
            box_offsets=np.concatenate([[0], np.cumsum(counts)]),
            class_names=tuple("abcdefgh"[:classes]),
            fingerprint=f"random-{count}-{seed}-{size}-{classes}",
        )

    return make


@pytest.fixture(scope="session")
def small_experiment() -> Callable[..., Experiment]:
    """Trained in a second: a few birds of 40 pixels."""

    def make(dataset: str = "birds-cub", seed: int = 0, **training: object) -> Experiment:
        return Experiment(
            name="cstn",
            data=DataConfig(dataset, image_size=40, train=24, val=12, test=15),
            model=ModelConfig(
                weights="none",
                levels=(LevelConfig("4", 5), LevelConfig("5", 3)),
                channels=8,
                localization_channels=4,
            ),
            training=TrainingConfig(
                **{"epochs": 2, "warmup_epochs": 1, "batch_size": 8, **training}
            ),
            seed=seed,
        )

    return make


@pytest.fixture(scope="session")
def finished_runs(
    data_folder: Path,
    small_experiment: Callable[..., Experiment],
    tmp_path_factory: pytest.TempPathFactory,
) -> list[Run]:
    """Two data sets with two seeds each; to be read only."""
    store = RunStore(tmp_path_factory.mktemp("runs"), device="cpu")
    return [
        store.run(small_experiment(dataset, seed))
        for dataset in ("birds-cub", "birds-ilsvrc")
        for seed in (0, 1)
    ]


@pytest.fixture(scope="session")
def tiny_imagenet_zip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of Tiny ImageNet with three classes of plain grey images."""
    path = tmp_path_factory.mktemp("tiny") / "tiny.zip"
    picture = io.BytesIO()
    Image.new("RGB", (64, 64), (90, 120, 150)).save(picture, "JPEG")
    wnids = [f"n0000000{i}" for i in range(3)]
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("wnids.txt", "\n".join(wnids))
        for wnid in wnids:
            boxes = [f"{wnid}_{i}.JPEG\t{i}\t4\t50\t60" for i in range(10)]
            archive.writestr(f"train/{wnid}/{wnid}_boxes.txt", "\n".join(boxes))
            for i in range(10):
                archive.writestr(f"train/{wnid}/images/{wnid}_{i}.JPEG", picture.getvalue())
            archive.writestr(f"val/images/val_{wnid}.JPEG", picture.getvalue())
            rows.append(f"val_{wnid}.JPEG\t{wnid}\t10\t10\t40\t40")
        archive.writestr("val/val_annotations.txt", "\n".join(rows))
    return path


OBJECT, ELSEWHERE = [0.25, 0.25, 0.75, 0.75], [0.0, 0.0, 0.1, 0.1]


@dataclass(frozen=True)
class WrittenRun:
    """A run as `cstn_lib.reproduction.tables` sees it, with predictions written by hand."""

    experiment: Experiment
    tables: dict[str, pd.DataFrame]
    facts: dict = field(default_factory=lambda: {"training_seconds": 10.0})

    def predictions(self, split: str = "test", *, views: bool = False) -> pd.DataFrame:
        return self.tables[split]


def written_votes(images: Sequence[str]) -> pd.DataFrame:
    """Predictions of a network that votes: a string an image.

    The first letter tells the class (``+`` right, ``-`` wrong), the others the boxes under the true
    class, best first: ``r`` on the object, anything else far away. Equal letters are the same
    location. The fused box is the last one, and no default box is right.
    """
    rows = []
    for letters in images:
        boxes = [OBJECT if letter == "r" else ELSEWHERE for letter in letters[1:]]
        row = {"label": 1, "predicted": int(letters[0] == "+"), "gt_boxes": np.array(OBJECT)}
        row |= {"true_box": np.ravel(boxes), "any_iou": float("r" in letters)}
        row |= {"true_default_box": np.ravel([ELSEWHERE] * len(boxes)), "any_default_iou": 0.0}
        row |= {f"{who}_fused_box": np.array(boxes[-1]) for who in ("true", "predicted")}
        row |= {"true_level": np.full(len(boxes), 5)}
        row |= {"true_location": np.ravel([[ord(letter) % 10, 0] for letter in letters[1:]])}
        rows.append(row)
    return pd.DataFrame(rows)


def written_maps(images: Sequence[tuple[str, Sequence[float]]]) -> pd.DataFrame:
    """Predictions of a method with score maps: class, and the thresholds that give a right box."""
    rows = []
    for letter, right in images:
        boxes = [OBJECT if threshold in right else ELSEWHERE for threshold in THRESHOLDS]
        row = {"label": 1, "predicted": int(letter == "+"), "gt_boxes": np.array(OBJECT)}
        row |= {
            "true_box": np.array(boxes[THRESHOLDS.index(CAM_THRESHOLD)]),
            "any_iou": float(CAM_THRESHOLD in right),
            "threshold_boxes": np.ravel(boxes),
            "threshold_any_iou": np.array([float(t in right) for t in THRESHOLDS]),
        }
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., WrittenRun]:
    """A finished run of a named experiment whose predictions are given as strings or tuples."""

    def write(
        name: str, test: Sequence, val: Sequence = (), *, dataset: str = "birds-cub", seed: int = 0
    ) -> WrittenRun:
        tables = {
            split: (written_votes if isinstance(images[0], str) else written_maps)(images)
            for split, images in (("test", test), ("val", val or test))
        }
        experiment = make_experiment(name, dataset, "smoke", seed=seed)
        return WrittenRun(experiment, tables)

    return write
