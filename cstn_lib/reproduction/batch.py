"""Everything in batch: the missing trainings side by side, and each notebook when it can run.

A notebook trains what it misses, one network after the other. `reproduce` first trains what the
chosen notebooks need in as many processes as the machine has processors, or GPUs; a notebook whose
trainings are there only reads. Each is executed into ``runs/notebooks/<profile>/`` by the call of
papermill that the README gives, so the numbers are the same.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

import cstn_lib
from cstn_lib.backbones import LITE
from cstn_lib.models import HEADS
from cstn_lib.reproduction.experiments import Experiment
from cstn_lib.reproduction.jobs import Job, last_line, run_jobs
from cstn_lib.reproduction.results import NOTEBOOKS, RESULTS, experiments_of, result_file
from cstn_lib.reproduction.runs import Run, RunStore
from cstn_lib.support.errors import InputError, unknown_name
from cstn_lib.support.machine import processors
from cstn_lib.support.project import project_folder, user_path
from cstn_lib.training.engine import resolve_device

START_SECONDS = 8
"""Of any process, until its packages are imported."""


def reproduce(
    only: Sequence[str],
    parameters: dict[str, object],
    jobs: int = 0,
    show: Callable[[str], None] = lambda result: None,
) -> list[Path]:
    """Train what the notebooks need and execute them, several processes at a time.

    A notebook runs as soon as its trainings are there, Table I's first. One that was executed after
    all it reads had been made is not executed again.

    Args:
        only: names of `RESULTS` or `NOTEBOOKS`; empty means all.
        parameters: of the notebooks, by name; ``profile`` must be among them, and the rest only
            where they differ from the notebooks' own defaults.
        jobs: how many processes at a time; 0: one per processor, or one per GPU.
        show: called with the name of each result that a notebook has made.

    Returns:
        the executed notebooks, in reading order.

    Raises:
        InputError: a name is unknown, or a training or a notebook met an error.
    """
    names = chosen_notebooks(only)
    root = user_path(parameters.get("data_root"))
    if root is not None and not root.exists():
        raise InputError(f"{root}: no such data root; expected the folder or zip of the data set")
    # training and report work where papermill is not installed
    if importlib.util.find_spec("papermill") is None:
        raise InputError("papermill: not installed; expected, to run notebooks")
    # kernels of the environment come before those of the user's home folder
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    store = store_of(parameters)
    gpus = _gpus() if resolve_device(store.device) == "cuda" else []
    at_once = jobs or len(gpus) or processors()
    opened: dict[Experiment, Run] = {}
    trainings: dict[Experiment, Job] = {}
    listed: list[Job] = []
    for name in sorted(names, key=lambda name: name != RESULTS["table-1"].notebook):
        needs, asked = [], needed_experiments([name], **parameters)
        for experiment in asked:
            if experiment not in opened:
                run = opened[experiment] = store.open(experiment)
                # here, once: processes side by side would each draw or decode them
                run.split("val"), run.split("test")
                if not (run.finished and run.predicted):
                    trainings[experiment] = _training_job(run, str(parameters["profile"]))
            if experiment in trainings:
                needs.append(trainings[experiment])
        if not needs and _is_current(name, parameters, [opened[e] for e in asked]):
            print(f"{name}.ipynb: executed since what it reads was made", flush=True)
            show(_result_of(name))
        else:
            listed += [*needs, _notebook_job(name, parameters, needs, show)]
    run_jobs(list(dict.fromkeys(listed)), at_once, gpus)
    return [_executed(name, parameters) for name in names]


def needed_experiments(
    notebooks: Sequence[str],
    profile: str,
    *,
    dataset: str = "",
    seeds: int = 0,
    **others: object,
) -> list[Experiment]:
    """Every training whose predictions these notebooks read, each once, in their order.

    Args:
        notebooks: names from `NOTEBOOKS`.
        profile, dataset, seeds: see `experiments_of`, and there for errors.
        others: parameters of the notebooks on which no training depends.
    """
    found: list[Experiment] = []
    for name, result in RESULTS.items():
        if result.notebook in notebooks:
            found += experiments_of(name, profile, dataset=dataset, seeds=seeds)
    return list(dict.fromkeys(found))


def chosen_notebooks(only: Sequence[str]) -> list[str]:
    """The notebooks that ``--only`` names, in reading order; all where it names none.

    Raises:
        InputError: a name is unknown.
    """
    for name in only:
        if name not in (*RESULTS, *NOTEBOOKS):
            raise unknown_name("table, figure or notebook", name, (*RESULTS, *NOTEBOOKS))
    chosen = {RESULTS[name].notebook if name in RESULTS else name for name in only}
    return sorted(chosen or NOTEBOOKS)


def _gpus() -> list[str]:
    """Those that may be used, as ``CUDA_VISIBLE_DEVICES`` names them."""
    named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    # CUDA passes over what follows a name that it does not know
    return named.split(",")[:count] if named else [str(at) for at in range(count)]


def store_of(parameters: dict[str, object]) -> RunStore:
    """The runs that notebooks with these parameters read."""
    return RunStore(*(parameters.get(name) for name in ("runs_dir", "data_root", "device")))


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
    options = [f"--{name}={value}" for name, value in given.items() if value not in ("", None)]
    work = len(run.split(experiment.training_split)) * experiment.training.epochs
    if experiment.training.warmup_epochs:  # a head that samples windows takes about twice as long
        work *= 2
    model = experiment.model
    if not (HEADS[model.head].takes_maps and model.backbone == LITE):  # whose maps are kept
        work *= (experiment.data.image_size / 80) ** 2
    return Job(
        title=run.title,
        command=[sys.executable, "-m", "cstn_lib", "train", experiment.name, *options],
        log=run.folder.parents[1] / "logs" / experiment.data.name / f"{run.folder.name}.log",
        seconds=START_SECONDS + 1.3e-3 * work,
        explain=lambda log: last_line(log).removeprefix("cstn: "),
    )


def _notebook_job(
    name: str,
    parameters: dict[str, object],
    needs: Sequence[Job],
    show: Callable[[str], None],
) -> Job:
    """The call of papermill on a notebook."""
    source = project_folder("notebooks") / f"{name}.ipynb"
    if not source.is_file():
        raise InputError(f"{source}: no such notebook; run this in a checkout of the repository")
    output = _executed(name, parameters)
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.parents[2] / "logs" / str(parameters["profile"]) / f"{name}.log"
    # papermill formats its paths
    paths = [str(path).replace("{", "{{").replace("}", "}}") for path in (source, output)]
    # YAML does not put together again what JSON writes as two halves, such as emoji
    given = json.dumps(parameters, ensure_ascii=False)
    options = ["--kernel", "python3", "--no-progress-bar", "--parameters_yaml", given]
    return Job(
        title=source.name,
        command=[sys.executable, "-m", "papermill", *paths, *options],
        log=log,
        seconds=START_SECONDS + 20,
        explain=partial(_error_of, output),
        needs=needs,
        then=partial(show, _result_of(name)),
    )


def _is_current(name: str, parameters: dict[str, object], runs: Sequence[Run]) -> bool:
    """Whether a notebook was executed, with these parameters, after all that it reads was made."""
    output, result = _executed(name, parameters), _result_of(name)
    made_of = [project_folder("notebooks") / f"{name}.ipynb"]
    made_of += Path(cstn_lib.__file__).parent.rglob("*.py")
    made_of += [run.folder / "run.json" for run in runs]
    if not RESULTS[result].one_seed:  # its files are still there
        where = (parameters.get(name, "") for name in ("profile", "dataset", "figures_dir"))
        made_of.append(result_file(result, *where))
    try:
        executed = json.loads(output.read_text(encoding="utf-8"))["metadata"]["papermill"]
        newest = max(path.stat().st_mtime for path in made_of)
        finished = executed["exception"] is None and executed["parameters"] == parameters
        return finished and output.stat().st_mtime > newest
    except (OSError, ValueError, KeyError):
        return False


def _result_of(notebook: str) -> str:
    return next(name for name, result in RESULTS.items() if result.notebook == notebook)


def _error_of(notebook: Path, log: Path) -> str:
    """The cell of an executed notebook that failed, and why."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError):  # papermill did not come so far
        return last_line(log)
    outputs = [(cell["execution_count"], out) for cell in cells for out in cell.get("outputs", [])]
    for count, out in outputs:
        if out["output_type"] == "error":
            cause = (str(out["evalue"]).strip() or out["ename"]).splitlines()[0]
            kind = "" if out["ename"] == "InputError" else f"{out['ename']}: "
            return f"cell {count}: {kind}{cause} (the executed notebook is {notebook})"
    return last_line(log)


def _executed(name: str, parameters: dict[str, object]) -> Path:
    runs = project_folder("runs", parameters.get("runs_dir"))
    return runs / "notebooks" / str(parameters["profile"]) / f"{name}.ipynb"
