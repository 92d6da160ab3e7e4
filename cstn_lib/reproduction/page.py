"""The page that tells the reproduction: every table, figure and verdict beside the paper's.

It is put together from what ``cstn report`` has written to a folder of figures, and from what the
runs noted of their making, so every number in it is also in a CSV file. The same runs give the same
bytes. Table I and the claims at a glance go into the README, between markers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cstn_lib.config import PAPER_LEVELS
from cstn_lib.data import READERS
from cstn_lib.losses import authors_weight
from cstn_lib.reproduction import claims
from cstn_lib.reproduction.figures import save_claims_files, save_figure_files
from cstn_lib.reproduction.paper import (
    FIGURE_6,
    STANDS_FOR,
    TABLE_1,
    TABLE_1_TEXT,
    TABLE_2,
    TABLE_2_CAPTION,
)
from cstn_lib.reproduction.results import RESULTS, experiments_of, result_file
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.reproduction.tables import (
    markdown_table,
    runs_of,
    save_table_files,
    with_intervals,
)
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError
from cstn_lib.support.project import project_folder

__all__ = ["fill_markers", "narrow_table", "publish", "reproduction_page", "verdict_table"]


def reproduction_page(
    page: Path, figures: Path, results: Iterable[str], runs: Sequence[Run]
) -> str:
    """The page in Markdown.

    Args:
        page: where it will lie: links lead from there.
        figures: the folder of tables and figures; results on other data sets lie in folders below
            it, named after the data set.
        results: names of `RESULTS` whose files in `figures` are current.
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
    for result, title in _titles().items():
        parts += ["## " + title]
        parts += _result(result, figures, link) if result in made else ["Its runs are missing."]
    parts.append("## What holds")
    if "claims" in made:
        parts += [CLAIMS_TEXT, f"![The verdicts on the claims]({link}/claims.svg)"]
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


def publish(
    store: RunStore,
    profile: str,
    *,
    dataset: str,
    seeds: int,
    figures_dir: str,
    page: Path | None,
    show: Callable[[str], None],
) -> None:
    """Write every table, figure and verdict whose runs are finished, and tell what is left out.

    Of the complete profile ``cpu`` REPRODUCTION.md and the README's results are written, too.

    Args:
        profile, dataset, seeds: see `cstn_lib.reproduction.results.experiments_of`.
        figures_dir: instead of the profile's own folder of figures.
        page: where to write the page; None: only where it is the project's own.
        show: called with the name of each result once its files are written.

    Raises:
        InputError: no result has all of its runs.
    """
    written, left_out, finished = [], [], {}
    for name, result in RESULTS.items():
        if not result.title:
            continue
        if dataset.count(",") >= len(result.datasets):
            several = "one data set" if len(result.datasets) == 1 else "two data sets"
            left_out.append(f"{name} is about {several}, not {dataset}")
            continue
        needed = experiments_of(name, profile, dataset=dataset, seeds=seeds)
        runs = [store.open(experiment) for experiment in needed]
        missing = [run for run in runs if not run.finished]
        finished |= {run.folder: run for run in runs if run.finished}
        if missing:
            names = ", ".join(dict.fromkeys(run.experiment.name for run in missing))
            left_out.append(f"{name} lacks {len(missing)} of {len(runs)} runs ({names})")
            continue
        path = result_file(name, profile, dataset, figures_dir)
        if result.table:
            save_table_files(result.table(runs), path.parent, path.stem)
        else:
            save_figure_files(name, runs, path.parent)
        show(name)
        written.append(name)
    if not written:
        raise InputError(
            f"{project_folder('runs', store.folder)}: no table has all of its runs, {left_out[0]}; "
            f"not trained yet: run cstn train or cstn reproduce --profile {profile} first"
        )
    path = result_file("claims", profile, dataset, figures_dir)
    verdicts = claims.judge(store.open, profile, dataset=dataset, seeds=seeds)
    needed = experiments_of("claims", profile, dataset=dataset, seeds=seeds)
    finished |= {run.folder: run for run in map(store.open, needed) if run.finished}
    if any(verdict.verdict != claims.NOT_TESTED for verdict in verdicts):
        save_claims_files(verdicts, path.parent)
        show("claims")
        written.append("claims")
    for line in left_out:
        print(f"not written: {line}")
    readme = project_folder("README.md")
    # a package without its repository has no pages to fill
    own = profile == "cpu" and not (dataset or seeds or store.folder or figures_dir)
    own = own and readme.is_file()
    page = page or (project_folder("REPRODUCTION.md") if own else None)
    if page is not None:
        with atomic_file(page) as temporary:
            text = reproduction_page(page, path.parent, written, list(finished.values()))
            temporary.write_text(text, encoding="utf-8")
        print(page)
    if own and "table-1" in written:
        fill_markers(readme, "table-1", narrow_table("table-1", path.parent))
    if own and "claims" in written:
        fill_markers(readme, "claims", verdict_table(path))


