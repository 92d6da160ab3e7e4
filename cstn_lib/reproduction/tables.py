"""Tables I to V of the paper beside ours, computed from runs' predictions tables alone.

Values are percentages of the test images, means over the seeds. ``±`` columns hold half the width
of their 95 % interval, over images and seeds (`cstn_lib.evaluation.metrics.mean_interval`). Columns
of the paper begin with ``paper: `` and are blank where it has nothing. Which trainings a table
needs is in `cstn_lib.reproduction.results`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd

from cstn_lib.evaluation import controls, metrics
from cstn_lib.losses import authors_weight
from cstn_lib.reproduction import paper
from cstn_lib.reproduction.comparison import hits_on_test
from cstn_lib.reproduction.experiments import (
    EQUATION_4,
    LAMBDA_STUDY,
    PLAIN_EQUATION_4,
    SELF_TRAINED,
    TRAINED_LONGER,
)
from cstn_lib.reproduction.runs import Run
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError

METHODS = {
    "CAM": "cam",
    "HaS": "has",
    "ACoL": "acol",
    "SPG": "spg",
    "ADL": "adl",
    "CSTN": "cstn",
    "CSTN, self-trained": SELF_TRAINED,
    "CSTN, trained longer": TRAINED_LONGER,
    "plain convolution": "plain",
    "global STN": "stn",
    "deformable convolution": "deform",
}
"""The rows of Tables IV and V that are a training each, with its experiment; the paper leaves the
last five out."""

CONTROLS = MEAN_BOX, MOVED_SQUARE, SQUARE = "mean box", "square at its centre", "centred square"
"""What each table is to be read against: `cstn_lib.evaluation.controls`."""

TOP_5, FUSED, VIEWS = "CSTN Top-5 box", "CSTN, fused", "CSTN, fused, three views"
CAM_VIEWS = "CAM, three views"
FIVE_BOXES, FIVE_THRESHOLDS = "five fixed boxes", "CAM, five thresholds"
COMPARISON_ROWS = (
    *list(METHODS)[:6],
    TOP_5,
    FUSED,
    VIEWS,
    CAM_VIEWS,
    *list(METHODS)[6:],
    *CONTROLS,
    FIVE_BOXES,
    FIVE_THRESHOLDS,
)
"""As in the paper, then ours, then the controls: see `comparison_table`."""

METRICS = {
    "Top-1 Loc": "top1_loc",
    "GT-Known Loc": "gt_known_loc",
    "Top-1 Class": "top1_class",
    "Top-5 box Loc": "top5_box_loc",
}
"""Columns, and what `cstn_lib.evaluation.metrics` calls them."""

COMPARISON_COLUMNS = (
    "Top-1 Loc",
    "GT-Known Loc",
    "Top-1 Loc at 20 %",
    "GT-Known Loc at 20 %",
    "Top-1 Class",
    "MaxBoxAccV2",
)


def table_1(runs: Sequence[Run]) -> pd.DataFrame:
    """Table I: what the transform adds, one row per data set.

    The same network and the same winning location, judged once by its default box and once by its
    transformed box. Beside the paper's columns stand the GT-Known values, the classification, and
    the controls: the mean box of the winning location, which knows nothing of the image; one square
    for all images at the centre of the transformed box, which knows the place alone; and the fixed
    centred square, which needs no network at all.

    Args:
        runs: of experiment ``cstn``.
    """
    rows = {}
    for dataset in dict.fromkeys(run.experiment.data.name for run in runs):
        same = [run for run in runs if run.experiment.data.name == dataset]
        moved, fixed = _judged(same), _judged(same, transform=False)
        values = {
            "Top-1 Loc without transform": fixed["Top-1 Loc"],
            "Top-1 Loc with transform": moved["Top-1 Loc"],
            "GT-Known without transform": fixed["GT-Known Loc"],
            "GT-Known with transform": moved["GT-Known Loc"],
            "Top-5 box Loc": moved["Top-5 box Loc"],
            "Top-1 Class": moved["Top-1 Class"],
            **control_hits(same),
        }
        rows[dataset] = _row(values) | {"paper: data set": paper.STANDS_FOR.get(dataset, "")}
        for name in ("without transform", "with transform"):
            printed = _printed(same).get(name, {}).get("Top-1 Loc")
            rows[dataset][f"paper: Top-1 Loc {name}"] = printed
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("data set")


def table_2(runs: Sequence[Run]) -> pd.DataFrame:
    """Table II: the same network with a plain convolution and with CSTN, one row each.

    A plain convolution moves nothing, so its boxes are its default boxes. Below stand CSTN read by
    its own default boxes, both trained by Eq. 4 alone, without the levels' own losses, and the
    controls, which know no class.

    Args:
        runs: of experiments ``plain`` and ``cstn`` on one data set; and of both trained by Eq. 4
            alone (`cstn_lib.reproduction.experiments.EQUATION_4`), unless they are themselves.

    Raises:
        InputError: one of them is missing, or there are several data sets.
    """
    groups = required_runs(runs, ("plain", "cstn"))
    without, with_stn = paper.TABLE_2
    cstn, every, alone = groups["cstn"], runs_of(runs), {}
    for row, name, own in ((without, "plain", PLAIN_EQUATION_4), (with_stn, "cstn", EQUATION_4)):
        itself = [run for run in groups[name] if not run.experiment.training.level_weight]
        if trained := every.get(own, itself):
            alone[f"{row}, Eq. 4 alone"] = _judged(trained)
    measured = {
        without: _judged(groups["plain"]),
        with_stn: _judged(cstn),
        f"{with_stn}, default box": _judged(cstn, transform=False),
        **alone,
        **{name: {"GT-Known Loc": hits} for name, hits in control_hits(cstn).items()},
    }
    columns = ("Top-1 Class", "Top-1 Loc")
    rows = {name: _row(values, (*columns, "GT-Known Loc")) for name, values in measured.items()}
    return _table(rows, "type", runs, columns)


def table_3(runs: Sequence[Run]) -> pd.DataFrame:
    """Table III: one row per lambda, from 0 upwards.

    Our lambda is that of Eq. 4, per example. A row meets the paper's whose weight per example,
    the printed one times the batch of the authors' code (`cstn_lib.losses.authors_weight`), is less
    than twice and more than half as large. Two columns spell the paper's out: as printed, and that
    weight.

    Args:
        runs: of ``cstn`` and all of `cstn_lib.reproduction.experiments.LAMBDA_STUDY` but the one
            step at which ``cstn`` itself stands, on one data set.

    Raises:
        InputError: one of them is missing, or there are several data sets.
    """
    groups = runs_of(runs)
    stands = {run.experiment.training.lambda_theta for run in groups.get("cstn", ())}
    steps = [
        name
        for name, weight in LAMBDA_STUDY.items()
        if name in groups or not stands & {weight, authors_weight(weight)}
    ]
    groups = required_runs(runs, ("cstn", *steps))
    rows, published, numbers = {}, {}, _printed(runs)
    for group in groups.values():
        weight = group[0].experiment.training.lambda_theta
        rows[weight] = _row(_judged(group), ("Top-1 Loc", "GT-Known Loc", "Top-1 Class"))
        for printed in paper.TABLE_3:
            theirs = authors_weight(printed)
            meets = theirs == weight or theirs / 2 < weight < 2 * theirs
            if meets and printed in numbers:
                steps = {"lambda as printed": printed, "lambda per example": theirs}
                published[weight] = steps | numbers[printed]
    columns = ("lambda as printed", "lambda per example", "Top-1 Loc", "Top-1 Class")
    return _table(dict(sorted(rows.items())), "lambda", runs, columns, published)


def comparison_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Tables IV and V: every method of the paper, five that it leaves out, and the controls.

    A method with score maps is judged at the threshold that is best on its own val split, and in
    the ``at 20 %`` columns at 20 % of each map's range. MaxBoxAccV2 needs no threshold:
    see `cstn_lib.evaluation.metrics.max_box_acc_v2`. The controls know no class, and the Top-5 box
    is a reading of CSTN's GT-Known: what they cannot have is left blank, as in the paper. The Top-5
    box stands beside what else has five tries: five boxes that are the same for all images, and
    CAM's boxes at five thresholds, both chosen on val. Two rows read CSTN's votes otherwise than
    the paper, see `cstn_lib.evaluation.choosing` and `cstn_lib.evaluation.views`; CAM, too, is
    shown the three views.

    Args:
        runs: of all experiments of `METHODS` on one data set.

    Raises:
        InputError: one of them is missing, or there are several data sets.
    """
    groups, rows = runs_of(runs), {}
    for name, values in _compared(runs).items():
        group = groups.get(METHODS.get(name, ""), [])
        chosen = [metrics.choose_threshold(run.predictions("val")) for run in group]
        rows[name] = {
            **_row(values, COMPARISON_COLUMNS),
            "threshold": _mean([100 * threshold for threshold in chosen if threshold is not None]),
            "training seconds": _mean([run.facts["training_seconds"] for run in group]),
        }
    return _table(rows, "method", runs, paper.TABLE_COLUMNS)


