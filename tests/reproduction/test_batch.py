"""The calls of papermill: whatever the folders are called."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from cstn_lib.models import HEADS
from cstn_lib.reproduction import batch
from cstn_lib.reproduction.batch import needed_experiments
from cstn_lib.reproduction.results import NOTEBOOKS


def test_folders_of_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """papermill formats its paths, and reads its parameters as YAML."""
    repository, runs = tmp_path / "code {0} a}b", tmp_path / "runs{1} {profile} a}b \N{CAT FACE} ö"
    cells = [
        new_code_cell('runs_dir = ""', metadata={"tags": ["parameters"]}),
        new_code_cell("print(ascii(runs_dir))"),
    ]
    name = batch.NOTEBOOKS[0]
    (repository / "notebooks").mkdir(parents=True)
    notebook = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    nbformat.write(notebook, repository / f"notebooks/{name}.ipynb")
    monkeypatch.setattr(batch, "needed_experiments", lambda notebooks, **parameters: [])
    monkeypatch.setattr(
        batch, "project_folder", lambda name, chosen=None: Path(chosen or repository / name)
    )
    (output,) = batch.reproduce([name], {"profile": "smoke", "runs_dir": str(runs)})
    assert output == runs / f"notebooks/smoke/{name}.ipynb"
    assert {path.name for path in tmp_path.iterdir()} == {repository.name, runs.name}
    printed = nbformat.read(output, as_version=4).cells[-1].outputs[0].text
    assert printed.strip() == ascii(str(runs))


def test_a_notebook_is_executed_again_when_what_it_reads_is_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    executed = []
    monkeypatch.setattr(batch, "needed_experiments", lambda notebooks, **parameters: [])
    monkeypatch.setattr(batch, "run_jobs", lambda jobs, at_once, gpus: executed.extend(jobs))
    lesson, table, given = "00_start_here", "07_table_1", {"profile": "smoke", "device": "cpu"}
    given |= {"runs_dir": str(tmp_path / "runs"), "figures_dir": str(tmp_path / "figures")}
    for name in (lesson, table):
        metadata = {"papermill": {"exception": None, "parameters": given}}
        path = tmp_path / f"runs/notebooks/smoke/{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(new_notebook(metadata=metadata), path)

    def again(**parameters: object) -> list[str]:
        executed.clear()
        batch.reproduce([lesson, table], given | parameters)
        return sorted(job.title for job in executed)

    both = [f"{lesson}.ipynb", f"{table}.ipynb"]
    assert again() == both[1:], "its table is not there"
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "table_1.csv").touch()
    os.utime(tmp_path / "figures" / "table_1.csv", (0, 0))
    assert again() == []
    assert again(seeds=2) == both, "other parameters"
    os.utime(tmp_path / f"runs/notebooks/smoke/{lesson}.ipynb", (0, 0))
    assert again() == both[:1], "its source is newer"


# Which trainings


def test_each_training_is_needed_once():
    needed = needed_experiments(NOTEBOOKS, "cpu")
    assert len(set(needed)) == len(needed)
    assert {e.name for e in needed} >= {*HEADS, "cstn-level-4", "cstn-lambda-0"}
    assert {e.data.name for e in needed} == {"birds-cub", "birds-ilsvrc"}
    assert {e.seed for e in needed} == set(range(10))
    again = needed_experiments([*NOTEBOOKS, *NOTEBOOKS], "cpu")
    assert again == needed


def test_another_data_set_and_number_of_seeds():
    needed = needed_experiments(NOTEBOOKS, "quick", dataset="cub", seeds=2)
    assert {e.data.name for e in needed} == {"cub"}
    assert {e.seed for e in needed} == {0, 1}
    chosen = ["14_qualitative_figures"]
    both = needed_experiments(chosen, "quick", dataset="cub,ilsvrc")
    pairs = [(e.name, e.data.name) for e in both]
    assert pairs == [("cstn", "cub"), ("cstn-lambda-0", "cub"), ("cstn", "ilsvrc")]
