"""Everything in batch: the missing trainings side by side, then the notebooks side by side.

A notebook trains what it misses, one network after the other. `reproduce` first asks what the
chosen notebooks need, trains that in as many processes as the machine has processors, and leaves
only reading to the notebooks. Each is executed by papermill into ``runs/notebooks/<profile>/``; the
numbers are the ones that ``papermill notebooks/NAME.ipynb out.ipynb -p profile quick`` gives,
because it is that call.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from cstn_lib.data import DATASETS
from cstn_lib.data.photos.decoding import processors
from cstn_lib.reproduction.claims import CLAIMS, claim_experiments
from cstn_lib.reproduction.experiments import (
    Experiment,
    make_experiment,
    profile_named,
    seeded_experiments,
)
from cstn_lib.reproduction.figures import FIGURES, figure_experiments
from cstn_lib.reproduction.jobs import Job, last_line, run_jobs
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.reproduction.tables import TABLES, table_experiments
from cstn_lib.support.errors import InputError, unknown_name
from cstn_lib.support.project import project_folder
from cstn_lib.training.engine import resolve_device

__all__ = [
    "NOTEBOOKS",
    "RESULTS",
    "asked_for",
    "check_parameters",
    "chosen_notebooks",
    "needed_experiments",
    "reproduce",
    "run_notebooks",
]

NOTEBOOKS = (
    "00_start_here",
    "01_joint_distribution",
    "02_multiscale_search",
    "03_convolutional_stn",
    "04_regularization",
    "05_training",
    "06_baselines",
    "07_table_1",
    "08_table_2",
    "09_table_3",
    "10_table_4",
    "11_table_5",
    "12_figure_6",
    "13_figure_8",
    "14_qualitative_figures",
    "15_claims",
)
RESULTS = {
    "table-1": "07_table_1",
    "table-2": "08_table_2",
    "table-3": "09_table_3",
    "table-4": "10_table_4",
    "table-5": "11_table_5",
    "figure-6": "12_figure_6",
    "figure-8": "13_figure_8",
    "figures-2-5-7-9": "14_qualitative_figures",
    "claims": "15_claims",
}
"""What ``--only`` may name beside a notebook, and the notebook that makes it."""

LESSONS = {
    **dict.fromkeys(NOTEBOOKS[:6], ("cstn",)),
    "06_baselines": ("cam", "has", "acol", "spg", "adl", "plain", "deform", "stn"),
}
"""The notebooks that teach, and what they train: one seed, on one data set."""
LESSON_DATA = "birds-cub"

PHOTOS = "tiny-imagenet"
"""What notebook 05 trains on besides, with every seed, where it is given a `data_root`."""


START_SECONDS = 8
"""Of any process, until its packages are imported."""


def reproduce(only: Sequence[str], parameters: dict[str, object], jobs: int = 0) -> list[Path]:
    """Train what the notebooks need and execute them, several at a time.

    Args:
        only: names from `NOTEBOOKS` or `RESULTS`; empty means all.
        parameters: of the notebooks, by name; ``profile`` must be among them, and the rest only
            where they differ from the notebooks' own defaults.
        jobs: how many processes at a time; 0: as many as there are processors, and one on a GPU.

    Returns:
        the executed notebooks, in reading order.

    Raises:
        InputError: a name is unknown, or a training or a notebook met an error.
    """
    names = chosen_notebooks(only)
    _prepare_papermill()
    needed, store = asked_for(names, parameters)
    at_once = jobs or (processors() if resolve_device(store.device) == "cpu" else 1)
    runs = [store.open(experiment) for experiment in needed]
    for run in runs:  # here, once: processes side by side would each draw or decode them
        run.split("val"), run.split("test")
    unread = [run for run in runs if not (run.finished and run.predicted)]
    notebooks = [_notebook_job(name, parameters) for name in names]
    trainings = [_training_job(run, str(parameters["profile"])) for run in unread]
    run_jobs([trainings, notebooks], at_once)
    return [_executed(name, parameters) for name in names]


def run_notebooks(only: Sequence[str], parameters: dict[str, object]) -> list[Path]:
    """Execute notebooks in reading order, one by one; each trains what it misses.

    Args, returns and raises: see `reproduce`.
    """
    names = chosen_notebooks(only)
    _prepare_papermill()
    run_jobs([[_notebook_job(name, parameters)] for name in names], 1)
    return [_executed(name, parameters) for name in names]


def asked_for(
    notebooks: Sequence[str], parameters: dict[str, object]
) -> tuple[list[Experiment], RunStore]:
    """`needed_experiments` of notebooks with these parameters, and the store that has their runs.

    Args, raises: see `reproduce`; `notebooks` as of `chosen_notebooks`.
    """
    device, data_root = str(parameters.get("device", "auto")), str(parameters.get("data_root", ""))
    needed = needed_experiments(
        notebooks,
        str(parameters["profile"]),
        dataset=str(parameters.get("dataset", "")),
        seeds=int(str(parameters.get("seeds", 0))),
        data_root=data_root,
    )
    return needed, RunStore(str(parameters.get("runs_dir", "")), data_root, device)


def needed_experiments(
    notebooks: Sequence[str],
    profile: str,
    *,
    dataset: str = "",
    seeds: int = 0,
    data_root: object = "",
) -> list[Experiment]:
    """Every training whose predictions these notebooks read, each once, in their order.

    Args:
        notebooks: names from `NOTEBOOKS`.
        profile: one of `cstn_lib.reproduction.experiments.PROFILES`.
        dataset: instead of the notebooks' own, with commas where there are several.
        seeds: how many; 0: as many as the profile has.
        data_root: folder or archive of a data set that is read; notebook 05 then trains on it, too.

    Raises:
        InputError: a name is unknown, or a notebook takes fewer data sets.
    """
    made = {notebook: result for result, notebook in RESULTS.items()}
    given = {"dataset": dataset, "seeds": seeds}
    found: list[Experiment] = []
    for notebook in notebooks:
        result, data = made.get(notebook), dataset or LESSON_DATA
        if result in TABLES:
            found += table_experiments(result, profile, **given)
        elif result in FIGURES:
            found += figure_experiments(result, profile, **given)
        elif result == "claims":
            for claim in CLAIMS:
                found += chain(*claim_experiments(claim, profile, **given).values())
        else:
            found += [make_experiment(n, data, profile) for n in LESSONS[notebook]]
        if notebook == "05_training" and data_root and data in (LESSON_DATA, PHOTOS):
            found += seeded_experiments(["cstn"], PHOTOS, profile, seeds=seeds)
    return list(dict.fromkeys(found))


def check_parameters(parameters: dict[str, object]) -> None:
    """Refuse unknown names before the first notebook starts.

    Raises:
        InputError: a profile, data set or device is unknown, or a data root does not exist.
    """
    profile_named(str(parameters["profile"]))
    for dataset in str(parameters.get("dataset", "")).split(","):
        if dataset and dataset not in DATASETS:
            raise unknown_name("dataset", dataset, DATASETS)
    resolve_device(str(parameters.get("device", "auto")))
    root = parameters.get("data_root")
    if root and not Path(str(root)).expanduser().exists():
        raise InputError(f"{root}: no such data root; expected the folder or zip of the data set")


def chosen_notebooks(only: Sequence[str]) -> list[str]:
    """The notebooks that ``--only`` names, in reading order; all where it names none.

    Raises:
        InputError: a name is unknown.
    """
    return sorted({_notebook_of(name) for name in only} or NOTEBOOKS)


def _notebook_of(name: str) -> str:
    if name in RESULTS:
        return RESULTS[name]
    if name in NOTEBOOKS:
        return name
    raise unknown_name("table, figure or notebook", name, (*RESULTS, *NOTEBOOKS))


def _prepare_papermill() -> None:
    # training and report work where papermill is not installed
    if importlib.util.find_spec("papermill") is None:
        raise InputError("papermill: not installed; expected, to run notebooks")
    # kernels of the environment come before those of the user's home folder
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")


def _training_job(run: Run, profile: str) -> Job:
    """`cstn train` of a run, which leaves its predictions, too."""
    experiment, store = run.experiment, run.store
    given = {
        "dataset": experiment.data.name,
        "profile": profile,
        "seed": experiment.seed,
        "device": store.device,
        "data-root": store.data_root,
        "runs-dir": store.folder,
    }
    options = [f"--{name}={value}" for name, value in given.items() if value != ""]
    work = len(run.split(experiment.training_split)) * experiment.training.epochs
    if experiment.training.warmup_epochs:  # a head that samples windows takes about twice as long
        work *= 2
    return Job(
        title=run.title,
        command=[sys.executable, "-m", "cstn_lib", "train", experiment.name, *options],
        log=_logs(store.folder) / experiment.data.name / f"{run.folder.name}.log",
        seconds=START_SECONDS + 1.3e-3 * work,
        explain=_mistake,
    )


def _mistake(log: Path) -> str:
    return last_line(log).removeprefix("cstn: ")


def _notebook_job(name: str, parameters: dict[str, object]) -> Job:
    """The call of papermill on a notebook."""
    source = project_folder("notebooks") / f"{name}.ipynb"
    if not source.is_file():
        raise InputError(f"{source}: no such notebook; run this in a checkout of the repository")
    output = _executed(name, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    options = ["--kernel", "python3", "--no-progress-bar", "--parameters_yaml"]
    return Job(
        title=source.name,
        command=[
            *(sys.executable, "-m", "papermill", str(source), str(output)),
            *(*options, json.dumps(parameters)),
        ],
        log=_logs(parameters.get("runs_dir", "")) / str(parameters["profile"]) / f"{name}.log",
        seconds=START_SECONDS + 20,
        explain=partial(_error_of, output),
    )


def _error_of(notebook: Path, log: Path) -> str:
    """The cell of an executed notebook that failed, and why."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):  # papermill did not come so far
        return last_line(log)
    for cell in cells:
        for out in cell.get("outputs", []):
            if out["output_type"] == "error":
                said = str(out["evalue"]).strip() or out["ename"]
                cause = said.splitlines()[0]
                if out["ename"] != "InputError":
                    cause = f"{out['ename']}: {cause}"
                count = cell["execution_count"]
                return f"cell {count}: {cause} (the executed notebook is {notebook})"
    return last_line(log)


def _executed(name: str, parameters: dict[str, object]) -> Path:
    runs = project_folder("runs", str(parameters.get("runs_dir", "")))
    return runs / "notebooks" / str(parameters["profile"]) / f"{name}.ipynb"


def _logs(runs_dir: object) -> Path:
    return project_folder("runs", str(runs_dir)) / "logs"