def comparison_hits(runs: Sequence[Run]) -> dict[str, Sequence[np.ndarray]]:
    """GT-Known hits behind each row of `comparison_table`: one (n,) boolean array per seed."""
    return {name: values["GT-Known Loc"] for name, values in _compared(runs).items()}


def runs_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs by the name of their experiment, each in the order given."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.experiment.name, []).append(run)
    return groups


def required_runs(runs: Sequence[Run], experiments: Sequence[str]) -> dict[str, list[Run]]:
    """The runs of each of these experiments, in that order.

    Raises:
        InputError: one of them is missing, or there are several data sets.
    """
    datasets = dict.fromkeys(run.experiment.data.name for run in runs)
    if len(datasets) > 1:
        raise InputError(f"runs of {', '.join(datasets)}: expected one data set")
    groups = runs_of(runs)
    missing = [name for name in experiments if name not in groups]
    if missing:
        raise InputError(f"runs of {', '.join(groups) or 'nothing'}: {', '.join(missing)} missing")
    return {name: groups[name] for name in experiments}


def control_hits(runs: Sequence[Run]) -> dict[str, list[np.ndarray]]:
    """GT-Known hits of `CONTROLS` for runs of ``cstn``: (n,) booleans, per seed where they vary."""
    tables = [run.predictions() for run in runs]
    return {
        MEAN_BOX: [controls.mean_box_hits(table) for table in tables],
        MOVED_SQUARE: [controls.moved_square_hits(table) for table in tables],
        SQUARE: [centred_square_hits(runs[0])],
    }


