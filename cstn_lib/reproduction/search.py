"""Random search for a method's settings on val, with as many trials for every method.

A comparison is fair if what is compared was looked for with equal care. `SPACES` says what may
differ, the first trial is the recipe that all share, the others are drawn from the space; the
winner by Top-1 Loc on val, which asks for the class, too, goes into
`cstn_lib.reproduction.experiments.RECIPES`. The logs are published in ``figures/search``. Test is
never looked at.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cstn_lib.config import LevelConfig
from cstn_lib.evaluation.metrics import choose_threshold, evaluate
from cstn_lib.reproduction.experiments import (
    Experiment,
    make_experiment,
    photo_levels,
    small_levels,
    with_fields,
)
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import unknown_name
from cstn_lib.support.project import project_folder

TRIALS = {"birds-cub": 6, "birds-ilsvrc": 6, "imagenette": 24}
"""More where a training takes seconds, on the maps of a frozen backbone."""

FINALISTS, FINAL_SEEDS = {"imagenette": 5}, 3
"""So many of the best trials are judged by the mean over more seeds, and the best of them wins: few
images of val and few steps of training make one seed a lottery. Elsewhere one seed decides."""

_RATES = {"lr": (1e-3, 2e-3, 4e-3)}
_LEVELS = {
    "levels": tuple(small_levels(kernel) for kernel in (6, 7, 8, 9)),
    "alpha_scale": (0.0, 0.1, 0.3, 1.0),
}
_MAPS = {**_RATES, "epochs": (4, 8), "frozen_stages": (0, 2, 3)}
SPACES: dict[str, dict[str, tuple]] = {
    "cstn": {
        **_RATES,
        **_LEVELS,
        "localization_lr": (0.1, 0.3, 1.0),
        "lambda_theta": (1e-5, 1e-4, 1e-3),
    },
    "plain": {**_RATES, **_LEVELS},
    "deform": {**_RATES, **_LEVELS, "localization_lr": (0.03, 0.1, 0.3, 1.0)},
    "stn": {
        **_RATES,
        "first_frame": (0.65, 0.8, 1.0),
        "localization_lr": (0.01, 0.03, 0.1, 0.3),
        "lambda_theta": (0.0, 1e-4, 1e-3, 1e-2),
    },
    **dict.fromkeys(("cam", "has", "acol", "spg", "adl"), _MAPS),
}
"""By method, the fields of its model and training that are searched, with their values."""

_PHOTO_VOTES = {
    "levels": tuple(
        photo_levels(kernel, last, stride=stride)
        for kernel, stride in ((11, 1), (10, 1), (10, 2), (9, 1), (9, 2), (8, 1))
        for last in (6, 5)
    ),
    "alpha_scale": (0.0, 0.1, 0.5),
    "level_weight": (0.0, 1.0),
    "lr": (5e-4, 1e-3, 2e-3),
    "epochs": (4, 6),
}
_PHOTO_THETA = {"localization_lr": (0.03, 0.1, 0.3), "lambda_theta": (1e-5, 1e-4, 3e-4, 1e-3)}
_PHOTO_MAPS = {
    "lr": (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3),
    "epochs": (1, 2, 4, 8),
    "weight_decay": (1e-4, 1e-2),
}
PHOTO_SPACES: dict[str, dict[str, tuple]] = {
    "cstn": {**_PHOTO_VOTES, **_PHOTO_THETA},
    "plain": _PHOTO_VOTES,
    "deform": {**_PHOTO_VOTES, "localization_lr": (0.03, 0.1, 0.3)},
    **dict.fromkeys(("cam", "adl"), _PHOTO_MAPS),
}
"""The same for Imagenette. Methods that take minutes a training there are not searched: ``acol``,
and those that need the images themselves, not maps that are kept (``has``, ``spg``, ``stn``)."""


def space(method: str, dataset: str) -> dict[str, tuple]:
    """What is searched for a method on a data set.

    Raises:
        InputError: nothing is.
    """
    spaces = PHOTO_SPACES if dataset == "imagenette" else SPACES
    if method not in spaces:
        raise unknown_name("method to search", method, spaces)
    return spaces[method]


def trials(method: str, dataset: str, profile: str) -> list[tuple[Experiment, dict[str, object]]]:
    """What is tried: trainings of one seed, each with the fields that it changes in the first.

    Raises:
        InputError: a name is unknown.
    """
    searched = space(method, dataset)
    shared = make_experiment(method, dataset, profile, own=False)
    found: list[tuple[Experiment, dict[str, object]]] = [(shared, {})]
    drawn = random.Random(f"{method} on {dataset}")
    while len(found) < TRIALS.get(dataset, 6):
        fields = {name: drawn.choice(values) for name, values in searched.items()}
        model, training = with_fields(shared.model, shared.training, fields)
        trial = replace(shared, model=model, training=training)
        if trial not in [known for known, _ in found]:
            found.append((trial, fields))
    return found


def search(method: str, dataset: str, profile: str, store: RunStore, log: Path) -> pd.DataFrame:
    """Train every trial and write the log after each; what was trained before is opened.

    Args:
        log: the CSV file to write.

    Returns:
        one row per trial, the best first: its fields; on val GT-Known Loc at the best threshold,
        Top-1 Class and Top-1 Loc in percent; the training's seconds and processor.
    """
    tried = trials(method, dataset, profile)
    rows: list[dict[str, object]] = []

    def write() -> pd.DataFrame:
        order = ["seeds"] * (dataset in FINALISTS) + ["top1_loc"]
        table = pd.DataFrame(rows).sort_values(order, ascending=False, kind="stable")
        with atomic_file(log) as temporary:
            table.to_csv(temporary, index=False)
        return table

    for number, (trial, fields) in enumerate(tried):
        changed = {name: _text(fields.get(name)) for name in space(method, dataset)}
        seeds = {"seeds": 1} if dataset in FINALISTS else {}
        rows.append({"trial": number, **changed, **seeds, **_judged([store.run(trial)])})
        table = write()
    for number in table["trial"][: FINALISTS.get(dataset, 0)]:
        trial, _ = tried[number]
        again = [store.run(replace(trial, seed=seed)) for seed in range(FINAL_SEEDS)]
        rows[number] |= {"seeds": FINAL_SEEDS, **_judged(again)}
        table = write()
    return table


def _judged(runs: Sequence[Run]) -> dict[str, object]:
    """Means over the seeds of one trial, on val."""
    tables = [run.predictions("val") for run in runs]
    thresholds = [choose_threshold(val) for val in tables]
    found = [evaluate(v, threshold=t) for v, t in zip(tables, thresholds, strict=True)]
    rates = {
        name: round(100 * float(np.mean([rate[name] for rate in found])), 2)
        for name in ("gt_known_loc", "top1_loc", "top1_class")
    }
    seconds = round(sum(run.facts["training_seconds"] for run in runs), 1)
    machine = runs[0].facts["processor"]
    return {"threshold": thresholds[0], **rates, "seconds": seconds, "machine": machine}


def search_summary(dataset: str) -> pd.DataFrame:
    """The published logs of one data set, a row per method: what its search tried and found.

    Returns:
        ``trials``; Top-1 Loc on val of the shared recipe (``as shared``) and of the ``best`` trial,
        in percent; ``settings of the best``; ``seconds`` of training and ``processor``; no rows
        where the data set has no log.
    """
    rows = {}
    for method in SPACES:
        path = log_path(dataset, method)
        if not path.is_file():
            continue
        searched = space(method, dataset)
        log = pd.read_csv(path, dtype={name: str for name in searched}).fillna("")
        best = log.iloc[0]
        rows[method] = {
            "trials": len(log),
            "as shared": log.loc[log["trial"] == 0, "top1_loc"].squeeze(),
            "best": best["top1_loc"],
            "settings of the best": ", ".join(f"{n} {best[n]}" for n in searched if best[n]),
            "seconds": log["seconds"].sum().round(),
            "processor": ", ".join(log["machine"].unique()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def log_path(dataset: str, method: str) -> Path:
    """Where the log of a search is published."""
    return project_folder("figures") / "search" / f"{dataset}-{method}.csv"


def _text(value: object) -> str:
    """A value of a space; ``""`` stands for the shared recipe's."""
    if isinstance(value, tuple) and isinstance(value[0], LevelConfig):
        finer, coarser = (level.kernel_size for level in value)
        if finer == coarser:
            return f"kernel size {finer}"
        return f"kernel sizes {finer} (stride {value[0].stride}) and {coarser}"
    return "" if value is None else f"{value}"
