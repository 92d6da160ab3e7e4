"""The command `cstn`: everything the notebooks do, without a notebook."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from cstn_lib.data import DATASETS, READERS, open_split
from cstn_lib.data.photos.check import check
from cstn_lib.data.photos.download import ARCHIVES, download
from cstn_lib.evaluation.metrics import choose_threshold, evaluate
from cstn_lib.evaluation.score_maps import CAM_THRESHOLD
from cstn_lib.reproduction import claims
from cstn_lib.reproduction.batch import (
    RESULTS,
    check_parameters,
    chosen_notebooks,
    needed_experiments,
)
from cstn_lib.reproduction.batch import reproduce as reproduce_results
from cstn_lib.reproduction.bench import ratio_tables, run_benchmarks
from cstn_lib.reproduction.experiments import EXPERIMENTS, make_experiment
from cstn_lib.reproduction.figures import FIGURES, save_claims_files, save_figure_files
from cstn_lib.reproduction.jobs import stopped_by_signals
from cstn_lib.reproduction.page import fill_markers, glance, narrow_table, reproduction_page
from cstn_lib.reproduction.plan import make_plan
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.reproduction.tables import TABLES, save_table_files
from cstn_lib.support.atomic import atomic_file
from cstn_lib.support.errors import InputError, first_line, unknown_name
from cstn_lib.support.project import figures_folder, project_folder
from cstn_lib.training.engine import resolve_device

__all__ = ["app", "main"]

app = typer.Typer(
    help="Convolutional STN for weakly supervised object localization.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="The data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help=f"one of {', '.join(EXPERIMENTS)}")]
Dataset = Annotated[str, typer.Option(help=f"one of {', '.join(DATASETS)}")]
ProfileName = Annotated[str, typer.Option("--profile", help="smoke, quick, cpu or paper")]
Seed = Annotated[int, typer.Option(help="of weights, order and flips")]
Precision = Annotated[str, typer.Option(help="float32 or bfloat16, another run")]
Seeds = Annotated[int, typer.Option(min=0, help="how many seeds; 0: as many as the profile has")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda")]
DataRoot = Annotated[str, typer.Option(help="folder or zip of a data set that is read")]
Root = Annotated[Path, typer.Option(help="folder or archive of the data set")]
RunsDir = Annotated[str, typer.Option(help="where runs are kept (default: runs/)")]
FiguresDir = Annotated[str, typer.Option(help="where tables go (default: figures/PROFILE)")]


TERMINAL = 110
"""Characters a line of a printed table; what is wider continues below."""


def main() -> None:
    """Run the command; a user's mistake ends in one line and exit status 2."""
    if int(os.environ.get("RANK", "0")) > 0:  # of several processes the first speaks
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        with stopped_by_signals():
            app()
    except (InputError, OSError) as error:
        print(f"cstn: {first_line(error)}", file=sys.stderr)
        sys.exit(2)


@app.command()
def reproduce(
    profile: ProfileName = "quick",
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(RESULTS)} or a notebook's name; may be repeated"),
    ] = None,
    dataset: Annotated[str, typer.Option(help="instead of the notebooks' own; a,b for two")] = "",
    data_root: DataRoot = "",
    device: Device = "auto",
    seeds: Seeds = 0,
    runs_dir: RunsDir = "",
    figures_dir: FiguresDir = "",
    jobs: Annotated[
        int,
        typer.Option(min=0, help="processes at a time; 0: one a processor, and one on a GPU"),
    ] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would run, and do nothing")
    ] = False,
) -> None:
    """Train what is missing, then run the notebooks, several at a time.

    Prints each table beside the paper's, and where the figures are.
    """
    given = {
        "profile": profile,
        "dataset": dataset,
        "data_root": data_root and str(Path(data_root).expanduser().resolve()),
        "device": device,
        "seeds": seeds,
        "runs_dir": runs_dir and str(Path(runs_dir).expanduser().resolve()),
        "figures_dir": figures_dir and str(Path(figures_dir).expanduser().resolve()),
    }
    parameters = {name: value for name, value in given.items() if value}
    check_parameters(parameters)
    if dry_run:
        print(make_plan(only or [], parameters))
        return
    reproduce_results(only or [], parameters, jobs)
    made = chosen_notebooks(only or [])
    for result in [name for name, notebook in RESULTS.items() if notebook in made]:
        path = _place(result, profile, dataset, figures_dir)
        if result == "claims":
            _print_verdicts(path)
        elif result in TABLES:
            _print_table(path)
        elif FIGURES[result].panels:
            _print_figure(path)


