"""The dry run: what the notebooks need, what it takes, and that nothing is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniatures import make_folder
from test_cli import Command, assert_refused, cstn, tree  # noqa: F401

from cstn_lib.config import ModelConfig
from cstn_lib.models import HEADS, build_model
from cstn_lib.reproduction.batch import needed_experiments
from cstn_lib.reproduction.experiments import STUDIES, make_experiment
from cstn_lib.reproduction.plan import bytes_on_disk, make_plan
from cstn_lib.reproduction.results import NOTEBOOKS
from cstn_lib.reproduction.runs import RunStore

SMOKE = {"profile": "smoke", "device": "cpu"}


# Which trainings


def test_each_training_is_needed_once():
    needed = needed_experiments(NOTEBOOKS, "cpu")
    assert len(set(needed)) == len(needed)
    assert {e.name for e in needed} >= {*HEADS, "cstn-level-4", "cstn-lambda-0"}
    assert {e.data.name for e in needed} == {"birds-cub", "birds-ilsvrc"}
    seeds = {e.name: {other.seed for other in needed if other.name == e.name} for e in needed}
    for name, found in seeds.items():
        assert found == set(range(5 if name in STUDIES else 10)), name
    again = needed_experiments([*NOTEBOOKS, *NOTEBOOKS], "cpu")
    assert again == needed


def test_another_data_set_and_number_of_seeds():
    needed = needed_experiments(NOTEBOOKS, "quick", dataset="cub", seeds=2)
    assert {e.data.name for e in needed} == {"cub"}
    assert {e.seed for e in needed} == {0, 1}
    chosen = ["14_qualitative_figures"]
    both = needed_experiments(chosen, "quick", dataset="cub,ilsvrc")
    pairs = [(e.name, e.data.name) for e in both]
    assert pairs == [("cstn", "cub"), ("cstn-lambda-0", "cub"), ("cstn", "ilsvrc")]


# What they take


@pytest.mark.parametrize("head", sorted(HEADS))
def test_bytes_of_every_method(head):
    """A network's file is as long as is said; a checkpoint has the optimizer's moments, too."""
    model = ModelConfig(num_classes=5, weights="none", frozen_stages=2, head=head)
    weights, checkpoint = bytes_on_disk(model, "adamw")
    network = build_model(model)
    assert weights == sum(t.numel() * t.element_size() for t in network.state_dict().values())
    trained = sum(4 * p.numel() for p in network.parameters() if p.requires_grad)
    assert checkpoint == weights + 2 * trained
    assert bytes_on_disk(model, "sgd") == (weights, weights + trained)


# How far they are


def test_states_and_sizes(data_folder, tmp_path, monkeypatch):
    parameters = SMOKE | {"runs_dir": str(tmp_path)}
    store = RunStore(tmp_path, device="cpu")
    finished = store.run(make_experiment("cstn", "birds-cub", "smoke"))
    begun = store.open(make_experiment("cstn-lambda-0", "birds-cub", "smoke"))
    begun.folder.mkdir()
    begun.checkpoint.touch()
    plan = make_plan(["12_figure_6", "14_qualitative_figures"], parameters)
    rows = plan.trainings.set_index(["experiment", "data set"])
    states = rows["state"].to_dict()
    assert states.pop(("cstn", "birds-cub")) == "finished"
    assert states.pop(("cstn-lambda-0", "birds-cub")) == "begun"
    assert set(states.values()) == {"to do"}
    assert set(rows["images"]) == {48} and set(rows["epochs"]) == {2} and set(rows["steps"]) == {2}
    on_disk = (finished.folder / "model.safetensors").stat().st_size
    assert rows.loc[("cstn", "birds-cub"), "weights"] == pytest.approx(on_disk, rel=0.05)
    assert "1 finished, 1 begun, 3 to do" in str(plan)


def test_seeds_share_a_row(data_folder, tmp_path):
    text = str(make_plan(["table-1"], SMOKE | {"seeds": 2, "runs_dir": str(tmp_path)}))
    assert [line.split()[:6] for line in text.splitlines()[1:3]] == [
        ["cstn", data, "0", "1", "to", "do"] for data in ("birds-cub", "birds-ilsvrc")
    ]


def test_images_to_be_drawn_or_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("cstn_lib.data.project_folder", lambda name: tmp_path / "data")
    drawn = make_plan(["table-2"], SMOKE)
    assert drawn.images == {"birds-cub": (48 + 24 + 48) * 80 * 80 * 3}
    top = make_folder(tmp_path)
    before = tree(tmp_path)
    read = make_plan(["table-2"], SMOKE | {"dataset": "folder", "data_root": str(top)})
    assert read.images == {"folder": 3 * 12 * 80 * 80 * 3}
    assert set(read.trainings["images"]) == {12}
    assert set(read.trainings["state"]) == {"to do"}
    assert tree(tmp_path) == before, "nothing is written"
    store = RunStore(tmp_path / "runs", top, "cpu")
    store.run(make_experiment("cstn", "folder", "smoke"))
    again = SMOKE | {"dataset": "folder", "data_root": str(top), "runs_dir": str(tmp_path / "runs")}
    plan = make_plan(["table-2"], again)
    assert plan.images == {"folder": 12 * 80 * 80 * 3}, "test alone"
    assert sorted(plan.trainings["state"]) == ["finished", "to do"]


# The command


def test_dry_run_does_nothing(cstn: Command, data_folder, tmp_path: Path):  # noqa: F811
    before = tree(data_folder)
    smoke = ("--profile", "smoke", "--device", "cpu")
    result = cstn("reproduce", *smoke, "--dry-run", "--runs-dir", tmp_path, "--only", "figure-6")
    assert result.status == 0 and result.err == ""
    assert "3 trainings of profile smoke: 0 finished, 0 begun, 3 to do" in result.out
    assert tree(tmp_path) == {} and tree(data_folder) == before


def test_dry_run_of_a_data_set_that_is_not_there(cstn: Command, tmp_path: Path):  # noqa: F811
    root = tmp_path / "CUB_200_2011"
    root.mkdir()
    result = cstn("reproduce", "--dry-run", "--dataset", "cub", "--data-root", root)
    assert_refused(result, root, "expected images.txt")
    assert_refused(cstn("reproduce", "--dry-run", "--dataset", "cub"), "'cub'", "data_root")
    assert_refused(cstn("reproduce", "--dry-run", "--only", "table-9"), "'table-9'")
