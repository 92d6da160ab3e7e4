"""Small data, small networks and finished runs that several test files share."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cstn_lib.data import DataConfig, ImageSet
from cstn_lib.engine import TrainingConfig
from cstn_lib.experiments import Experiment
from cstn_lib.models import LevelConfig, ModelConfig
from cstn_lib.runs import Run, RunStore

# networks this small are no work for two threads, and waiting for each other takes longer
torch.set_num_threads(1)


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
