"""What ``cstn report`` writes: results as files, and the generated parts of the project's pages.

REPRODUCTION.md and the README are written by hand; only what stands between the markers
``<!-- name -->`` and ``<!-- /name -->`` is put in here. It is made from the files of the results
and from what the runs noted of their making, so every number is also in a CSV file, and the same
runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from cstn_lib.data import READERS
from cstn_lib.reproduction import claims
from cstn_lib.reproduction.results import RESULTS, experiments_of, result_file
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.reproduction.tables import (
    FIVE_BOXES,
    SQUARE,
    markdown_table,
    runs_of,
    save_table_files,
    with_intervals,
)
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError
from cstn_lib.support.project import project_folder

HEADLINES = (
    "transform",
    "cstn-localizes",
    "lambda-zero",
    "levels-specialise",
    "ahead-of-cams",
    "behind-adl",
    "behind-cams",
)
"""The claims whose verdicts the README tells."""

PUBLISHED = {name: result for name, result in RESULTS.items() if result.title}
"""The tables and figures."""


def publish(
    store: RunStore,
    profile: str,
    *,
    dataset: str,
    seeds: int,
    figures_dir: str,
    show: Callable[[str], None],
) -> None:
    """Write every table, figure and verdict whose runs are finished, and tell what is left out.

    Where nothing is left out of the profile ``cpu``, `fill_pages` follows.

    Args:
        profile, dataset, seeds: see `cstn_lib.reproduction.results.experiments_of`.
        figures_dir: instead of the profile's own folder of figures.
        show: called with the name of each result once its files are written.

    Raises:
        InputError: no result has all of its runs.
    """
    from cstn_lib.reproduction import charts  # slow to import, and `fill_pages` draws nothing

    left_out, finished = [], {}
    for name, result in PUBLISHED.items():
        if dataset.count(",") >= len(result.datasets):
            several = "one data set" if len(result.datasets) == 1 else "two data sets"
            left_out.append(f"{name} is about {several}, not {dataset}")
            continue
        needed = experiments_of(name, profile, dataset=dataset, seeds=seeds)
        runs = [store.open(experiment) for experiment in needed]
        missing = [run.experiment.name for run in runs if not run.finished]
        if missing:
            names = ", ".join(dict.fromkeys(missing))
            left_out.append(f"{name} lacks {len(missing)} of {len(runs)} runs ({names})")
            continue
        finished |= {run.folder: run for run in runs}
        path = result_file(name, profile, dataset, figures_dir)
        if result.table:
            save_table_files(result.table(runs), path.parent, path.stem)
        else:
            charts.save_figure_files(name, runs, path.parent)
        show(name)
    if not finished:
        raise InputError(
            f"{project_folder('runs', store.folder)}: no table has all of its runs, {left_out[0]}; "
            f"not trained yet: run cstn train or cstn reproduce --profile {profile} first"
        )
    verdicts = claims.judge(store.open, profile, dataset=dataset, seeds=seeds)
    figures = result_file("claims", profile, dataset, figures_dir).parent
    if any(verdict.verdict != claims.NOT_TESTED for verdict in verdicts):
        charts.save_claims_files(verdicts, figures)
        show("claims")
    for line in left_out:
        print(f"not written: {line}")
    project = project_folder("")
    own = profile == "cpu" and not (dataset or seeds or store.folder or figures_dir)
    # a package without its repository has no pages to fill
    if own and not left_out and (project / "REPRODUCTION.md").is_file():
        needed = experiments_of("claims", profile)
        finished |= {run.folder: run for run in map(store.open, needed) if run.finished}
        fill_pages(project, figures, list(finished.values()))


def fill_pages(project: Path, figures: Path, runs: Sequence[Run]) -> None:
    """Fill REPRODUCTION.md and the README with what the files of the results say.

    Args:
        project: folder of both pages.
        figures: the folder of tables and figures, below it; results on data sets that are read lie
            in folders below `figures`, named after the data set.
        runs: what they were made from, finished, each once.
    """
    link = figures.relative_to(project).as_posix()
    verdicts = pd.read_csv(figures / "claims.csv", dtype=str)
    shown = _in_lines(verdicts, "claim", "place", "data set", "paper", "here", "verdict")
    shown["claim"] += "<br>*" + verdicts["condition"] + "*"
    tables = {n: narrow_table(n, figures) for n, result in PUBLISHED.items() if result.table}
    photographs = [_photographs(name, figures / name, f"{link}/{name}") for name in READERS]
    parts = {
        "made": _how_it_was_made(runs),
        **tables,
        "claims": markdown_table(shown.set_index("claim")),
        "photographs": "\n\n".join(filter(None, photographs)),
    }
    fill_markers(project / "REPRODUCTION.md", parts)
    told = verdicts.drop_duplicates("id").set_index("id").loc[list(HEADLINES)]
    told = told[["claim", "place", "verdict", "condition"]].set_index("claim")
    counted = ", ".join(f"{v}: {n}" for v, n in verdicts["verdict"].value_counts().items())
    above = f"Of {len(verdicts)} verdicts: {counted}. Some of them:"
    readme = {"result": result_sentence(figures), "claims": f"{above}\n\n{markdown_table(told)}"}
    fill_markers(project / "README.md", readme)


def result_sentence(figures: Path) -> str:
    """The result in two sentences, from Tables I, II and IV: for the README."""
    ours = pd.read_csv(figures / "table_1.csv", index_col=0).iloc[0]
    others = pd.read_csv(figures / "table_4.csv", index_col=0)["GT-Known Loc"]
    kinds = ("with transform", "with transform ±", "without transform")
    moved, reach, fixed = (ours[f"GT-Known {kind}"] for kind in kinds)
    objective = pd.read_csv(figures / "table_2.csv", index_col=0).filter(like="Eq. 4", axis=0)
    found = [
        f"{'plain convolutions' if name.startswith('Without') else 'CSTN'} "
        f"{row['GT-Known Loc']:.1f} ± {row['GT-Known Loc ±']:.1f} %"
        for name, row in objective.iterrows()
    ]
    alone = f" By the paper's objective alone (Eq. 4): {', '.join(found)}." if found else ""
    return (
        "On drawn birds whose boxes are like CUB's, CSTN, told the class, finds "
        f"{moved:.1f} ± {reach:.1f} % of the test images' objects ({ours['seeds']:.0f} seeds); its "
        f"windows without the transform find {fixed:.1f} %, the mean box of its locations "
        f"{ours['mean box']:.1f} %, CAM {others['CAM']:.1f} %, plain convolutions "
        f"{others['plain convolution']:.1f} %, a square in the middle of every image "
        f"{ours['centred square']:.1f} %.{alone}"
    )


def fill_markers(path: Path, parts: Mapping[str, str]) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` of a text file.

    Args:
        path: the file; written once, with all of its parts.
        parts: the new content, by the name of its markers.

    Raises:
        InputError: the markers are not there, in this order.
    """
    text = path.read_text(encoding="utf-8")
    for name, content in parts.items():
        before, opening, rest = text.partition(f"<!-- {name} -->")
        _, closing, after = rest.partition(f"<!-- /{name} -->")
        if not closing:
            raise InputError(f"{path}: expected the markers <!-- {name} --> and <!-- /{name} -->")
        text = f"{before}{opening}\n{content.strip()}\n{closing}{after}"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def narrow_table(result: str, figures: Path) -> str:
    """A table of ours with the paper's columns beside, as mean ± half interval, from its CSV.

    Args:
        result: the name of a table in `RESULTS`.
        figures: the folder of its CSV.
    """
    table = with_intervals(pd.read_csv(figures / f"{result.replace('-', '_')}.csv", index_col=0))
    columns: list[pd.Series] = []
    for column in RESULTS[result].columns:
        columns.append(table[column].map(_number))
        paper = table.get(f"paper: {column}")
        if paper is not None and paper.notna().any():
            columns.append(paper.map(_number).rename("paper"))
    names = table.index.map(lambda name: f"{name:g}" if isinstance(name, float) else name)
    body = pd.concat(columns, axis=1).set_axis(names).rename_axis(table.index.name)
    most = max(table["seeds"])
    told = f"{most} seed{'s' if most > 1 else ''}"
    trained = ~body.index.isin([SQUARE, FIVE_BOXES])  # those need no network
    for seeds, rows in body[trained].groupby(table["seeds"].to_numpy()[trained]):
        if seeds < most:
            told += f"; {seeds} of {', '.join(rows.index)}"
    return f"{markdown_table(body)}\n{told}."


