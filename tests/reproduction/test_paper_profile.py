"""A rehearsal of the paper's experiments: real layouts in miniature, no GPU and no download.

One training is that of the profile, ResNet-101 at 320 x 320, but for the number of images, of
epochs and of images a step. All others keep everything of its recipe but the backbone, the widths
and the image size: the small backbone gives at 80 pixels the same 20 x 20 and 10 x 10 maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from matplotlib.figure import Figure
from miniatures import make_cub, make_ilsvrc

from cstn_lib.config import PAPER_LEVELS
from cstn_lib.evaluation.metrics import evaluate
from cstn_lib.evaluation.predictions import array
from cstn_lib.losses import authors_weight
from cstn_lib.reproduction import areas, charts
from cstn_lib.reproduction import tables as report
from cstn_lib.reproduction.batch import needed_experiments
from cstn_lib.reproduction.experiments import (
    ALPHA_STUDY,
    COLLAPSE_STUDY,
    LAMBDA_STUDY,
    PROFILES,
    RECIPES,
    make_experiment,
)
from cstn_lib.reproduction.paper import TABLE_1, TABLE_2, TABLE_3, TABLE_4, TABLE_5
from cstn_lib.reproduction.results import RESULTS, experiments_of
from cstn_lib.reproduction.runs import Run, RunStore

ROOT = Path(__file__).parents[2]
CUB_TEST, ILSVRC_TEST = 9, 12


@pytest.fixture(scope="module")
def cub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cub(tmp_path_factory.mktemp("cub"), train=6, test=CUB_TEST // 3)


@pytest.fixture(scope="module")
def ilsvrc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ilsvrc(tmp_path_factory.mktemp("ilsvrc"), train=6, test=ILSVRC_TEST // 3)


# The settings


@pytest.mark.parametrize(
    ("dataset", "weight"),
    [("cub", 1e-4), ("ilsvrc", 1e-3), ("folder", 1e-3)],
)
def test_the_published_settings(dataset, weight):
    experiment = make_experiment("cstn", dataset, "paper")
    model, training = experiment.model, experiment.training
    assert (model.backbone, model.weights, model.levels) == ("resnet101", "imagenet", PAPER_LEVELS)
    assert (model.channels, model.frozen_stages) == (512, 2)
    assert experiment.data.image_size == 320
    assert [getattr(experiment.data, split) for split in ("train", "val", "test")] == [None] * 3
    assert (training.optimizer, training.lr, training.weight_decay) == ("sgd", 1e-3, 1e-4)
    assert (training.localization_lr, training.schedule) == (1, "constant")
    assert (training.epochs, training.warmup_epochs, training.batch_size) == (20, 0, 16)
    assert training.lambda_theta == authors_weight(weight)
    assert training.alpha_scale == authors_weight(5)
    assert PROFILES["paper"].seeds == 1


def test_the_studies_take_the_printed_steps():
    for names, attribute in ((LAMBDA_STUDY, "lambda_theta"), (ALPHA_STUDY, "alpha_scale")):
        for name, printed in names.items():
            training = make_experiment(name, "cub", "paper").training
            assert getattr(training, attribute) == authors_weight(printed)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("dataset", ["birds-cub", "birds-ilsvrc", "cub", "ilsvrc", "folder"])
def test_table_3_has_every_printed_lambda_once(dataset, profile):
    """Wherever ``cstn`` itself stands among them."""
    needed = experiments_of("table-3", profile, dataset=dataset, seeds=1)
    needed = [experiment for experiment in needed if experiment.name not in COLLAPSE_STUDY]
    weights = sorted(experiment.training.lambda_theta for experiment in needed)
    unit = authors_weight(1) if profile == "paper" else 1
    assert weights == sorted(set(weights)), "none twice"
    assert {unit * printed for printed in TABLE_3} <= set(weights)
    assert len(weights) == len(LAMBDA_STUDY)


# ResNet-101 at 320 x 320


@pytest.fixture
def started(tmp_path: Path, monkeypatch) -> dict[str, torch.Tensor]:
    """Any weights, where torchvision looks for those of ImageNet before it downloads them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    state = torchvision.models.resnet101().state_dict()
    published = torchvision.models.ResNet101_Weights.IMAGENET1K_V1
    path = tmp_path / "hub" / "checkpoints" / Path(published.url).name
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    return state


def test_the_papers_network_trains(cub, started, data_folder, tmp_path, monkeypatch):
    """An epoch of two steps, of one image each: predictions and metrics follow."""
    few = replace(PROFILES["paper"], photos=2, epochs=1)
    monkeypatch.setitem(PROFILES, "paper", few)
    experiment = make_experiment("cstn", "cub", "paper")
    experiment = replace(experiment, training=replace(experiment.training, batch_size=1))
    run = RunStore(tmp_path / "runs", cub, "cpu").run(experiment)
    assert run.history.drop(columns="seconds").map(np.isfinite).all(axis=None)

    model = run.model()
    shapes = [tuple(layer.weight.shape) for layer in model.layers.values()]
    assert shapes == [(512, 512, 13, 13), (512, 512, 7, 7)]
    backbone = model.backbone
    assert torch.equal(backbone.stages[0][0].weight, started["conv1.weight"])
    for name, value in backbone.stages[1].state_dict().items():
        assert torch.equal(value, started[f"layer1.{name}"]), "up to layer1 nothing moves"
    for at, layer in ((2, "layer2"), (4, "layer4")):
        weight = backbone.stages[at][0].conv1.weight
        assert not torch.equal(weight, started[f"{layer}.0.conv1.weight"])

    table = run.predictions()
    assert len(table) == 2
    assert set(array(table, "true_level")[:, 0]) <= {4, 5}
    assert all(0 <= value <= 1 for value in evaluate(table).values())


