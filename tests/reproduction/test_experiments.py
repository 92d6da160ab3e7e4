"""Names become configurations that can be built; unknown names become one line."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product

import pytest
import torch

from cstn_lib.data import DATASETS, READERS
from cstn_lib.models import HEADS, build_model
from cstn_lib.outputs import LocalizerOutput
from cstn_lib.reproduction.experiments import (
    ALPHA_STUDY,
    COLLAPSE_STUDY,
    EQUATION_4,
    EXPERIMENTS,
    LAMBDA_STUDY,
    LEVEL_STUDY,
    PLAIN_EQUATION_4,
    PROFILES,
    SELF_TRAINED,
    STUDIES,
    TRAINED_LONGER,
    Experiment,
    collapse_names,
    make_experiment,
    profile_named,
    seeded_experiments,
)
from cstn_lib.reproduction.runs import _chosen
from cstn_lib.reproduction.search import space
from cstn_lib.support.errors import InputError

FEW = [name for name in EXPERIMENTS if name not in COLLAPSE_STUDY]
FEW += ["cstn-head-1-slow-lambda-0", "cstn-head-only-fast-lambda-1e-1"]
"""Of those that look for a collapse two are enough."""


def input_error(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message and "\n" not in message
    return message


def make(name: str, dataset: str, profile: str, **options: object) -> Experiment:
    return make_experiment(name, dataset, profile, **options)


@pytest.mark.parametrize(("name", "dataset"), list(product(FEW, DATASETS)))
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
    assert (quick.model, quick.training) == (cpu.model, cpu.training)
    if dataset in READERS:
        assert quick == cpu, "the same photographs, so its runs are reused"
    else:
        assert cpu.data.drawing != quick.data.drawing, "what is published was not looked at before"
        assert cpu.data.test >= 3000
        assert cpu.data.train == quick.data.train
    assert [PROFILES[name].seeds for name in ("smoke", "quick", "cpu")] == [1, 1, 10]
    assert [PROFILES[name].study_seeds for name in ("smoke", "quick", "cpu")] == [1, 1, 5]


@pytest.mark.parametrize(
    ("seeds", "count"), [(0, 10), (None, 10), ("", 10), (1.0, 1), (2, 2), ("2", 2), ("1.0", 1)]
)
def test_seeds_are_a_number_of_any_type(seeds, count):
    made = seeded_experiments(["cstn", "cam"], "birds-cub", "cpu", seeds=seeds)
    assert [experiment.seed for experiment in made] == [*range(count)] * 2


@pytest.mark.parametrize(("seeds", "counts"), [(0, (10, 5, 5)), (2, (2, 2, 2)), (7, (7, 7, 7))])
def test_a_study_has_seeds_of_its_own(seeds, counts):
    """And where a number is given, that many."""
    names = ["cstn", "cstn-level-4", "cstn-lambda-0"]
    made = seeded_experiments(names, "birds-cub", "cpu", seeds=seeds)
    expected = [(n, s) for n, count in zip(names, counts, strict=True) for s in range(count)]
    assert [(experiment.name, experiment.seed) for experiment in made] == expected


def test_a_step_at_which_its_method_stands_is_left_out():
    # the paper's localization networks are fast, and its levels have no losses of their own
    mapped = {f"cstn-head-0-{rate}-lambda-1e-3" for rate in ("slow", "fast")}
    themselves = {EQUATION_4, PLAIN_EQUATION_4}
    left_out = {
        ("birds-cub", "cpu"): {"cstn-lambda-1e-4"},
        ("birds-cub", "paper"): {"cstn-lambda-1e-4", *themselves},
        ("ilsvrc", "paper"): {"cstn-lambda-1e-3", *themselves, *mapped},
    }
    for (dataset, profile), names in left_out.items():
        made = seeded_experiments(EXPERIMENTS, dataset, profile, seeds=1)
        assert {e.name for e in made} == set(EXPERIMENTS) - names


@pytest.mark.parametrize("seeds", [1.5, -1, "many", True, float("nan"), float("inf"), [1]])
def test_seeds_that_are_no_number_of_seeds(seeds):
    said = input_error(lambda: seeded_experiments(["cstn"], "birds-cub", "cpu", seeds=seeds))
    assert said == f"seeds {seeds}: expected a whole number, 0 or more"


def test_seed_changes_nothing_else():
    one, other = (make("cstn", "birds-cub", "quick", seed=seed) for seed in (0, 7))
    assert (one.data, one.model, one.training) == (other.data, other.model, other.training)
    assert (one.seed, other.seed) == (0, 7)


def changes(ours: Experiment, theirs: Experiment) -> dict[str, object]:
    """What differs in data, model and training: by the field's name, its value in `theirs`."""
    parts = [(e.data, e.model, e.training) for e in (ours, theirs)]
    return {
        f.name: getattr(other, f.name)
        for one, other in zip(*parts, strict=True)
        for f in fields(one)
        if getattr(one, f.name) != getattr(other, f.name)
    }


def expected_changes(ours: Experiment, values: dict[str, object]) -> dict[str, object]:
    """These values, but for those that `ours` has already."""
    has = {f: v for part in (ours.data, ours.model, ours.training) for f, v in vars(part).items()}
    return {name: value for name, value in values.items() if has[name] != value}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_methods_differ_in_nothing_but_the_method(name, profile):
    """Before any choice for a method alone: what it calls for, and the same images and schedule."""
    values: dict[str, object] = {"head": name}
    if name not in ("cstn", "stn", "deform"):
        values["warmup_epochs"] = 0
    if name not in ("cstn", "stn"):
        values["lambda_theta"] = 0.0
    if name not in ("cstn", "plain", "deform"):
        values |= {"alpha_scale": 0.0, "level_weight": 0.0}
    for dataset in DATASETS:
        ours, theirs = (make(n, dataset, profile, own=False) for n in ("cstn", name))
        whole = {}
        if "level_weight" in values and ours.model.backbone == "small-pooled":
            whole = {"backbone": "small"}  # pooling serves votes: the others keep the last stage
        assert changes(ours, theirs) == expected_changes(ours, values | whole)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("profile", ["quick", "cpu", "paper"])
