"""Every notebook, the result it makes and the trainings that needs: the one list of them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from cstn_lib.reproduction.areas import FIGURE_6_PANELS
from cstn_lib.reproduction.claims import CLAIMS, DATASETS, data_sets
from cstn_lib.reproduction.experiments import (
    EQUATION_4,
    LAMBDA_STUDY,
    LEVEL_STUDY,
    PLAIN_EQUATION_4,
    SELF_TRAINED,
    TRAINED_LONGER,
    Experiment,
    collapse_names,
    seeded_experiments,
)
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import (
    CONTROLS,
    METHODS,
    comparison_table,
    table_1,
    table_2,
    table_3,
)
from cstn_lib.support.errors import unknown_name
from cstn_lib.support.project import figures_folder


@dataclass(frozen=True)
class Result:
    """A notebook and what it makes.

    Attributes:
        notebook: its file's name, without ``.ipynb``.
        datasets: the embedded data sets it is about, whose place another may take.
        experiments: for each of `datasets`, names of `EXPERIMENTS`.
        title: heads the result on pages; ``""`` for what is in no page.
        table: of a table: makes it from the finished runs.
        columns: of a table: ours that a page shows, each beside the paper's. The CSV has more.
        one_seed: whether it trains one seed alone: a lesson.
        mapped: by profile and data set, names of which one seed is trained besides.
    """

    notebook: str
    datasets: tuple[str, ...]
    experiments: tuple[tuple[str, ...], ...]
    title: str = ""
    table: Callable[[Sequence[Run]], pd.DataFrame] | None = None
    columns: tuple[str, ...] = ()
    one_seed: bool = False
    mapped: Callable[[str, str], Sequence[str]] | None = None


def _lesson(notebook: str, *experiments: str) -> Result:
    return Result(notebook, ("birds-cub",), (experiments,), one_seed=True)


_CUB, _ILSVRC = DATASETS
_EVERY_METHOD = tuple(METHODS.values())
_CHOSEN = ("cstn", SELF_TRAINED, TRAINED_LONGER)
_CLAIMED = tuple(
    tuple(dict.fromkeys(e for c in CLAIMS.values() if data in c.datasets for e in c.experiments))
    for data in DATASETS
)
_FAST = ("cstn-head-0-fast-lambda-0", "cstn-head-0-fast-lambda-1e-3")
_PHOTOGRAPHED = (*_CHOSEN, "plain", "cam", "cstn-lambda-0", *_FAST, *LEVEL_STUDY)
_SIDES = ("without transform", "with transform")
_TABLE_1 = tuple(f"{metric} {side}" for metric in ("Top-1 Loc", "GT-Known") for side in _SIDES)
_COMPARED = ("Top-1 Loc", "GT-Known Loc", "Top-1 Class", "MaxBoxAccV2")

RESULTS = {
    "start-here": _lesson("00_start_here", "cstn"),
    "joint-distribution": _lesson("01_joint_distribution", "plain"),
    "multiscale-search": _lesson("02_multiscale_search", "cstn"),
    "convolutional-stn": _lesson("03_convolutional_stn", "cstn"),
    "regularization": _lesson(
        "04_regularization",
        "cstn",
        "cstn-head-0-fast-lambda-0",
        "cstn-head-only-fast-lambda-0",
        "cstn-head-only-fast-lambda-1e-1",
        "cstn-lambda-0",
        "cstn-alpha-0",
        EQUATION_4,
    ),
    "training": _lesson("05_training", "cstn"),
    "baselines": _lesson("06_baselines", *(m for m in _EVERY_METHOD if m not in _CHOSEN)),
    "table-1": Result(
        "07_table_1",
        DATASETS,
        (("cstn",), ("cstn",)),
        title="Table I: what the transform adds",
        table=table_1,
        columns=(*_TABLE_1, *CONTROLS),
    ),
    "table-2": Result(
        "08_table_2",
        (_CUB,),
        (("plain", "cstn", EQUATION_4, PLAIN_EQUATION_4),),
        title="Table II: with and without CSTN",
        table=table_2,
        columns=("Top-1 Class", "Top-1 Loc", "GT-Known Loc"),
    ),
    "table-3": Result(
        "09_table_3",
        (_CUB,),
        (("cstn", *LAMBDA_STUDY),),
        title="Table III: λ",
        table=table_3,
        columns=("Top-1 Loc", "Top-1 Class", "GT-Known Loc"),
        mapped=collapse_names,
    ),
    "table-4": Result(
        "10_table_4",
        (_CUB,),
        (_EVERY_METHOD,),
        title="Table IV: CSTN among other methods",
        table=comparison_table,
        columns=_COMPARED,
    ),
    "table-5": Result(
        "11_table_5",
        (_ILSVRC,),
        (_EVERY_METHOD,),
        title="Table V: the same where sizes are spread",
        table=comparison_table,
        columns=_COMPARED,
    ),
    "figure-6": Result(
        "12_figure_6",
        (_CUB,),
        (tuple(FIGURE_6_PANELS.values()),),
        title="Figure 6: which level finds objects of which size",
    ),
    "figure-8": Result(
        "13_figure_8",
        (_ILSVRC,),
        (("cstn",),),
        title="Figure 8: objects of every size",
    ),
    "figures-2-5-7-9": Result(
        "14_qualitative_figures", DATASETS, (("cstn", "cstn-lambda-0"), ("cstn",))
    ),
    "claims": Result("15_claims", DATASETS, _CLAIMED),
    "choosing": Result("16_choosing_the_box", DATASETS, (_CHOSEN, _CHOSEN)),
    "photographs": Result("17_photographs", (_CUB,), (_PHOTOGRAPHED,)),
}
"""In reading order; the names are what ``--only`` takes, beside the notebooks' own."""

NOTEBOOKS = tuple(result.notebook for result in RESULTS.values())


def experiments_of(
    name: str, profile: str, *, dataset: str = "", seeds: int = 0
) -> list[Experiment]:
    """Every training that a result needs, each once, seed after seed.

    Args:
        name: a key of `RESULTS`.
        profile: one of `cstn_lib.reproduction.experiments.PROFILES`.
        dataset: instead of the result's own, with commas where there are several; the last one
            given serves where the result is about more.
        seeds: how many; 0: as many as the profile has.

    Raises:
        InputError: a name is unknown, or the result takes fewer data sets.
    """
    if name not in RESULTS:
        raise unknown_name("result", name, RESULTS)
    result = RESULTS[name]
    chosen = data_sets(dataset, result.datasets, name)
    seeds = 1 if result.one_seed else seeds
    needed = []
    for data, names in zip(chosen, result.experiments, strict=True):
        needed += seeded_experiments(names, data, profile, seeds=seeds)
    if result.mapped:
        needed += seeded_experiments(result.mapped(profile, chosen[0]), chosen[0], profile, seeds=1)
    return list(dict.fromkeys(needed))


def result_file(name: str, profile: str, dataset: str = "", figures_dir: str | Path = "") -> Path:
    """The CSV file of a result; its other files lie beside it under the same name.

    Args:
        dataset, figures_dir: as a notebook's parameters; ``""``: the result's own.
    """
    folder = figures_folder(profile, dataset, RESULTS[name].datasets, figures_dir)
    return folder / f"{name.replace('-', '_')}.csv"