# Every table and figure


@pytest.fixture(scope="module")
def rehearsed(data_folder: Path) -> Iterator[None]:
    """One epoch of the profile with another network; see the head of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "paper", replace(PROFILES["paper"], photo_epochs=1))
        for name, recipe in RECIPES.items():
            if name.startswith("paper, "):
                small = {"backbone": "small", "weights": "none"}
                small |= {"channels": 8, "localization_channels": 8}
                model = replace(recipe.model, **small)
                patch.setitem(RECIPES, name, replace(recipe, model=model, image_size=80))
        yield


@pytest.fixture(scope="module")
def store(cub: Path, tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("runs"), cub, "cpu")


PAPERS = [name for name in RESULTS if name.startswith(("table-", "figure"))]


@pytest.fixture(scope="module")
def on_cub(rehearsed, store: RunStore) -> dict[str, Run]:
    """What the tables and figures need, by the name of the experiment."""
    made = [RESULTS[name].notebook for name in PAPERS]
    needed = needed_experiments(made, "paper", dataset="cub")
    return {e.name: store.run(e) for e in needed}


@pytest.fixture(scope="module")
def on_ilsvrc(rehearsed, store: RunStore, ilsvrc: Path) -> dict[str, Run]:
    other = replace(store, data_root=ilsvrc)
    chosen = [RESULTS[name].notebook for name in ("table-5", "figure-8")]
    needed = needed_experiments(chosen, "paper", dataset="ilsvrc")
    return {e.name: other.run(e) for e in needed}


def table_of(name: str, runs: dict[str, Run]) -> pd.DataFrame:
    result = RESULTS[name]
    return result.table([runs[name] for name in result.experiments[0] if name in runs])


def test_table_1(on_cub, on_ilsvrc):
    table = report.table_1([on_cub["cstn"], on_ilsvrc["cstn"]])
    assert table.index.tolist() == ["cub", "ilsvrc"]
    for row, published in zip(table.index, TABLE_1.values(), strict=True):
        for kind in ("without transform", "with transform"):
            assert table.loc[row, f"paper: Top-1 Loc {kind}"] == published[kind]
            assert 0 <= table.loc[row, f"Top-1 Loc {kind}"] <= 100


def test_table_2(on_cub):
    table = table_of("table-2", on_cub)
    assert table.index.tolist()[:2] == list(TABLE_2)
    published = table["paper: Top-1 Loc"].dropna()
    assert published.to_dict() == {name: row["Top-1 Loc"] for name, row in TABLE_2.items()}


def test_table_3(on_cub):
    """Our weights per example are those that the printed ones have in the authors' code."""
    table = table_of("table-3", on_cub)
    published = table.dropna(subset=["paper: Top-1 Loc"])
    assert published["paper: lambda as printed"].tolist() == sorted(TABLE_3)
    assert published["paper: lambda per example"].tolist() == published.index.tolist()
    for printed, row in TABLE_3.items():
        assert published.loc[authors_weight(printed), "paper: Top-1 Loc"] == row["Top-1 Loc"]


@pytest.mark.parametrize(
    ("name", "published", "images"),
    [("table-4", TABLE_4, CUB_TEST), ("table-5", TABLE_5, ILSVRC_TEST)],
)
def test_tables_4_and_5(name, published, images, request):
    runs = request.getfixturevalue("on_cub" if name == "table-4" else "on_ilsvrc")
    table = table_of(name, runs)
    for method, row in published.items():
        assert table.loc[method, "paper: GT-Known Loc"] == row[1]
        hits = table.loc[method, "GT-Known Loc"] / 100 * images
        assert hits == pytest.approx(round(hits), abs=0.001), "of so many images"


def test_figures_6_and_8(on_cub, on_ilsvrc):
    panels = {name: on_cub[name] for name in ("cstn-level-4", "cstn-level-5", "cstn")}
    sizes = dict.fromkeys(panels, CUB_TEST) | {"ilsvrc": ILSVRC_TEST}
    for name, run in (panels | {"ilsvrc": on_ilsvrc["cstn"]}).items():
        histogram = areas.counts_by_area([run])
        assert histogram.images.sum() == sizes[name]
        found = 100 * histogram.localized[areas.WITH].sum() / sizes[name]
        assert found == pytest.approx(100 * evaluate(run.predictions())["top1_loc"])
        charts.draw_area_histogram(Figure().subplots(), histogram, name)