def centred_square_hits(run: Run) -> np.ndarray:
    """(n,) which test images one fixed centred square finds; its side was chosen on val."""
    side = controls.best_centred_square(metrics.ground_truth(run.predictions("val")))
    truth = metrics.ground_truth(run.predictions())
    return controls.fixed_hits(controls.centred_square(side)[None], truth)


def five_box_hits(run: Run) -> np.ndarray:
    """(n,) which test images one of five fixed boxes finds; they were chosen on val."""
    boxes = controls.five_fixed_boxes(metrics.ground_truth(run.predictions("val")))
    return controls.fixed_hits(boxes, metrics.ground_truth(run.predictions()))


def save_table_files(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write a table as ``name.csv`` and ``name.md``."""
    with atomic_file(folder / f"{name}.csv") as temporary:
        table.to_csv(temporary)
    with atomic_file(folder / f"{name}.md") as temporary:
        temporary.write_text(markdown_table(table), encoding="utf-8")


def markdown_table(table: pd.DataFrame) -> str:
    """A table in Markdown, its index first; what is missing stays blank."""
    frame = table.reset_index().map(lambda v: "" if v is None or v != v else f"{v}")
    header = [str(column) for column in frame.columns]
    lines = [header, ["---"] * len(header), *frame.to_numpy().tolist()]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def use_table_style() -> None:
    """Let a notebook display every data frame as `table_html`."""
    from IPython import get_ipython  # commands that write tables do without

    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.formatters["text/html"].for_type(pd.DataFrame, table_html)


def table_html(table: pd.DataFrame) -> str:
    """A table for the width of a page: means with their ± in one cell, prose to the left.

    Rows may be the columns of a table of this module, turned; what is missing is a dash.
    """
    if any(f"{name} ±" in table.index for name in table.index):
        table = with_intervals(table.T).T
    shown = with_intervals(table).map(_cell_html).rename(index=_cell_html)
    if table.index.nlevels == 1:  # its name stands in the corner, not in a row of its own
        shown = shown.rename_axis(index=None, columns=table.columns.name or table.index.name)
    return shown.to_html(escape=False)


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """The table with each ``±`` column in the cells of the column that it belongs to, as text."""
    joined = table.copy()
    for name in [name for name in table if f"{name} ±" in table]:
        half_widths = joined.pop(f"{name} ±")
        joined[name] = [
            f"{mean:.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{half:.2f}" if half == half else mean
            for mean, half in zip(table[name], half_widths, strict=True)
        ]
    return joined


def _cell_html(value: object) -> str:
    if value is None or value != value:
        return "–"
    if not isinstance(value, str):
        return f"{value:g}" if isinstance(value, float) else str(value)
    left = '<div style="text-align: left">{}</div>' if len(value) > 24 else "{}"
    return left.format(escape(value))


Hits = Mapping[str, Sequence[np.ndarray]]
"""By column, for each seed (n,): whether each test image is right."""


def _columns(found: Iterable[pd.DataFrame]) -> dict[str, list[np.ndarray]]:
    """Of tables of `metrics.hits`, one per seed, the columns of `METRICS`."""
    seeds = list(found)
    return {name: [one[metric].to_numpy() for one in seeds] for name, metric in METRICS.items()}


def _judged(runs: Sequence[Run], *, transform: bool = True) -> Hits:
    return _columns(metrics.hits(run.predictions(), transform=transform) for run in runs)


def _compared(runs: Sequence[Run]) -> dict[str, Hits]:
    """What is right in each row of `comparison_table`, in the columns that the row can have."""
    groups = required_runs(runs, tuple(METHODS.values()))
    cstn = groups["cstn"]
    tables = {name: [run.predictions() for run in groups[e]] for name, e in METHODS.items()}
    tables[FUSED] = [metrics.by_fusion(table) for table in tables["CSTN"]]
    tables[VIEWS] = [run.predictions(views=True) for run in cstn]
    rows: dict[str, Hits] = {}
    for name, some in tables.items():
        fixed = _columns(map(metrics.hits, some))
        rows[name] = fixed | {"MaxBoxAccV2": [metrics.max_box_acc_v2(table) for table in some]}
        if "threshold_boxes" in some[0]:
            at_20 = {f"{c} at 20 %": fixed[c] for c in ("Top-1 Loc", "GT-Known Loc")}
            rows[name] |= _columns(map(hits_on_test, groups[METHODS[name]])) | at_20
    known = {
        TOP_5: rows["CSTN"]["Top-5 box Loc"],
        **control_hits(cstn),
        FIVE_BOXES: [five_box_hits(cstn[0])],
        FIVE_THRESHOLDS: [
            metrics.threshold_hits(run.predictions())[:, tries].any(axis=1)
            for run in groups["cam"]
            for tries in [controls.five_thresholds(run.predictions("val"))]
        ],
    }
    rows[CAM_VIEWS] = _columns(hits_on_test(run, views=True) for run in groups["cam"])
    rows |= {name: {"GT-Known Loc": hits} for name, hits in known.items()}
    return {name: rows[name] for name in COMPARISON_ROWS}


def _row(values: Hits, columns: Sequence[str] = ()) -> dict[str, float]:
    """Cells of the columns, or of all; blank where there are no values."""
    chosen = {name: values.get(name, []) for name in columns or values}
    return {"seeds": len(next(iter(values.values())))} | percentages(chosen)


def percentages(values: Hits) -> dict[str, float]:
    """Means over the seeds in percent, blank without values, and beside them their ±."""
    cells = {}
    for name, right in values.items():
        found = metrics.mean_interval(np.stack(right)) if right else metrics.Interval(*[np.nan] * 3)
        cells[name] = round(100 * found.mean, 2)
        cells[f"{name} ±"] = round(50 * (found.high - found.low), 2)
    return cells


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 1) if values else np.nan


def _printed(runs: Sequence[Run]) -> dict:
    """The paper's numbers about the data set that ours stands for."""
    return paper.printed_about(paper.STANDS_FOR.get(runs[0].experiment.data.name, ""))


def _table(
    rows: Mapping[object, Mapping[str, object]],
    what: str,
    runs: Sequence[Run],
    columns: Sequence[str],
    published: Mapping[object, Mapping[str, object]] | None = None,
) -> pd.DataFrame:
    """Rows by name, beside them columns of the paper's rows: of those of that name, or as given.

    The name of the index tells the data set, in files too.
    """
    printed = _printed(runs) if published is None else published
    beside = [[printed.get(row, {}).get(column) for column in columns] for row in rows]
    table = pd.DataFrame.from_dict(rows, orient="index")
    table[[f"paper: {column}" for column in columns]] = np.array(beside, dtype=float)
    return table.rename_axis(f"{what} on {runs[0].experiment.data.name}")
