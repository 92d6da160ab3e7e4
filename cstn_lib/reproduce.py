"""Run the notebooks in batch, with the same parameters a reader would set by hand.

Each notebook is executed by papermill into ``runs/notebooks/<profile>/``; the numbers are the ones
that ``papermill notebooks/NAME.ipynb out.ipynb -p profile quick`` gives, because it is that call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from cstn_lib.data import DATASETS
from cstn_lib.engine import resolve_device
from cstn_lib.errors import InputError, unknown_name
from cstn_lib.experiments import profile_named
from cstn_lib.project import project_folder

__all__ = ["NOTEBOOKS", "RESULTS", "check_parameters", "chosen_notebooks", "run_notebooks"]

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
)
RESULTS = {
    "table-1": "07_table_1",
    "table-2": "08_table_2",
    "table-3": "09_table_3",
    "table-4": "10_table_4",
    "table-5": "11_table_5",
    "figure-6": "12_figure_6",
    "figure-8": "13_figure_8",
}
"""What ``--only`` may name beside a notebook, and the notebook that makes it."""


def run_notebooks(only: Sequence[str], parameters: dict[str, object]) -> list[Path]:
    """Execute notebooks in reading order.

    Args:
        only: names from `NOTEBOOKS` or `RESULTS`; empty means all.
        parameters: of the notebooks, by name; ``profile`` must be among them, and the rest only
            where they differ from the notebooks' own defaults.

    Returns:
        the executed notebooks.

    Raises:
        InputError: a name is unknown, or a notebook met an error.
    """
    import papermill  # training and report work where papermill is not installed
    from papermill.exceptions import PapermillExecutionError

    chosen = chosen_notebooks(only)
    # kernels of the environment come before those of the user's home folder
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")
    runs = project_folder("runs", str(parameters.get("runs_dir", "")))
    outputs = []
    for name in chosen:
        source = project_folder("notebooks") / f"{name}.ipynb"
        if not source.is_file():
            raise InputError(
                f"{source}: no such notebook; run this in a checkout of the repository"
            )
        output = runs / "notebooks" / str(parameters["profile"]) / source.name
        output.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        try:
            papermill.execute_notebook(
                source,
                output,
                parameters=parameters,
                kernel_name="python3",
                progress_bar=False,
                log_output=False,
            )
        except PapermillExecutionError as error:
            cause = (str(error.evalue).strip() or error.ename).splitlines()[0]
            if error.ename != "InputError":
                cause = f"{error.ename}: {cause}"
            raise InputError(
                f"{source.name}, cell {error.exec_count}: {cause} "
                f"(the executed notebook is {output})"
            ) from error
        print(f"{name}  {time.perf_counter() - started:6.1f} s  {output}", flush=True)
        outputs.append(output)
    return outputs


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
