"""The page that tells the reproduction: every table, figure and verdict beside the paper's.

It is put together from what ``cstn report`` has written to a folder of figures, and from what the
runs noted of their making, so every number in it is also in a CSV file. The same runs give the same
bytes. Table I and the claims at a glance go into the README, between markers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cstn_lib.config import PAPER_LEVELS
from cstn_lib.data import READERS
from cstn_lib.losses import authors_weight
from cstn_lib.reproduction.figures import FIGURES
from cstn_lib.reproduction.paper import (
    FIGURE_6,
    STANDS_FOR,
    TABLE_1,
    TABLE_1_TEXT,
    TABLE_2,
    TABLE_2_CAPTION,
)
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import markdown_table, runs_of
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError

__all__ = ["fill_markers", "glance", "narrow_table", "reproduction_page"]

TITLES = {
    "table-1": "Table I: what the transform adds",
    "table-2": "Table II: with and without CSTN",
    "table-3": "Table III: λ",
    "table-4": "Table IV: CSTN among other methods",
    "table-5": "Table V: the same where sizes are spread",
    "figure-6": "Figure 6: which level finds objects of which size",
    "figure-8": "Figure 8: objects of every size",
}

SHOWN = {
    "table-1": (
        "Top-1 Loc without transform",
        "Top-1 Loc with transform",
        "GT-Known without transform",
        "GT-Known with transform",
        "centred square",
    ),
    "table-2": ("Top-1 Class", "Top-1 Loc", "GT-Known Loc"),
    "table-3": ("Top-1 Loc", "Top-1 Class", "GT-Known Loc"),
    "table-4": ("Top-1 Loc", "GT-Known Loc", "Top-1 Class", "MaxBoxAccV2"),
    "table-5": ("Top-1 Loc", "GT-Known Loc", "Top-1 Class", "MaxBoxAccV2"),
}
"""Columns of ours; beside each stands the paper's where it has one. The CSV files have more."""


def reproduction_page(
    page: Path, figures: Path, results: Iterable[str], runs: Sequence[Run]
) -> str:
    """The page in Markdown.

    Args:
        page: where it will lie: links lead from there.
        figures: the folder of tables and figures; results on other data sets lie in folders below
            it, named after the data set.
        results: names of `TITLES`, and perhaps ``"claims"``, whose files in `figures` are current.
        runs: what they were made from, finished, each once.
    """
    link, made = os.path.relpath(figures, page.parent).replace(os.sep, "/"), set(results)
    parts = [
        "# Reproduction",
        _opening(runs),
        "## How it was made",
        _making(runs),
        _seconds(runs),
    ]
    for result in TITLES:
        parts += ["## " + TITLES[result]]
        parts += _result(result, figures, link) if result in made else ["Its runs are missing."]
    parts.append("## What holds")
    if "claims" in made:
        parts += [CLAIMS_TEXT, f"![The claims at a glance]({link}/claims.svg)"]
        parts += [_claims(pd.read_csv(figures / "claims.csv", dtype=str))]
        parts.append(
            f"Every rule, and a measured reason for every verdict: [claims.csv]({link}/claims.csv)"
        )
    else:
        parts.append("The runs that the claims need are missing.")
    for name in READERS:
        parts += _photographs(name, figures / name, f"{link}/{name}")
    parts += ["## Where the paper contradicts itself", _contradictions()]
    parts += ["## What the authors' code settles", _settled()]
    parts += ["## Every number again", RECOMPUTE]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def glance(claims: Path) -> str:
    """The claims in few columns, from ``claims.csv``: for the README."""
    table = pd.read_csv(claims, dtype=str)
    return markdown_table(table[["claim", "place", "data set", "verdict"]].set_index("claim"))


