"""Charts of results: methods, sizes, misses and verdicts, in the style of `cstn_lib.plots`.

Slow to import: commands that draw nothing do without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cstn_lib.evaluation.metrics import AreaHistogram, mean_interval
from cstn_lib.plots import BOX_STYLES, save_figure, use_style
from cstn_lib.reproduction.areas import WITH, WITHOUT, counts_table, figure_6, figure_8
from cstn_lib.reproduction.claims import claims_table
from cstn_lib.reproduction.comparison import MISSES
from cstn_lib.reproduction.paper import FIGURE_6, STANDS_FOR
from cstn_lib.reproduction.rules import (
    HOLDS,
    HOLDS_IN_PART,
    HOLDS_NOT,
    NOT_TESTED,
    UNDECIDED,
    Verdict,
)
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import save_table_files
from cstn_lib.support.atomic import atomic_file

_PAPER = {
    "marker": "D",
    "facecolor": "none",
    "edgecolor": "0.3",
    "label": "printed in the paper",
    "zorder": 3,
}


def plot_methods(
    hits: Mapping[str, Sequence[np.ndarray]], published: Mapping[str, float]
) -> Figure:
    """A share of test images for each method, with its interval and what the paper printed.

    Args:
        hits: by method from top to bottom, (n,) booleans per seed.
        published: percentages, by method, where the paper has one.
    """
    figure, ax = plt.subplots(figsize=(7.5, 0.4 * len(hits) + 1.2))
    for row, (name, seeds) in enumerate(hits.items()):
        ours = name.startswith("CSTN")
        mean, low, high = (100 * end for end in mean_interval(np.stack(seeds)))
        if len(seeds) > 1:
            means = [100 * np.mean(right) for right in seeds]
            ax.scatter(means, [row + 0.28] * len(seeds), s=7, color="0.6", label="one seed")
        ax.errorbar(
            *(mean, row),
            xerr=[[mean - low], [high - mean]],
            fmt="o" if ours else "s",
            color=BOX_STYLES["transformed"]["edgecolor"] if ours else "0.25",
            label=("CSTN" if ours else "others") + ", with 95 % interval",
        )
        if name in published:
            ax.scatter(published[name], row, s=45, **_PAPER)
    ax.set(
        yticks=range(len(hits)),
        yticklabels=hits,
        xlim=(0, 100),
        xlabel="test images localized [%]",
    )
    ax.invert_yaxis()
    ax.grid(axis="x", color="0.92")
    _legend_below(figure, ax, 4, fontsize=10)
    return figure


def plot_by_area(groups: pd.DataFrame) -> Figure:
    """How often methods are right, from the smallest to the largest objects.

    Args:
        groups: of `cstn_lib.reproduction.comparison.hits_by_area`.
    """
    figure, ax = plt.subplots(figsize=(7.5, 3.8))
    names = [c for c in groups if c not in ("smallest", "median", "largest", "images")]
    others = iter(sns.color_palette("colorblind")[::2])
    for name, marker in zip(names, "oDs^vP*X", strict=False):
        ours = name.startswith("CSTN")
        color = BOX_STYLES["transformed"]["edgecolor"] if ours else next(others)
        line = "-" if name == "CSTN" else "--"
        look = {"marker": marker, "color": color, "linestyle": line, "label": name}
        ax.plot(groups.index + 1, 100 * groups[name], **look)
    ranges = [f"{100 * g.smallest:.0f} – {100 * g.largest:.0f}" for g in groups.itertuples()]
    ax.set(
        xticks=groups.index + 1,
        xticklabels=ranges,
        xlabel="area of the largest object [% of the image], equally many images in each group",
        ylabel="images localized [%]",
        ylim=(0, 102),
    )
    ax.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def plot_misses(kinds: Mapping[str, np.ndarray]) -> Figure:
    """What is wrong with the boxes of each method, as stacked shares.

    Args:
        kinds: of `cstn_lib.reproduction.comparison.kinds_of_misses`, by method from top to bottom.
    """
    figure, ax = plt.subplots(figsize=(7.5, 0.42 * len(kinds) + 1.3))
    shares = np.array([[100 * np.mean(some == miss) for miss in MISSES] for some in kinds.values()])
    start = np.zeros(len(kinds))
    looks = (("#00A087", ""), ("0.8", ".."), ("#E69F00", "//"), ("#56B4E9", "\\\\"))
    for miss, share, (color, hatch) in zip(MISSES, shares.T, looks, strict=True):
        look = {"color": color, "hatch": hatch, "edgecolor": "white", "label": miss}
        bars = ax.barh(list(kinds), share, left=start, **look)
        numbers = [f"{value:.0f}" if value >= 4 else "" for value in share]
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.bar_label(bars, numbers, label_type="center", fontsize=9, bbox=white)
        start += share
    ax.set(xlabel="test images [%]", xlim=(0, 100))
    ax.invert_yaxis()
    _legend_below(figure, ax, 4)
    return figure


_VERDICT_STYLES = {
    HOLDS: {"color": "#009E73", "marker": "o"},
    HOLDS_IN_PART: {"color": "#8C510A", "marker": "s"},
    UNDECIDED: {"color": "0.55", "marker": "^"},
    HOLDS_NOT: {"color": "0.15", "marker": "X"},
    NOT_TESTED: {"color": "0.55", "marker": "none"},
}
"""A verdict is told by shape and word; the hues only help."""


def plot_claims(verdicts: Sequence[Verdict]) -> Figure:
    """All claims at a glance: ours filled with its interval, the paper's hollow.

    One row per claim; its numbers stand below each other in it, in the order of
    `cstn_lib.reproduction.claims.measured_table`. To the right of zero a number speaks for its
    claim; where a claim says that nothing much changes, a grey bar spans what it allows.

    Args:
        verdicts: of `cstn_lib.reproduction.claims.judge`, from top to bottom.
    """
    heights = np.array([max(1, 0.6 * len(verdict.measured)) for verdict in verdicts])
    middles = np.cumsum(heights) - heights / 2
    figure, ax = plt.subplots(figsize=(10.5, 0.26 * heights.sum() + 1.2))
    for verdict, middle in zip(verdicts, middles, strict=True):
        style, count = _VERDICT_STYLES[verdict.verdict], len(verdict.measured)
        look = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 10}
        ax.text(1.01, middle, verdict.verdict, color=style["color"], **look)
        for at, m in enumerate(verdict.measured):
            place = middle + 0.6 * (at - (count - 1) / 2)
            if m.within is not None:
                ax.plot([-m.within, m.within], [place] * 2, color="0.85", linewidth=7, zorder=0)
            below_above = [[m.here.mean - m.here.low], [m.here.high - m.here.mean]]
            look = {"fmt": style["marker"], "color": style["color"], "label": verdict.verdict}
            ax.errorbar(m.here.mean, place, xerr=below_above, markersize=5, **look)
            if m.paper is not None:
                ax.scatter(m.paper, place, s=30, **_PAPER)
    ax.hlines(np.cumsum(heights)[:-1], 0, 1, transform=ax.get_yaxis_transform(), color="0.93")
    ax.axvline(0, color="0.5", linewidth=1, zorder=1)
    names = [f"{verdict.claim.text} ({verdict.dataset})" for verdict in verdicts]
    ax.set(yticks=middles, ylim=(heights.sum(), 0))
    ax.set_yticklabels(names, fontsize=9)
    ax.set_xlabel("percentage points; right of 0 speaks for the claim")
    _legend_below(figure, ax, 4)
    return figure


_COUNT_STYLES = {
    WITHOUT: {"color": BOX_STYLES["default"]["edgecolor"], "hatch": "////", "edgecolor": "white"},
    WITH: {"color": BOX_STYLES["transformed"]["edgecolor"], "edgecolor": "white"},
}
"""The paper's blue and red, told apart in grey by the hatch; behind them, pale, its green."""


