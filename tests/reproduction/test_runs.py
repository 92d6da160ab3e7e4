"""The run store: what makes two runs the same, what lies in their folder, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from cstn_lib.config import LevelConfig
from cstn_lib.data import ImageSet
from cstn_lib.models import build_model
from cstn_lib.reproduction import runs as runs_module
from cstn_lib.reproduction.experiments import Experiment, make_experiment
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.support.errors import InputError
from cstn_lib.training.engine import predict

Maker = Callable[..., Experiment]


@pytest.fixture
def copied(finished_runs: list[Run], tmp_path: Path) -> Run:
    """A finished run that may be damaged."""
    original = finished_runs[0]
    folder = tmp_path / original.folder.relative_to(original.store.folder)
    shutil.copytree(original.folder, folder)
    run = RunStore(tmp_path, device="cpu").open(original.experiment)
    assert run.folder == folder
    assert run.finished
    return run


def input_error(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


# Which folder


def test_same_configuration_same_folder(finished_runs: list[Run], small_experiment: Maker):
    run = finished_runs[0]
    assert run.store.open(small_experiment("birds-cub", 0)).folder == run.folder


def test_a_finished_run_is_not_trained_again(
    finished_runs: list[Run], small_experiment: Maker, monkeypatch
):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    run = finished_runs[0]
    before = {path: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    monkeypatch.setattr(runs_module, "fit", fail)
    again = run.store.run(small_experiment("birds-cub", 0))
    assert again.folder == run.folder
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.iterdir()}


CHANGES: dict[str, Callable[[Experiment], Experiment]] = {
    "seed": lambda e: replace(e, seed=1),
    "learning rate": lambda e: replace(e, training=replace(e.training, lr=1e-3)),
    "epochs": lambda e: replace(e, training=replace(e.training, epochs=3)),
    "precision": lambda e: replace(e, training=replace(e.training, precision="bfloat16")),
    "levels": lambda e: replace(e, model=replace(e.model, levels=(LevelConfig("5", 3),))),
    "dilation": lambda e: replace(
        e, model=replace(e.model, levels=(LevelConfig("5", 2, dilation=2),))
    ),
    "data set": lambda e: replace(e, data=replace(e.data, name="birds-ilsvrc")),
    "number of images": lambda e: replace(e, data=replace(e.data, train=23)),
    "drawing": lambda e: replace(e, data=replace(e.data, head_tell=0.5)),
}


def test_any_change_gives_another_folder(finished_runs: list[Run], small_experiment: Maker):
    run = finished_runs[0]
    opened = {name: run.store.open(c(small_experiment())) for name, c in CHANGES.items()}
    folders = {run.folder, *(other.folder for other in opened.values())}
    assert len(folders) == 1 + len(CHANGES)
    assert {name for name, other in opened.items() if other.finished} == {"seed", "data set"}


def test_other_training_images_under_the_same_name_give_another_folder(
    finished_runs: list[Run], monkeypatch
):
    run = finished_runs[0]
    original = runs_module.open_split

    def changed(config: object, name: str, root: object = None) -> ImageSet:
        images = original(config, name, root)
        return replace(images, fingerprint="other") if name == "train" else images

    monkeypatch.setattr(runs_module, "open_split", changed)
    other = run.store.open(run.experiment)
    assert other.folder != run.folder
    assert not other.finished


def test_opening_writes_nothing(data_folder: Path, tmp_path: Path, small_experiment: Maker):
    run = RunStore(tmp_path / "runs", device="cpu").open(small_experiment())
    assert not run.finished
    assert list(tmp_path.iterdir()) == []


# What is in it


def test_files(finished_runs: list[Run]):
    run = finished_runs[0]
    names = {path.name for path in run.folder.iterdir()}
    assert {"config.json", "model.safetensors", "history.csv", "run.json"} <= names
    assert "checkpoint.safetensors" not in names, "no longer needed"
    assert not [name for name in names if name.startswith(".")], "no temporary files"


def test_config_tells_the_experiment(finished_runs: list[Run]):
    run = finished_runs[1]
    config = json.loads((run.folder / "config.json").read_text(encoding="utf-8"))
    experiment = config["experiment"]
    assert (experiment["name"], experiment["seed"]) == ("cstn", 1)
    assert experiment["data"]["name"] == "birds-cub"
    assert experiment["training"]["batch_size"] == 8
    assert [level["name"] for level in experiment["model"]["levels"]] == ["4", "5"]
    assert experiment["model"]["num_classes"] == 24, "filled in from the data"
    assert config["data"] == run.split("train").fingerprint


def test_history_and_facts(finished_runs: list[Run]):
    run = finished_runs[0]
    assert run.history["epoch"].tolist() == [1, 2]
    assert run.facts["torch"] == torch.__version__
    assert 0 < run.facts["training_seconds"] <= run.facts["total_seconds"] + 0.1


def test_model_is_the_trained_one(finished_runs: list[Run]):
    run = finished_runs[0]
    model = run.model()
    assert not model.training
    torch.manual_seed(0)
    untrained = build_model(run.experiment.model)
    assert not torch.equal(model.classifier.weight, untrained.classifier.weight)
    table = predict(model, run.split("test"), device="cpu")
    pd.testing.assert_frame_equal(table, run.predictions(), check_exact=True)


def test_self_training_begins_with_its_teacher(finished_runs: list[Run]):
    """Seed by seed; but for windows it is the teacher's network, and its run is another one."""
    teacher = finished_runs[0]
    store = teacher.store
    training = replace(teacher.experiment.training, warmup_epochs=0)
    lesson = replace(teacher.experiment, name="cstn-self-trained", training=training)
    run = store.run(replace(lesson, teacher=teacher.experiment))
    assert run.folder != teacher.folder
    assert run.identity["experiment"]["teacher"]["name"] == "cstn"
    ours, theirs = run.model().state_dict(), teacher.model().state_dict()
    changed = {name for name, value in ours.items() if not torch.equal(value, theirs[name])}
    assert changed and all(".localization." in name for name in changed)
    assert "loss_box" in run.history
    unasked = replace(training, box_weight=0.0)
    longer = store.run(replace(run.experiment, name="cstn-trained-longer", training=unasked))
    last = longer.history.iloc[-1]
    parts = last["loss_cls"] + training.lambda_theta * last["loss_theta"]
    parts += training.alpha_scale * last["loss_scale"]
    parts += training.level_weight * last.get("loss_level", 0.0)
    assert last["loss"] == pytest.approx(parts, rel=1e-5)
    assert last["loss_box"] > run.history["loss_box"].iloc[-1] > 0


