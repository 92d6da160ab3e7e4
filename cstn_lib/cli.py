"""The command `cstn`: everything the notebooks do, without a notebook."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
import typer.core

from cstn_lib.support.errors import InputError, first_line, unknown_name
from cstn_lib.support.project import user_path

# Each command imports what it needs: ``cstn --help`` should not wait for torch.


class _Commands(typer.core.TyperGroup):
    """Ctrl-C ends any command in one line and with exit status 130."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # typer would end without a word, or with another status
            said = str(stop) or "stopped; what is finished is kept, start again to go on"
            print(f"cstn: {said}", file=sys.stderr)
            raise SystemExit(130) from stop


app = typer.Typer(
    cls=_Commands,
    help="Convolutional STN for weakly supervised object localization.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="The data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Name = Annotated[
    str,
    typer.Argument(
        metavar="EXPERIMENT", help="cstn, plain, cam ... or another; an unknown one lists all"
    ),
]
Dataset = Annotated[str, typer.Option(help="birds-cub, cub, folder ...; an unknown one lists all")]
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
"""Characters per line of a printed table; what is wider continues below."""


def main() -> None:
    """Run the command; a user's mistake ends in one line and exit status 2."""
    sys.stdout.reconfigure(errors="backslashreplace")  # names that a console cannot show
    from cstn_lib.reproduction.jobs import stopped_by_signals

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
        typer.Option(help="table-1 ... table-5, figure-6, figure-8, claims or a notebook's name"),
    ] = None,
    dataset: Annotated[str, typer.Option(help="instead of the notebooks' own; a,b for two")] = "",
    data_root: DataRoot = "",
    device: Device = "auto",
    seeds: Seeds = 0,
    runs_dir: RunsDir = "",
    figures_dir: FiguresDir = "",
    jobs: Annotated[
        int,
        typer.Option(min=0, help="processes at a time; 0: one per processor, or one per GPU"),
    ] = 0,
) -> None:
    """Train what is missing and run the notebooks, several processes at a time.

    Prints each table beside the paper's as soon as it is there, and where the figures are.
    """
    from cstn_lib.reproduction import batch

    given = {"profile": profile, "dataset": dataset, "device": device, "seeds": seeds}
    folders = {"data_root": data_root, "runs_dir": runs_dir, "figures_dir": figures_dir}
    given |= {name: _absolute(folder) for name, folder in folders.items()}
    parameters = {name: value for name, value in given.items() if value}
    show = partial(_show, profile=profile, dataset=dataset, figures_dir=figures_dir)
    batch.reproduce(only or [], parameters, jobs, show)


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
    from cstn_lib.reproduction.experiments import make_experiment
    from cstn_lib.reproduction.runs import RunStore

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
    """Write a network's predictions table, print its metrics and what its votes mean."""
    from cstn_lib.evaluation.indicators import indicators
    from cstn_lib.evaluation.metrics import choose_threshold, evaluate
    from cstn_lib.evaluation.score_maps import CAM_THRESHOLD
    from cstn_lib.reproduction.experiments import make_experiment
    from cstn_lib.reproduction.runs import RunStore

    chosen = make_experiment(experiment, dataset, profile, seed=seed, precision=precision)
    run = RunStore(runs_dir, data_root, device).open(chosen)
    if not run.finished:
        raise InputError(f"{run.folder}: {run.title} is not trained yet; run cstn train first")
    table = run.predictions(split)
    if "threshold_boxes" in table:  # score maps: the customary threshold, and the one of val
        thresholds = (CAM_THRESHOLD, choose_threshold(run.predictions("val")))
        judged = {f"threshold {100 * at:.0f} %": {"threshold": at} for at in thresholds}
    else:
        judged = {"default box": {"transform": False}, "transformed box": {}}
    for name, options in judged.items():
        metrics = evaluate(table, **options).items()
        values = "  ".join(f"{metric} {100 * value:.2f}" for metric, value in metrics)
        print(f"{name:>15}  {values}")
    if "true_score" in table:
        for name, value in indicators(table).items():
            print(f"{name:>22}  {value:.2f}")
    print(run.predictions_path(split))