def draw_area_histogram(ax: Axes, histogram: AreaHistogram, title: str = "") -> None:
    """Images by the area of their objects, in the paper's colours (Fig. 6 and 8).

    In each bin a wide pale bar of all images, its count above it; within it the images localized
    without transform (blue, hatched) and with it (red), where the histogram has them.
    """
    percent = 100 * histogram.edges
    left, width = percent[:-1], np.diff(percent)
    green = BOX_STYLES["truth"]["edgecolor"]
    look = {"facecolor": "#CDEAE4", "edgecolor": green, "linewidth": 1.2}
    drawn = ax.bar(left, histogram.images, width, align="edge", label="images", **look)
    ax.bar_label(drawn, fmt="%d", fontsize=8, padding=1)
    names = [name for name in _COUNT_STYLES if name in histogram.localized]
    for place, name in enumerate(names):
        start, counts = left + width * (0.1 + 0.4 * place), histogram.localized[name]
        look = {"label": f"localized {name}", "linewidth": 0.8, **_COUNT_STYLES[name]}
        ax.bar(start, counts, 0.4 * width, align="edge", **look)
    ax.set(xlabel="area of the object [% of the image]", ylabel="images", title=title)
    ax.set(xlim=(percent[0] - 0.2 * width[0], percent[-1] + 0.2 * width[-1]))


