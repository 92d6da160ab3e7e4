"""A training on kept maps is one that computes them each time, to the last bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from cstn_lib.config import LevelConfig, ModelConfig
from cstn_lib.data import DataConfig, open_split
from cstn_lib.data.maps import MapSet
from cstn_lib.models import HEADS, build_model
from cstn_lib.reproduction.experiments import Experiment
from cstn_lib.reproduction.runs import RunStore
from cstn_lib.training.engine import TrainingConfig

STAGES = 4  # of the small backbone


def experiment(head: str, precision: str = "float32", **model: object) -> Experiment:
    return Experiment(
        name=head,
        data=DataConfig("birds-cub", image_size=40, train=24, val=12, test=15),
        model=ModelConfig(
            **{"frozen_stages": STAGES, **model},
            pyramid="lateral",
            levels=(LevelConfig("4", 5), LevelConfig("5", 3)),
            channels=8,
            localization_channels=4,
            head=head,
        ),
        training=TrainingConfig(epochs=2, warmup_epochs=1, batch_size=8, precision=precision),
        seed=0,
    )


def test_which_methods_are_given_maps(data_folder: Path, tmp_path: Path):
    store = RunStore(tmp_path, device="cpu")
    given = {}
    for head in HEADS:
        run = store.open(experiment(head))
        given[head] = isinstance(run.given(build_model(run.experiment.model), "val"), MapSet)
    assert given == {
        **dict.fromkeys(("cstn", "plain", "deform", "cam", "acol"), True),
        **dict.fromkeys(("has", "spg", "adl", "stn"), False),
    }
    run = store.open(experiment("cstn", frozen_stages=STAGES - 1))
    assert not isinstance(run.given(build_model(run.experiment.model), "val"), MapSet)


@pytest.mark.parametrize(
    ("head", "precision"),
    [
        ("cstn", "float32"),
        ("cstn", "bfloat16"),
        ("plain", "float32"),
        ("deform", "float32"),
        ("cam", "float32"),
        ("acol", "float32"),
    ],
)
def test_bit_equal(head: str, precision: str, data_folder: Path, tmp_path: Path, monkeypatch):
    runs = {}
    for kept in (True, False):
        with monkeypatch.context() as patch:
            if not kept:
                patch.setattr("cstn_lib.reproduction.runs.is_stored", lambda images: False)
            store = RunStore(tmp_path / str(kept), device="cpu")
            run = runs[kept] = store.run(experiment(head, precision))
            run.predictions("test")
    one, other = (load_file(run.folder / "model.safetensors") for run in runs.values())
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    for split in ("test",):
        pd.testing.assert_frame_equal(*(run.predictions(split) for run in runs.values()))
    columns = [name for name in runs[True].history if name != "seconds"]
    pd.testing.assert_frame_equal(*(run.history[columns] for run in runs.values()))


def test_a_stored_network_reads_images_and_maps_alike(data_folder: Path, tmp_path: Path):
    run = RunStore(tmp_path, device="cpu").run(experiment("cstn"))
    model = run.model()
    maps = run.given(model, "test")
    images = open_split(run.experiment.data, "test")
    with torch.inference_mode():
        one, other = (model(data.__getitems__([4, 1])[0]) for data in (maps, images))
    assert torch.equal(one.boxes, other.boxes)
    assert torch.equal(one.log_joint, other.log_joint)


def test_other_weights_have_other_maps(data_folder: Path, tmp_path: Path):
    run = RunStore(tmp_path, device="cpu").open(experiment("plain"))
    pretrained = run.given(build_model(run.experiment.model), "val")
    random = run.given(build_model(replace(run.experiment.model, weights="none")), "val")
    assert pretrained.maps.filename != random.maps.filename


def test_epochs_are_faster(data_folder: Path, tmp_path: Path):
    """Not by the clock: the backbone is not called any more."""
    run = RunStore(tmp_path, device="cpu").open(experiment("cam"))
    model = build_model(run.experiment.model)
    run.given(model, "val")
    model.backbone.stage_maps = lambda images: pytest.fail("computed again")
    batch, _ = run.given(model, "val").__getitems__([0, 1])
    assert model(batch).logits.shape == (2, run.experiment.model.num_classes)