@app.command()
def search(
    method: Annotated[str, typer.Argument(help="cstn, plain, cam ...; an unknown one lists all")],
    dataset: Dataset = "birds-cub",
    profile: ProfileName = "cpu",
    device: Device = "auto",
    data_root: DataRoot = "",
    runs_dir: RunsDir = "",
) -> None:
    """Look for a method's settings on val, with as many trials for each, and write the log."""
    from cstn_lib.reproduction.runs import RunStore
    from cstn_lib.reproduction.search import log_path, search

    log = log_path(dataset, method)
    store = RunStore(runs_dir, data_root, device)
    print(search(method, dataset, profile, store, log).to_string(index=False))
    print(log)


@app.command()
def report(
    profile: ProfileName = "quick",
    dataset: Annotated[str, typer.Option(help="instead of the tables' own; a,b for two")] = "",
    seeds: Seeds = 0,
    device: Device = "auto",
    data_root: DataRoot = "",
    runs_dir: RunsDir = "",
    figures_dir: FiguresDir = "",
) -> None:
    """Write the tables, figures and verdicts whose runs are finished; nothing is trained.

    Of the complete profile cpu it also fills in the results in REPRODUCTION.md and the README.
    """
    from cstn_lib.reproduction.page import publish
    from cstn_lib.reproduction.runs import RunStore

    publish(
        RunStore(runs_dir, data_root, device),
        profile,
        dataset=dataset,
        seeds=seeds,
        figures_dir=figures_dir,
        show=partial(_show, profile=profile, dataset=dataset, figures_dir=figures_dir),
    )


@app.command()
def pretrain(
    output: Annotated[Path, typer.Option(help="the safetensors file to write")] = Path(
        "small-pretrained.safetensors"
    ),
    device: Device = "auto",
    runs_dir: RunsDir = "",
) -> None:
    """Remake the small backbone's starting weights from the pretraining birds."""
    from cstn_lib.reproduction.experiments import make_experiment
    from cstn_lib.reproduction.runs import RunStore

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
    import json

    from cstn_lib.reproduction.bench import ratio_tables, run_benchmarks
    from cstn_lib.support.atomic import atomic_file
    from cstn_lib.training.engine import resolve_device

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
    from cstn_lib.data import DATASETS, open_split
    from cstn_lib.reproduction.experiments import make_experiment

    drawn = [dataset for dataset in DATASETS if dataset.startswith("birds-")]
    if name not in drawn:
        raise unknown_name("embedded dataset", name, drawn)
    config = make_experiment("cstn", name, profile).data
    for split in ("train", "val", "test"):
        images = open_split(config, split)
        print(f"{name} {split}: {len(images)} images of {images.num_classes} classes")


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="cub, ilsvrc, folder ...; an unknown one lists all")],
    root: Root,
    deep: Annotated[bool, typer.Option("--deep", help="decode every photo")] = False,
) -> None:
    """Look through a data set: exit status 0 where all of it can be used, 1 where not."""
    from cstn_lib.data import READERS
    from cstn_lib.data.photos.check import check

    if name not in READERS:
        raise unknown_name("data set to check", name, READERS)
    found = check(READERS[name], user_path(root), deep=deep)
    print(f"{name} in {root}\n\n{found}")
    if not found.ok:
        raise typer.Exit(1)


@data_app.command("download")
def data_download(
    name: Annotated[str, typer.Argument(help="cub ...; an unknown one lists all")],
    root: Root,
) -> None:
    """Fetch a data set that anyone may fetch, and unpack it; continues where it was broken off."""
    from cstn_lib.data.photos.download import download

    place = download(name, user_path(root))
    print(f"{place}\ncstn data check {name} --root {place}")


def _absolute(given: str) -> str:
    path = user_path(given)
    return str(path.resolve()) if path else ""


def _show(result: str, profile: str, dataset: str, figures_dir: str) -> None:
    """Print a result from its files, or where they are."""
    import pandas as pd

    from cstn_lib.reproduction.results import RESULTS, result_file

    path = result_file(result, profile, dataset, figures_dir)
    if result == "claims":
        columns = ["claim", "data set", "verdict"]
        verdicts = pd.read_csv(path, dtype=str)[columns].to_string(index=False, justify="left")
        print(f"\n{verdicts}\n\n{path} and .md\n")
    elif RESULTS[result].table:  # on end, which fits a terminal: one row per column
        table = pd.read_csv(path, index_col=0).astype(object).T.fillna("")
        print(f"\n{table.to_string(line_width=TERMINAL)}\n\n{path} and .md\n")
    elif RESULTS[result].title:  # a figure
        print(f"\n{path.with_suffix('.png')}, .svg and .csv\n")