def fill_markers(path: Path, name: str, content: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` of a text file.

    Raises:
        InputError: the markers are not there, once and in this order.
    """
    text = path.read_text(encoding="utf-8")
    before, opening, rest = text.partition(f"<!-- {name} -->")
    _, closing, after = rest.partition(f"<!-- /{name} -->")
    if not closing:
        raise InputError(f"{path}: expected the markers <!-- {name} --> and <!-- /{name} -->")
    with atomic_file(path) as temporary:
        temporary.write_text(
            f"{before}{opening}\n{content.strip()}\n{closing}{after}", encoding="utf-8"
        )


def _opening(runs: Sequence[Run]) -> str:
    places = ", ".join(
        f"`{ours}` in the place of {its}"
        for ours, its in STANDS_FOR.items()
        if ours in {run.experiment.data.name for run in runs}
    )
    return (
        f"Tables I to V and Figures 6 and 8 of the paper with our numbers beside its own, made on "
        f"other data: {places}, drawn birds whose boxes follow the real annotations' statistics "
        f"(data/README.md). So numbers need not agree, but effects should: "
        f"claims are judged below, by rules. *Paper* columns quote the paper. Values are "
        f"percentages of the test images; ± is the half width of the 95 % interval of the mean "
        f"over seeds (Student's), which says how much another training would change."
    )


def _making(runs: Sequence[Run]) -> str:
    facts = [run.facts for run in runs]
    experiments = [run.experiment for run in runs]

    def listed(name: str) -> str:
        return ", ".join(dict.fromkeys(str(f.get(name, "")) or "unknown" for f in facts))

    sides = sorted({e.data.image_size for e in experiments})
    rows = {
        "trainings": f"{len(runs)} of {len(runs_of(runs))} experiments on "
        f"{len({e.data.name for e in experiments})} data sets, with seeds "
        f"{', '.join(str(seed) for seed in sorted({e.seed for e in experiments}))}",
        "images": f"{', '.join(f'{side}²' for side in sides)} pixels",
        "backbone": ", ".join(dict.fromkeys(e.model.backbone for e in experiments)),
        "code": f"commit {listed('commit')}",
        "packages": f"Python {listed('python')}, torch {listed('torch')}, "
        f"torchvision {listed('torchvision')}",
        "machine": f"{listed('processor')} ({listed('machine')})",
        "threads of a training": listed("threads"),
        "time": f"{sum(f['training_seconds'] for f in facts) / 3600:.1f} hours of training "
        "altogether",
    }
    return markdown_table(pd.DataFrame({"": rows}).rename_axis(" "))


def _seconds(runs: Sequence[Run]) -> str:
    """Mean seconds of training, one row an experiment."""
    seconds = pd.DataFrame(
        [
            (run.experiment.name, run.experiment.data.name, run.facts["training_seconds"])
            for run in runs
        ],
        columns=["experiment", "data set", "seconds"],
    )
    table = seconds.pivot_table("seconds", "experiment", "data set", sort=False).round(0)
    text = table.map(lambda value: "" if np.isnan(value) else f"{value:.0f}")
    return f"Seconds of training, the mean over seeds:\n\n{markdown_table(text)}"


def _result(result: str, figures: Path, link: str) -> list[str]:
    stem = result.replace("-", "_")
    if result in FIGURES:
        return [
            f"![{TITLES[result]}]({link}/{stem}.svg)",
            f"Its counts: [{stem}.csv]({link}/{stem}.csv)",
        ]
    return [narrow_table(result, figures), f"All columns: [{stem}.csv]({link}/{stem}.csv)"]


def narrow_table(result: str, figures: Path) -> str:
    """A table of ours with the paper's columns beside, as mean ± half interval, from its CSV.

    Args:
        result: one of `SHOWN`.
        figures: the folder of its CSV.
    """
    table = pd.read_csv(figures / f"{result.replace('-', '_')}.csv", index_col=0)
    seeds = sorted(set(table["seeds"]))
    cells: list[pd.Series] = []
    for column in SHOWN[result]:
        ours = table[column].map(_number)
        if f"{column} ±" in table:
            reach = table[f"{column} ±"].map(_number)
            ours = ours + reach.map(lambda text: f" ± {text}" if text else "")
        cells.append(ours.rename(column))
        paper = table.get(f"paper: {column}")
        if paper is not None and paper.notna().any():
            cells.append(paper.map(_number).rename("paper"))
    said = f"{seeds[-1]} seed{'s' if seeds[-1] > 1 else ''}."
    named = table.index.map(lambda name: f"{name:g}" if isinstance(name, float) else name)
    body = pd.concat(cells, axis=1).set_axis(named).rename_axis(table.index.name)
    return f"{markdown_table(body)}\n{said}"


def _number(value: float) -> str:
    return "" if value != value else f"{value:.2f}"


def _claims(table: pd.DataFrame) -> str:
    shown = table[["claim", "place", "data set", "paper", "here", "verdict"]].fillna("")
    shown = shown.map(lambda text: text.replace("; ", "<br>"))
    return markdown_table(shown.set_index("claim"))


def _photographs(name: str, folder: Path, link: str) -> list[str]:
    """Results on a data set that is read, where ``cstn report`` has written some."""
    found = [r for r in TITLES if (folder / f"{r.replace('-', '_')}.csv").is_file()]
    if not found:
        return []
    parts = [f"## Real photographs: `{name}`", f"The same with `--dataset {name}`."]
    for result in found:
        parts += ["### " + TITLES[result], *_result(result, folder, link)]
    return parts


CLAIMS_TEXT = """
Differences in percentage points with 95 % intervals over test images and seeds. A rule for each
claim was fixed before looking; an interval that straddles zero proves neither side.
"""


def _contradictions() -> str:
    without, with_ = (row["Top-1 Loc"] for row in TABLE_2.values())
    both = FIGURE_6["levels 4 and 5"]
    gains = {n: row["with transform"] - row["without transform"] for n, row in TABLE_1.items()}
    listed = " and ".join(f"{gain:.2f} on {name}" for name, gain in gains.items())
    low, high = TABLE_1_TEXT
    return f"""
* Table II's caption has a gain of {TABLE_2_CAPTION} points, its rows one of
  {with_ - without:.2f}. The caption's is {both} less {without}, and {both} is the model with both
  levels of Figure 6: the paper holds two versions of one model, and differences below a point mean
  nothing in it.
* Figure 8's caption says that the sizes of ImageNet's objects are not uniform, the text that they
  nearly are. Both can be true: one counts boxes, the other images (notebook 13 draws both from the
  published annotations).
* "Around {low}-{high}%" is what the text lets the transform add; Table I has {listed}.
"""


def _settled() -> str:
    fine, coarse = PAPER_LEVELS
    return f"""
The paper leaves open what its authors' public code decides:

* Windows have {fine.kernel_size} cells at level {fine.name} and {coarse.kernel_size} at level
  {coarse.name}: both default boxes are about two thirds of the image, so neither serves small
  objects.
* Penalties are summed over the batch, but the classification loss is its mean. So per example λ and
  α weigh {authors_weight(1):g} times as much as printed. Our Table III has λ as in Eq. 4.
* The last column of θ is in units of half a window. Locations are those whose whole window lies
  inside the map. A box is the hull of its sampled points, clipped to the image.
* L_scale takes the predicted class there, the true class in the paper and here.
* The optimiser there never receives the pyramid's layers nor the classifier, and x and y are
  exchanged between θ and the map. Both look like slips and are not repeated here.
"""


RECOMPUTE = """
```
make reproduce PROFILE=cpu    # train what is missing, run the notebooks
cstn report --profile cpu     # tables, figures, verdicts and this page, from predictions alone
```

One result by itself: `cstn reproduce --profile cpu --only table-3`. On photographs, before
`cstn report`:

```
cstn reproduce --profile cpu --seeds 1 --dataset tiny-imagenet --data-root PATH \\
    --only table-1 --only table-2 --only table-3 --only table-5 --only figure-8
```

Each run keeps its predictions, one row a test image, in
`runs/DATA SET/RUN/predictions-test-*.parquet`; `cstn predict` prints their metrics. A training
repeats to the bit on the same machine with the same packages and number of threads; elsewhere its
numbers differ somewhat.
"""