def _number(value: float | str) -> str:
    if isinstance(value, str):  # with its interval
        return value.replace("\N{NO-BREAK SPACE}", " ")
    return "" if value != value else f"{value:.2f}"


def _how_it_was_made(runs: Sequence[Run]) -> str:
    facts = [run.facts for run in runs]
    experiments = [run.experiment for run in runs]

    def listed(values: Sequence[object]) -> str:
        return ", ".join(dict.fromkeys(str(value) or "unknown" for value in values))

    def noted(name: str) -> str:
        return listed([fact.get(name, "") for fact in facts])

    hours = sum(fact["training_seconds"] for fact in facts) / 3600
    rows = {
        "trainings": f"{len(runs)} of {len(runs_of(runs))} experiments on "
        f"{len({e.data.name for e in experiments})} data sets, with seeds "
        f"{listed(sorted(e.seed for e in experiments))}",
        "images": f"{listed([f'{e.data.image_size}²' for e in experiments])} pixels",
        "backbone": listed([e.model.backbone for e in experiments]),
        "precision": listed([e.training.precision for e in experiments]),
        "code": f"commit {noted('commit')}",
        "packages": f"Python {noted('python')}, torch {noted('torch')}, "
        f"torchvision {noted('torchvision')}",
        "processor": _by_processor(runs),
        "threads per training": noted("threads"),
        "time": f"{hours:.1f} hours of training altogether",
    }
    return markdown_table(pd.DataFrame({"": rows}).rename_axis(" "))