def test_predictions_are_computed_once(copied: Run, monkeypatch):
    first = copied.predictions("val")
    assert copied.predictions_path("val").is_file()
    monkeypatch.setattr(runs_module, "predict", lambda *_, **__: pytest.fail("predicted again"))
    pd.testing.assert_frame_equal(copied.predictions("val"), first, check_exact=True)


def test_predictions_with_views_have_a_file_of_their_own(copied: Run):
    alone, views = copied.predictions("val"), copied.predictions("val", views=True)
    assert copied.predictions_path("val", views=True).is_file()
    assert set(views) < set(alone)
    pd.testing.assert_frame_equal(copied.predictions("val"), alone, check_exact=True)
    pd.testing.assert_frame_equal(copied.predictions("val", views=True), views, check_exact=True)


def test_predictions_of_different_splits_do_not_mix(copied: Run):
    paths = {copied.predictions_path(split) for split in ("train", "val", "test")}
    assert len(paths) == 3
    sizes = {split: len(copied.predictions(split)) for split in ("train", "val", "test")}
    assert sizes == {"train": 24, "val": 12, "test": 15}


def test_save_backbone(copied: Run, tmp_path: Path):
    path = tmp_path / "backbone.safetensors"
    copied.save_backbone(path)
    model = build_model(replace(copied.experiment.model, weights=str(path)))
    trained = copied.model().backbone.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, trained[name])


# Interrupted


def test_the_finished_mark_comes_last(
    data_folder: Path, tmp_path: Path, small_experiment: Maker, monkeypatch
):
    written = []
    original = os.replace

    def watched(source: object, target: object, **kwargs: object) -> None:
        original(source, target, **kwargs)
        written.append(Path(target).name)

    monkeypatch.setattr(os, "replace", watched)
    RunStore(tmp_path, device="cpu").run(small_experiment())
    assert written[0] == "config.json"
    assert written[-1] == "run.json"
    assert {"model.safetensors", "history.csv"} < set(written)