def test_what_a_method_has_of_its_own_was_searched(name, profile):
    for dataset in DATASETS:
        shared, chosen = (make(name, dataset, profile, own=own) for own in (False, True))
        found = changes(shared, chosen)
        if profile == "paper" or (dataset in READERS and dataset != "imagenette"):
            assert found == {}, "published settings, and other photographs, have none"
        elif dataset == "imagenette" and name in ("has", "spg", "stn"):
            assert found == {"epochs": 2}, "not searched: for their time"
        elif found:
            searched = space(name, dataset)
            assert all(value in searched[field] for field, value in found.items())


def test_what_was_chosen_in_the_cpu_profile_is_scaled_to_others():
    """Also its epochs, which are multiples of the profile's."""
    epochs = {
        (name, dataset, profile): make(name, dataset, profile).training.epochs
        for name, dataset in (("has", "birds-cub"), ("cstn", "imagenette"), ("cam", "imagenette"))
        for profile in ("smoke", "quick", "cpu")
    }
    assert list(epochs.values()) == [4, 8, 8, 3, 6, 6, 1, 1, 1]


def test_seeds_of_each_kind():
    made = seeded_experiments(["cstn", "acol", "stn", "cstn-level-4"], "imagenette", "cpu")
    counts = Counter(experiment.name for experiment in made)
    assert counts == {"cstn": 10, "acol": 3, "stn": 3, "cstn-level-4": 5}


COLLAPSES = [f"cstn-head-{case}" for case in ("0-slow-lambda-0", "1-fast-lambda-1e-3")]
COLLAPSES += ["cstn-head-1-slow-lambda-1e-1", "cstn-head-only-fast-lambda-0"]


@pytest.mark.parametrize("name", [n for n in STUDIES if n not in COLLAPSE_STUDY] + COLLAPSES)
@pytest.mark.parametrize("profile", ["quick", "paper"])
def test_a_study_changes_one_thing(name, profile):
    """A level alone has neither of the terms that compare levels."""
    for dataset in DATASETS:
        method = "plain" if name == PLAIN_EQUATION_4 else "cstn"
        ours, theirs = (make(n, dataset, profile) for n in (method, name))
        unit = 16 if profile == "paper" else 1
        if name in LEVEL_STUDY:
            level = {level.name: level for level in ours.model.levels}[LEVEL_STUDY[name]]
            values = {"levels": (level,), "alpha_scale": 0.0, "level_weight": 0.0}
        elif name in LAMBDA_STUDY:
            values = {"lambda_theta": unit * LAMBDA_STUDY[name]}
        elif name in ALPHA_STUDY:
            values = {"alpha_scale": unit * ALPHA_STUDY[name]}
        elif name in (EQUATION_4, PLAIN_EQUATION_4):
            values = {"level_weight": 0.0}
        elif name in (SELF_TRAINED, TRAINED_LONGER):
            assert (theirs.teacher, ours.teacher) == (ours, None)
            values = {"lr": 1e-3, "localization_lr": 1.0, "warmup_epochs": 0}
            values |= {"box_weight": 0.0} if name == TRAINED_LONGER else {}
        else:
            _, _, tell, rate, _, weight = name.split("-", 5)
            only = tell == "only"
            values = {"head_tell": 1.0 if only else float(tell), "parts_tell": not only}
            values["lambda_theta"] = unit * float(weight)
            if rate == "fast":
                values |= {"localization_lr": 1.0, "warmup_epochs": 0}
        assert changes(ours, theirs) == expected_changes(ours, values)


def test_the_collapse_study_is_a_grid():
    """Three ways to tell the class, two rates, three lambdas: each once, all trainings distinct."""
    assert len(COLLAPSE_STUDY) == len(set(COLLAPSE_STUDY.values())) == 3 * 2 * 3
    made = [replace(make(name, "birds-cub", "cpu"), name="") for name in COLLAPSE_STUDY]
    assert len(set(made)) == len(COLLAPSE_STUDY)


def test_the_papers_experiment_stays_the_same():
    """Or finished runs would be trained again."""
    chosen = _chosen(make("cstn", "birds-cub", "quick"))  # what names a run
    content = json.dumps(chosen, sort_keys=True).encode()
    assert hashlib.sha256(content).hexdigest()[:10] == "ed6b0f493d"


@pytest.mark.parametrize("name", FEW)
def test_precision_belongs_to_the_recipe(name):
    """What is published is float32 on every processor; another precision is another training."""
    usual, short = (make(name, "birds-cub", "smoke", **p) for p in ({}, {"precision": "bfloat16"}))
    assert usual.training.precision == "float32"
    assert replace(short, teacher=None) == replace(
        usual, training=replace(usual.training, precision="bfloat16"), teacher=None
    )
    assert not short.teacher or short.teacher.training.precision == "bfloat16"


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


def test_the_map_of_the_collapse_has_corners_in_small_profiles():
    assert collapse_names("cpu") == tuple(COLLAPSE_STUDY)
    for profile in ("smoke", "quick", "paper"):
        corners = {COLLAPSE_STUDY[name] for name in collapse_names(profile)}
        assert corners == set(product(("0", "only"), ("fast",), (0.0, 0.1)))
    assert collapse_names("cpu", "tiny-imagenet") == ()