@app.command()
def train(
    experiment: Name,
    dataset: Dataset = "birds-cub",
    profile: ProfileName = "quick",
    seed: Seed = 0,
    precision: Precision = "float32",
    device: Device = "auto",
    data_root: DataRoot = "",
    runs_dir: RunsDir = "",
) -> None:
    """Train one network, or continue where it was interrupted, and write its predictions."""
    store = RunStore(runs_dir, data_root, device)
    chosen = make_experiment(experiment, dataset, profile, seed=seed, precision=precision)
    run = store.run(chosen)
    if experiment != "pretrain":  # whose classes are others than those of val and test
        for split in ("val", "test"):
            run.predictions(split)
    print(run.folder)
    print(run.history.tail(1).round(4).T.to_string(header=False))


@app.command()
def predict(
    experiment: Name,
    dataset: Dataset = "birds-cub",
    profile: ProfileName = "quick",
    split: Annotated[str, typer.Option(help="val or test")] = "test",
    seed: Seed = 0,
    precision: Precision = "float32",
    device: Device = "auto",
    data_root: DataRoot = "",
    runs_dir: RunsDir = "",
) -> None:
    """Write a trained network's predictions table and print its metrics."""
    store = RunStore(runs_dir, data_root, device)
    chosen = make_experiment(experiment, dataset, profile, seed=seed, precision=precision)
    run = _finished(store.open(chosen))
    table = run.predictions(split)
    if "threshold_boxes" in table:  # score maps: the customary threshold, and the one of val
        chosen = choose_threshold(run.predictions("val"))
        judged = {
            f"threshold {100 * at:.0f} %": evaluate(table, threshold=at)
            for at in (CAM_THRESHOLD, chosen)
        }
    else:
        judged = {
            "default box": evaluate(table, transform=False),
            "transformed box": evaluate(table),
        }
    for name, metrics in judged.items():
        values = "  ".join(f"{metric} {100 * value:.2f}" for metric, value in metrics.items())
        print(f"{name:>15}  {values}")
    print(run.predictions_path(split))


@app.command()
def report(
    profile: ProfileName = "quick",
    dataset: Annotated[str, typer.Option(help="instead of the tables' own; a,b for two")] = "",
    seeds: Seeds = 0,
    device: Device = "auto",
    data_root: DataRoot = "",
    runs_dir: RunsDir = "",
    figures_dir: FiguresDir = "",
    page: Annotated[
        Path | None, typer.Option(help="also write the page that tells the reproduction")
    ] = None,
) -> None:
    """Write the tables, figures and verdicts whose runs are finished; nothing is trained.

    Of the complete profile cpu it also writes REPRODUCTION.md, and the README's results.
    """
    store = RunStore(runs_dir, data_root, device)
    given = {"dataset": dataset, "seeds": seeds}
    counted = {name: spec for name, spec in FIGURES.items() if spec.panels}
    written, left_out, finished = [], [], {}
    for name, spec in {**TABLES, **counted}.items():
        if dataset.count(",") >= len(spec.datasets):
            left_out.append(f"{name} is about {_data_sets(len(spec.datasets))}, not {dataset}")
            continue
        runs = [store.open(e) for e in needed_experiments([RESULTS[name]], profile, **given)]
        missing = [run for run in runs if not run.finished]
        finished |= {run.folder: run for run in runs if run.finished}
        if missing:
            names = ", ".join(dict.fromkeys(run.experiment.name for run in missing))
            left_out.append(f"{name} lacks {len(missing)} of {len(runs)} runs ({names})")
            continue
        path = _place(name, profile, dataset, figures_dir)
        if name in TABLES:
            save_table_files(spec.make(runs), path.parent, path.stem)
            _print_table(path)
        else:
            save_figure_files(name, runs, path.parent)
            _print_figure(path)
        written.append(name)
    if not written:
        raise InputError(
            f"{project_folder('runs', runs_dir)}: no table has all of its runs, {left_out[0]}; "
            f"not trained yet: run cstn train or cstn reproduce --profile {profile} first"
        )
    verdicts = claims.judge(store.open, profile, **given)
    judged = [store.open(e) for e in needed_experiments([RESULTS["claims"]], profile, **given)]
    finished |= {run.folder: run for run in judged if run.finished}
    path = _place("claims", profile, dataset, figures_dir)
    if any(verdict.verdict != claims.NOT_TESTED for verdict in verdicts):
        save_claims_files(verdicts, path.parent)
        _print_verdicts(path)
        written.append("claims")
    for line in left_out:
        print(f"not written: {line}")
    readme = project_folder("README.md")
    own = profile == "cpu" and not (dataset or seeds or runs_dir or figures_dir)
    own = own and readme.is_file()  # a package without its repository has no pages to fill
    if page is None and own:
        page = project_folder("REPRODUCTION.md")
    if page is not None:
        text = reproduction_page(page, path.parent, written, list(finished.values()))
        with atomic_file(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(page)
    if own and "table-1" in written:
        fill_markers(readme, "table-1", narrow_table("table-1", path.parent))
    if own and "claims" in written:
        fill_markers(readme, "claims", glance(path))


@app.command()
def pretrain(
    output: Annotated[Path, typer.Option(help="the safetensors file to write")] = Path(
        "small-pretrained.safetensors"
    ),
    device: Device = "auto",
    runs_dir: RunsDir = "",
) -> None:
    """Remake the small backbone's starting weights from the pretraining birds."""
    store = RunStore(runs_dir, device=device)
    run = store.run(make_experiment("pretrain", "birds-cub", "quick"))
    run.save_backbone(output)
    print(output)


@app.command()
def bench(
    device: Device = "auto",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="write all figures to this file")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="of measuring each row")] = 3.0,
) -> None:
    """Time the layer against a convolution and two other ways, and training with and without it."""
    result = run_benchmarks(resolve_device(device), seconds=seconds)
    for table in ratio_tables(result):
        print(f"{table.to_string()}\n")
    print(f"{result['device']}, {result['threads']} threads, torch {result['torch']}")
    if json_file is not None:
        with atomic_file(json_file) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


