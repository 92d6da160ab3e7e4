"""Names become configurations that can be built; unknown names become one line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product

import pytest
import torch

from cstn_lib.data import DATASETS
from cstn_lib.models import HEADS, build_model
from cstn_lib.outputs import LocalizerOutput
from cstn_lib.reproduction.experiments import (
    EXPERIMENTS,
    PROFILES,
    STUDIES,
    Experiment,
    make_experiment,
    profile_named,
    seeded_experiments,
)
from cstn_lib.support.errors import InputError


def input_error(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def make(name: str, dataset: str, profile: str, **options: object) -> Experiment:
    return make_experiment(name, dataset, profile, **options)


@pytest.mark.parametrize(("name", "dataset"), list(product(EXPERIMENTS, DATASETS)))
def test_every_experiment_builds_in_every_profile(name, dataset):
    for profile in PROFILES:
        experiment = make(name, dataset, profile, seed=3)
        assert (experiment.name, experiment.seed) == (name, 3)
        assert 0 <= experiment.training.warmup_epochs <= experiment.training.epochs
        hash(experiment)
    experiment = make(name, dataset, "smoke")
    side = experiment.data.image_size
    model = build_model(replace(experiment.model, num_classes=5)).eval()
    with torch.no_grad():
        output = model(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    said = output.log_joint if isinstance(output, LocalizerOutput) else output.logits
    assert said.isfinite().all()


@pytest.mark.parametrize("dataset", DATASETS)
def test_profiles_size_the_data(dataset):
    smoke, quick, cpu = (make("cstn", dataset, profile) for profile in ("smoke", "quick", "cpu"))
    for split in ("train", "val", "test"):
        few = getattr(smoke.data, split)
        assert few is not None and few <= 100
    assert smoke.training.epochs < quick.training.epochs
    assert quick == cpu, "quick differs by the number of seeds alone, so its runs are reused"
    assert PROFILES["cpu"].seeds > PROFILES["quick"].seeds == PROFILES["smoke"].seeds == 1


@pytest.mark.parametrize(
    ("seeds", "count"), [(0, 3), (None, 3), ("", 3), (1.0, 1), (2, 2), ("2", 2), ("1.0", 1)]
)
def test_seeds_are_a_number_of_any_type(seeds, count):
    made = seeded_experiments(["cstn", "cam"], "birds-cub", "cpu", seeds=seeds)
    assert [experiment.seed for experiment in made] == [*range(count)] * 2


@pytest.mark.parametrize("seeds", [1.5, -1, "many", True, float("nan"), float("inf"), [1]])
def test_seeds_that_are_no_number_of_seeds(seeds):
    said = input_error(lambda: seeded_experiments(["cstn"], "birds-cub", "cpu", seeds=seeds))
    assert said == f"seeds {seeds}: expected a whole number, 0 or more"


def test_seed_changes_nothing_else():
    one, other = (make("cstn", "birds-cub", "quick", seed=seed) for seed in (0, 7))
    assert (one.data, one.model, one.training) == (other.data, other.model, other.training)
    assert (one.seed, other.seed) == (0, 7)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_methods_differ_in_nothing_but_the_method(name, profile):
    """What the method calls for, and no better images, backbone, schedule or rate."""
    for dataset in DATASETS:
        ours, theirs = (make(n, dataset, profile) for n in ("cstn", name))
        assert theirs.data == ours.data
        assert replace(theirs.model, head="cstn") == ours.model
        own = {"warmup_epochs": 1, "lambda_theta": 1, "alpha_scale": 1}
        assert replace(theirs.training, **own) == replace(ours.training, **own)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_a_study_changes_one_thing(name, profile):
    for dataset in DATASETS:
        ours, theirs = (make(n, dataset, profile) for n in ("cstn", name))
        changed = [
            ours.model.levels != theirs.model.levels,
            ours.training.lambda_theta != theirs.training.lambda_theta,
            ours.training.alpha_scale != theirs.training.alpha_scale,
        ]
        # where ``cstn`` itself stands at a step of a study, that step changes nothing
        stands = {"cstn-lambda-1e-3", "cstn-lambda-1e-4"}
        assert sum(changed) == 1 or (sum(changed) == 0 and name in stands)
        model = replace(theirs.model, levels=ours.model.levels)
        weights = {n: getattr(ours.training, n) for n in ("lambda_theta", "alpha_scale")}
        training = replace(theirs.training, **weights)
        assert replace(theirs, name="cstn", model=model, training=training) == ours


def test_the_papers_experiment_stays_the_same():
    """Or finished runs would be trained again."""
    experiment = make("cstn", "birds-cub", "quick")
    content = json.dumps(asdict(experiment), sort_keys=True).encode()
    assert hashlib.sha256(content).hexdigest()[:10] == "4b928ee70d"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_precision_belongs_to_the_recipe(name):
    """What is published is float32 on every processor; another precision is another training."""
    usual, short = (make(name, "birds-cub", "smoke", **p) for p in ({}, {"precision": "bfloat16"}))
    assert usual.training.precision == "float32"
    assert short == replace(usual, training=replace(usual.training, precision="bfloat16"))


@pytest.mark.parametrize(
    ("wrong", "kind", "known"),
    [
        (("none", "birds-cub", "smoke"), "experiment", EXPERIMENTS),
        (("cstn", "none", "smoke"), "dataset", DATASETS),
        (("cstn", "birds-cub", "none"), "profile", PROFILES),
        (("pretrain", "birds-cub", "none"), "profile", PROFILES),
    ],
)
def test_unknown_names(wrong, kind, known):
    message = input_error(lambda: make(*wrong))
    assert f"{kind} 'none'" in message
    assert all(name in message for name in known)


def test_unknown_precision():
    message = input_error(lambda: make("cstn", "birds-cub", "smoke", precision="half"))
    assert "'half'" in message
    assert "float32" in message


def test_negative_seed():
    assert "-1" in input_error(lambda: make("cstn", "birds-cub", "smoke", seed=-1))


def test_profile_named():
    assert {profile_named(name).name for name in PROFILES} == set(PROFILES)
    assert "'huge'" in input_error(lambda: profile_named("huge"))