def verdict_table(path: Path) -> str:
    """The claims in few columns, from ``claims.csv``: for the README."""
    table = pd.read_csv(path, dtype=str)
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


def _titles() -> dict[str, str]:
    return {name: result.title for name, result in RESULTS.items() if result.title}


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
    if RESULTS[result].panels:
        return [
            f"![{RESULTS[result].title}]({link}/{stem}.svg)",
            f"Its counts: [{stem}.csv]({link}/{stem}.csv)",
        ]
    return [narrow_table(result, figures), f"All columns: [{stem}.csv]({link}/{stem}.csv)"]


def narrow_table(result: str, figures: Path) -> str:
    """A table of ours with the paper's columns beside, as mean ± half interval, from its CSV.

    Args:
        result: the name of a table in `RESULTS`.
        figures: the folder of its CSV.
    """
    table = with_intervals(pd.read_csv(figures / f"{result.replace('-', '_')}.csv", index_col=0))
    seeds = sorted(set(table["seeds"]))
    cells: list[pd.Series] = []
    for column in RESULTS[result].columns:
        cells.append(table[column].map(_number))
        paper = table.get(f"paper: {column}")
        if paper is not None and paper.notna().any():
            cells.append(paper.map(_number).rename("paper"))
    said = f"{seeds[-1]} seed{'s' if seeds[-1] > 1 else ''}."
    named = table.index.map(lambda name: f"{name:g}" if isinstance(name, float) else name)
    body = pd.concat(cells, axis=1).set_axis(named).rename_axis(table.index.name)
    return f"{markdown_table(body)}\n{said}"


def _number(value: float | str) -> str:
    if isinstance(value, str):  # with its interval
        return value.replace("\N{NO-BREAK SPACE}", " ")
    return "" if value != value else f"{value:.2f}"


def _claims(table: pd.DataFrame) -> str:
    shown = table[["claim", "place", "data set", "paper", "here", "verdict"]].fillna("")
    shown = shown.map(lambda text: text.replace("; ", "<br>"))
    return markdown_table(shown.set_index("claim"))


def _photographs(name: str, folder: Path, link: str) -> list[str]:
    """Results on a data set that is read, where ``cstn report`` has written some."""
    found = [r for r in _titles() if (folder / f"{r.replace('-', '_')}.csv").is_file()]
    if not found:
        return []
    parts = [f"## Real photographs: `{name}`", f"The same with `--dataset {name}`."]
    for result in found:
        parts += ["### " + RESULTS[result].title, *_result(result, folder, link)]
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
* The optimiser there never receives the pyramid's layers nor the classifier: it looks like a slip,
  and is not repeated here.
* Also different here: the K×K kernel is decayed (there the whole layer is exempt); the frozen
  stages' batch norm is in evaluation mode (there in training mode); level 5 is smoothed by a 3×3
  convolution, too; a level alone keeps the whole pyramid (there a bare stage); the top-down path is
  upsampled to the nearest cell, not bilinearly; the localization networks begin with a 3×3
  convolution (there K×K).
* Boxes are compared without pixels: there IoU counts both ends (+1), the ground truth is rounded
  and a box ends at pixel 319 (0.2 to 0.6 points). The class is the largest p(c), with the best box
  under it; there, and in the paper, it is that of the largest p(c, l, s).
* There the epoch that is best on *test* is kept, ImageNet's boxes are counted by the first of an
  image, and the second inner edge of Figure 6 is 23137 px² where equal widths give 25137. Here the
  last epoch is kept, and edges are equal.
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