def plot_area_panels(
    panels: Mapping[str, AreaHistogram], paper: Mapping[str, float] | None = None
) -> Figure:
    """Figure 6 or 8: `draw_area_histogram` of each panel, side by side with one legend.

    Args:
        panels: by title, each with both counts of localized images.
        paper: the published Top-1 Loc of panels in percent, shown beside ours.
    """
    wide = max(4.3 * len(panels), 7.5)
    figure, axes = plt.subplots(1, len(panels), figsize=(wide, 4.4), sharey=True, squeeze=False)
    for ax, (name, histogram) in zip(axes[0], panels.items(), strict=True):
        rates = {k: 100 * v.sum() / histogram.images.sum() for k, v in histogram.localized.items()}
        published = f" (paper {paper[name]:.1f})" if paper and name in paper else ""
        top1 = f"Top-1 Loc {rates[WITH]:.1f} %{published},\n{rates[WITHOUT]:.1f} % {WITHOUT}"
        draw_area_histogram(ax, histogram, f"{name}\n{top1}")
        ax.title.set_fontsize(10)
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
    _legend_below(figure, axes[0, 0], 3)
    return figure


def draw_rates(ax: Axes, rates: pd.DataFrame, label: str, marker: str, **style: object) -> None:
    """A share of the images by the area of their objects, with 95 % intervals.

    Args:
        rates: of `cstn_lib.reproduction.areas.rates_by_area`.
    """
    area, rate, low, high = (100 * rates[name] for name in ("area", "rate", "low", "high"))
    below_above = [(rate - low).clip(0), (high - rate).clip(0)]
    look = {"capsize": 2, "linewidth": 1.5, "elinewidth": 0.8, "markersize": 5, **style}
    ax.errorbar(area, rate, yerr=below_above, label=label, marker=marker, **look)
    ax.set(xlabel="area of the object [% of the image]", ylim=(-2, 102))


def save_figure_files(name: str, runs: Sequence[Run], folder: Path) -> Figure:
    """Draw Figure 6 or 8 and write it as ``.svg`` and ``.png``, its counts as ``.csv``.

    Args:
        name: ``"figure-6"`` or ``"figure-8"``; its files are called ``figure_6`` or ``figure_8``.
        runs: those that it needs (`cstn_lib.reproduction.results.experiments_of`), finished.
    """
    panels = {"figure-6": figure_6, "figure-8": figure_8}[name](runs)
    is_cub = STANDS_FOR.get(runs[0].experiment.data.name) == "CUB-200-2011"
    stem = name.replace("-", "_")
    use_style()
    figure = plot_area_panels(panels, FIGURE_6 if is_cub and name == "figure-6" else {})
    save_figure(figure, folder, stem)
    with atomic_file(folder / f"{stem}.csv") as temporary:
        counts_table(panels).to_csv(temporary)
    return figure


def save_claims_files(verdicts: Sequence[Verdict], folder: Path) -> Figure:
    """Write the verdicts as ``claims.csv`` and ``.md``, their picture as ``.svg`` and ``.png``."""
    save_table_files(claims_table(verdicts), folder, "claims")
    use_style()
    figure = plot_claims(verdicts)
    save_figure(figure, folder, "claims")
    return figure


def _legend_below(figure: Figure, ax: Axes, columns: int, **style: object) -> None:
    """One legend below the figure; a label that stands for several artists is told once."""
    by_label = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    look = {"loc": "outside lower center", "ncols": columns, "frameon": False, **style}
    figure.legend(by_label.values(), by_label, **look)