@data_app.command("make")
def data_make(
    name: Annotated[str, typer.Argument(help="birds-cub or birds-ilsvrc")],
    profile: ProfileName = "quick",
) -> None:
    """Draw an embedded data set under data/."""
    drawn = [dataset for dataset in DATASETS if dataset.startswith("birds-")]
    if name not in drawn:
        raise unknown_name("embedded dataset", name, drawn)
    config = make_experiment("cstn", name, profile).data
    for split in ("train", "val", "test"):
        images = open_split(config, split)
        print(f"{name} {split}: {len(images)} images of {images.num_classes} classes")


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(READERS)}")],
    root: Root,
    deep: Annotated[bool, typer.Option("--deep", help="decode every photo")] = False,
) -> None:
    """Look through a data set: exit status 0 where all of it can be used, 1 where not."""
    if name not in READERS:
        raise unknown_name("data set to check", name, READERS)
    found = check(READERS[name], root.expanduser(), deep=deep)
    print(f"{name} in {root}\n\n{found}")
    if not found.ok:
        raise typer.Exit(1)


@data_app.command("download")
def data_download(
    name: Annotated[str, typer.Argument(help=f"one of {', '.join(ARCHIVES)}")],
    root: Root,
) -> None:
    """Fetch a data set that anyone may fetch, and unpack it; continues where it was broken off."""
    place = download(name, root.expanduser())
    print(f"{place}\ncstn data check {name} --root {place}")


def _finished(run: Run) -> Run:
    if not run.finished:
        raise InputError(f"{run.folder}: {run.title} is not trained yet; run cstn train first")
    return run


def _data_sets(count: int) -> str:
    return "one data set" if count == 1 else f"{count} data sets"


def _place(result: str, profile: str, dataset: str, figures_dir: str) -> Path:
    """The CSV file of a table, a figure or the claims."""
    own = claims.DATASETS if result == "claims" else {**TABLES, **FIGURES}[result].datasets
    folder = figures_folder(profile, dataset, own, figures_dir)
    return folder / f"{result.replace('-', '_')}.csv"


def _print_table(path: Path) -> None:
    """A table of `cstn_lib.reproduction.tables` on end, which fits a terminal: a column a row."""
    table = pd.read_csv(path, index_col=0).astype(object).T
    print(f"\n{table.fillna('').to_string(line_width=TERMINAL)}\n\n{path} and .md\n")


def _print_figure(path: Path) -> None:
    print(f"\n{path.with_suffix('.png')}, .svg and .csv\n")


def _print_verdicts(path: Path) -> None:
    table = pd.read_csv(path, dtype=str)[["claim", "data set", "verdict"]]
    print(f"\n{table.to_string(index=False, justify='left')}\n\n{path} and .md\n")
