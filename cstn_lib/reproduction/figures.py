"""Figures 6 and 8 and the claims at a glance, as files; and which trainings every figure needs.

What they count is in `cstn_lib.reproduction.areas`, how they look in `cstn_lib.plots`. `FIGURES`
is to figures what `cstn_lib.reproduction.tables.TABLES` is to tables: notebooks, ``cstn report``
and batch jobs all ask it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from cstn_lib.evaluation.metrics import AreaHistogram
from cstn_lib.reproduction.areas import counts_by_area, counts_table
from cstn_lib.reproduction.claims import Verdict, claims_table
from cstn_lib.reproduction.experiments import Experiment, seeded_experiments
from cstn_lib.reproduction.paper import FIGURE_6, STANDS_FOR
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import runs_of, save_table_files
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "FIGURES",
    "FIGURE_6_PANELS",
    "FigureSpec",
    "figure_6",
    "figure_8",
    "figure_experiments",
    "save_claims_files",
    "save_figure_files",
]

FIGURE_6_PANELS = dict(zip(FIGURE_6, ("cstn-level-4", "cstn-level-5", "cstn"), strict=True))
"""The experiment behind each panel: only one level votes, or both."""


def figure_6(runs: Sequence[Run]) -> dict[str, AreaHistogram]:
    """The counts of Figure 6, panel by panel; seeds are averaged.

    Raises:
        InputError: an experiment of `FIGURE_6_PANELS` is missing.
    """
    groups = runs_of(runs)
    missing = [name for name in FIGURE_6_PANELS.values() if name not in groups]
    if missing:
        raise InputError(f"runs of {', '.join(groups) or 'nothing'}: {', '.join(missing)} missing")
    return {panel: counts_by_area(groups[name]) for panel, name in FIGURE_6_PANELS.items()}


def figure_8(runs: Sequence[Run]) -> dict[str, AreaHistogram]:
    """The counts of Figure 8: one panel, named after the data set; seeds are averaged."""
    return {runs[0].experiment.data.name: counts_by_area(runs)}


@dataclass(frozen=True)
class FigureSpec:
    """What a figure is made of.

    Attributes:
        datasets: whose place ours take in the paper.
        experiments: of each of these data sets, names of
            `cstn_lib.reproduction.experiments.EXPERIMENTS`, each with every seed. Where the user
            gives one data set for several, it serves all of them.
        panels: its counts from the finished runs; None where it shows images.
    """

    datasets: tuple[str, ...]
    experiments: tuple[tuple[str, ...], ...]
    panels: Callable[[Sequence[Run]], dict[str, AreaHistogram]] | None = None


FIGURES = {
    "figure-6": FigureSpec(("birds-cub",), (tuple(FIGURE_6_PANELS.values()),), figure_6),
    "figure-8": FigureSpec(("birds-ilsvrc",), (("cstn",),), figure_8),
    "figures-2-5-7-9": FigureSpec(
        ("birds-cub", "birds-ilsvrc"), (("cstn", "cstn-lambda-0"), ("cstn",))
    ),
}


def figure_experiments(
    name: str, profile: str, *, dataset: str = "", seeds: int = 0
) -> list[Experiment]:
    """Every training that a figure needs, seed after seed of each.

    Args:
        name: a key of `FIGURES`.
        profile: one of `cstn_lib.reproduction.experiments.PROFILES`.
        dataset: instead of the figure's own, with commas where there are several.
        seeds: how many; 0: as many as the profile has.

    Raises:
        InputError: a name is unknown, or the figure takes fewer data sets.
    """
    if name not in FIGURES:
        raise unknown_name("figure", name, FIGURES)
    spec = FIGURES[name]
    chosen = dataset.split(",") if dataset else spec.datasets
    if len(chosen) > len(spec.datasets):
        raise InputError(f"dataset {dataset!r}: expected {len(spec.datasets)} at most for {name}")
    made = [
        experiment
        # the last data set given serves where more are asked for
        for data, names in zip_longest(chosen, spec.experiments, fillvalue=chosen[-1])
        for experiment in seeded_experiments(names, data, profile, seeds=seeds)
    ]
    return list(dict.fromkeys(made))


def save_figure_files(name: str, runs: Sequence[Run], folder: Path) -> Figure:
    """Draw Figure 6 or 8 and write it as ``.svg`` and ``.png``, its counts as ``.csv``.

    Args:
        name: ``"figure-6"`` or ``"figure-8"``; its files are called ``figure_6`` or ``figure_8``.
        runs: those of `figure_experiments`, finished.
    """
    from cstn_lib import plots  # slow to import, and commands that draw nothing do without

    panels = FIGURES[name].panels(runs)
    is_cub = STANDS_FOR.get(runs[0].experiment.data.name) == "CUB-200-2011"
    stem = name.replace("-", "_")
    plots.use_style()
    figure = plots.plot_area_panels(panels, FIGURE_6 if is_cub and name == "figure-6" else {})
    plots.save_figure(figure, folder, stem)
    with atomic_file(folder / f"{stem}.csv") as temporary:
        counts_table(panels).to_csv(temporary)
    return figure


def save_claims_files(verdicts: Sequence[Verdict], folder: Path) -> Figure:
    """Write the verdicts as ``claims.csv`` and ``.md``, their picture as ``.svg`` and ``.png``."""
    from cstn_lib import plots  # as above

    save_table_files(claims_table(verdicts), folder, "claims")
    plots.use_style()
    figure = plots.plot_claims(verdicts)
    plots.save_figure(figure, folder, "claims")
    return figure