def _by_processor(runs: Sequence[Run]) -> str:
    """Each processor with the experiments that it trained, but for those of the busiest."""
    names = [(run.facts.get("processor", "unknown"), run.experiment.name) for run in runs]
    groups = pd.DataFrame(names, columns=["processor", "name"]).groupby("processor")["name"]
    order = groups.size().sort_values(ascending=False).index
    told = [f"{order[0]}: {groups.size()[order[0]]} trainings"]
    for other in order[1:]:
        trained = ", ".join(groups.get_group(other).unique())
        told.append(f"{other}: {groups.size()[other]} trainings ({trained})")
    return "; ".join(told)


def _in_lines(verdicts: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Columns of ``claims.csv``, each of several numbers on a line of its own."""
    return verdicts[list(columns)].fillna("").map(lambda text: text.replace("; ", "<br>"))


def _photographs(dataset: str, folder: Path, link: str) -> str:
    """Results on a data set that is read, where ``cstn report`` has written some; else ``""``."""
    parts = []
    for name, result in PUBLISHED.items():
        stem = name.replace("-", "_")
        if (folder / f"{stem}.csv").is_file():
            picture = f"![{result.title}]({link}/{stem}.svg)"
            shown = narrow_table(name, folder) if result.table else picture
            kind = "All columns" if result.table else "Its counts"
            parts += [f"#### {result.title}", shown, f"{kind}: [{stem}.csv]({link}/{stem}.csv)"]
    if (folder / "claims.csv").is_file():
        claimed = pd.read_csv(folder / "claims.csv", dtype=str)
        tested = claimed[claimed["verdict"] != claims.NOT_TESTED]
        shown = _in_lines(tested, "claim", "paper", "here", "verdict").set_index("claim")
        parts += ["#### What holds", markdown_table(shown)]
        parts += [f"All columns: [claims.csv]({link}/claims.csv)"]
    return "\n\n".join([f"### `{dataset}`", *parts]) if parts else ""