@pytest.mark.parametrize("last", ["model.safetensors", "history.csv", "run.json"])
def test_interrupted_after_the_last_epoch(
    finished_runs: list[Run], tmp_path: Path, small_experiment: Maker, monkeypatch, last
):
    """The write of one of the last three files fails; the next call finishes without training."""
    original = os.replace

    def full(source: object, target: object, **kwargs: object) -> None:
        if Path(target).name == last:
            raise OSError(28, "No space left on device", str(target))
        original(source, target, **kwargs)

    store = RunStore(tmp_path, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(InputError, match="No space"):
            store.run(small_experiment())
    run = store.open(small_experiment())
    assert not run.finished
    assert (run.folder / "checkpoint.safetensors").is_file()
    assert not (run.folder / last).exists()

    def no_step(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("cstn_lib.pyramid.total_loss", no_step)
    run = store.run(small_experiment())
    expected = finished_runs[0]
    assert run.finished
    assert not (run.folder / "checkpoint.safetensors").exists()
    models = [(r.folder / "model.safetensors").read_bytes() for r in (run, expected)]
    assert models[0] == models[1]
    columns = [r.history.drop(columns="seconds") for r in (run, expected)]
    pd.testing.assert_frame_equal(*columns)


# Damaged


@pytest.mark.parametrize("kind", ["missing", "empty", "cut off", "text"])
def test_damaged_network(copied: Run, kind):
    path = copied.folder / "model.safetensors"
    raw = path.read_bytes()
    path.unlink()
    if kind != "missing":
        path.write_bytes({"empty": b"", "cut off": raw[:-9], "text": b"not a network"}[kind])
    message = input_error(copied.model)
    assert str(path) in message
    assert "delete" in message


def test_network_of_another_configuration(copied: Run):
    other = replace(copied.experiment.model, channels=4)
    path = copied.folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in build_model(other).state_dict().items()}, path)
    assert str(path) in input_error(copied.model)


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"])
def test_damaged_predictions(copied: Run, content):
    copied.predictions("val")
    path = copied.predictions_path("val")
    path.write_bytes(content)
    assert str(path) in input_error(lambda: copied.predictions("val"))


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_damaged_history(copied: Run, damage):
    path = copied.folder / "history.csv"
    path.unlink() if damage == "missing" else path.write_bytes(b"")
    assert str(path) in input_error(lambda: copied.history)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_damaged_facts(copied: Run, content):
    path = copied.folder / "run.json"
    path.write_bytes(content)
    assert str(path) in input_error(lambda: copied.facts)


# Two commands at once


SECOND = """
import sys
from cstn_lib.reproduction import runs
from cstn_lib.reproduction.experiments import make_experiment

def fail(*_, **__):
    raise AssertionError("trained again")

runs.fit = fail
experiment = make_experiment("cam", "birds-cub", "smoke")
run = runs.RunStore(sys.argv[1], device="cpu").run(experiment)
print("finished" if run.finished else "not finished")
"""


def test_a_second_command_waits_and_finds_the_run_finished(tmp_path: Path):
    store = RunStore(tmp_path, device="cpu")
    run = store.open(make_experiment("cam", "birds-cub", "smoke"))
    with run.held():
        second = subprocess.Popen(
            [sys.executable, "-c", SECOND, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        lines = iter(second.stderr.readline, "")  # images may be drawn first, and say so
        assert any("another process has it, waiting" in line for line in lines)
        assert second.poll() is None
        run.train()
    out, errors = second.communicate(timeout=60)
    assert out == "finished\n", errors


def test_a_lock_is_given_back_after_a_mistake(
    data_folder: Path, tmp_path: Path, small_experiment: Maker, monkeypatch
):
    store = RunStore(tmp_path, device="cpu")
    with monkeypatch.context() as patch:
        patch.setattr(runs_module, "fit", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.run(small_experiment())
    assert store.run(small_experiment()).finished
