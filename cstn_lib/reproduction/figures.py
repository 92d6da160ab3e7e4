"""Figures 6 and 8 and the verdicts on the claims, as files.

What they count is in `cstn_lib.reproduction.areas`, how they look in `cstn_lib.plots`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cstn_lib.evaluation.metrics import AreaHistogram
from cstn_lib.reproduction.areas import counts_by_area, counts_table
from cstn_lib.reproduction.claims import Verdict, claims_table
from cstn_lib.reproduction.paper import FIGURE_6, STANDS_FOR
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import required_runs, save_table_files
from cstn_lib.support.atomic import atomic_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE_6_PANELS = dict(zip(FIGURE_6, ("cstn-level-4", "cstn-level-5", "cstn"), strict=True))
"""The experiment behind each panel: only one level votes, or both."""


def figure_6(runs: Sequence[Run]) -> dict[str, AreaHistogram]:
    """The counts of Figure 6, panel by panel; seeds are averaged.

    Raises:
        InputError: an experiment of `FIGURE_6_PANELS` is missing, or there are several data sets.
    """
    groups = required_runs(runs, tuple(FIGURE_6_PANELS.values()))
    return {panel: counts_by_area(groups[name]) for panel, name in FIGURE_6_PANELS.items()}


def figure_8(runs: Sequence[Run]) -> dict[str, AreaHistogram]:
    """The counts of Figure 8: one panel, named after the data set; seeds are averaged."""
    return {runs[0].experiment.data.name: counts_by_area(runs)}


def save_figure_files(name: str, runs: Sequence[Run], folder: Path) -> Figure:
    """Draw Figure 6 or 8 and write it as ``.svg`` and ``.png``, its counts as ``.csv``.

    Args:
        name: ``"figure-6"`` or ``"figure-8"``; its files are called ``figure_6`` or ``figure_8``.
        runs: those that it needs (`cstn_lib.reproduction.results.experiments_of`), finished.
    """
    # slow to import, and commands that draw nothing do without
    from cstn_lib import plots
    from cstn_lib.reproduction import charts

    panels = {"figure-6": figure_6, "figure-8": figure_8}[name](runs)
    is_cub = STANDS_FOR.get(runs[0].experiment.data.name) == "CUB-200-2011"
    stem = name.replace("-", "_")
    plots.use_style()
    figure = charts.plot_area_panels(panels, FIGURE_6 if is_cub and name == "figure-6" else {})
    plots.save_figure(figure, folder, stem)
    with atomic_file(folder / f"{stem}.csv") as temporary:
        counts_table(panels).to_csv(temporary)
    return figure


def save_claims_files(verdicts: Sequence[Verdict], folder: Path) -> Figure:
    """Write the verdicts as ``claims.csv`` and ``.md``, their picture as ``.svg`` and ``.png``."""
    from cstn_lib import plots  # as above
    from cstn_lib.reproduction import charts

    save_table_files(claims_table(verdicts), folder, "claims")
    plots.use_style()
    figure = charts.plot_claims(verdicts)
    plots.save_figure(figure, folder, "claims")
    return figure
