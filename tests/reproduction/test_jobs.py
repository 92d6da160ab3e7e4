"""Processes side by side: in which order, with how many threads, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from filelock import FileLock

from cstn_lib.reproduction import batch, jobs
from cstn_lib.reproduction.batch import _error_of
from cstn_lib.reproduction.experiments import make_experiment
from cstn_lib.reproduction.jobs import Job, last_line, run_jobs
from cstn_lib.reproduction.runs import RunStore
from cstn_lib.support.errors import InputError

Make = Callable[..., Job]


@pytest.fixture
def job(tmp_path: Path) -> Make:
    """A process that runs some Python."""

    def make(title: str, code: str = "", seconds: float = 1) -> Job:
        command = [sys.executable, "-c", code, str(tmp_path)]
        return Job(title, command, tmp_path / "logs" / f"{title}.log", seconds)

    return make


# Each notes its beginning and waits for the other's
MEET = """
import pathlib, sys, time
place = pathlib.Path(sys.argv[1])
(place / "{mine}").touch()
end = time.monotonic() + 20
while not (place / "{other}").exists():
    assert time.monotonic() < end, "alone"
    time.sleep(0.01)
"""


def test_side_by_side(job: Make, capsys):
    one, two = (MEET.format(mine=mine, other=other) for mine, other in ("ab", "ba"))
    run_jobs([job("one", one), job("two", two)], 2)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[1] for line in lines} == {"one", "two"}
    assert [line.split()[0] for line in lines] == ["1/2", "2/2"]
    assert "left" in lines[0] and "all done" in lines[1]


def test_a_job_begins_when_those_it_needs_are_finished(job: Make, capsys):
    one, two, three = (job(name) for name in ("one", "two", "three"))
    page = replace(job("page"), needs=(one, two), then=lambda: print("read it"))
    run_jobs([page, one, two, three], 1)
    lines = capsys.readouterr().out.splitlines()
    titles = [line.split()[1] for line in lines]
    assert titles == ["one", "two", "page", "it", "three"], "the first in the list that may begin"


@pytest.mark.parametrize(("at_once", "threads"), [(1, "8"), (3, "4"), (2, "4"), (20, "4")])
def test_processors_are_shared_out(job: Make, monkeypatch, at_once, threads):
    monkeypatch.setattr(jobs, "processors", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    told = [job(name, "import os; print(os.environ['OMP_NUM_THREADS'])") for name in "ab"]
    run_jobs(told, at_once)
    assert [last_line(one.log) for one in told] == [threads] * 2


def test_each_job_sees_one_gpu(job: Make):
    """Those that run together another one, until there are more of them than GPUs."""
    see = "print(__import__('os').environ['CUDA_VISIBLE_DEVICES'])"
    told = [
        job(name, f"{see}; {MEET.format(mine=name, other=other)}")
        for name, other in ("ab", "ba", "cd", "dc")
    ]
    run_jobs(told, 2, ["2", "GPU-5f"])
    seen = [last_line(one.log) for one in told]
    assert {*seen[:2]} == {*seen[2:]} == {"2", "GPU-5f"}
    run_jobs(told[:2], 2, ["7"])
    assert [last_line(one.log) for one in told[:2]] == ["7", "7"]


@pytest.mark.parametrize(("named", "found"), [("4,GPU-5f", ["4", "GPU-5f"]), ("", ["0", "1"])])
def test_gpus_are_those_that_one_may_use(monkeypatch, named, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(batch.torch.cuda, "device_count", lambda: 2)
    assert batch._gpus() == found


def test_the_users_threads_are_kept(job: Make, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    told = job("a", "import os; print(os.environ['OMP_NUM_THREADS'])")
    run_jobs([told], 1)
    assert last_line(told.log) == "3"


def test_a_failure_is_one_line_and_stops_the_others(job: Make, tmp_path: Path):
    wait = "import os, pathlib, sys, time; (pathlib.Path(sys.argv[1]) / 'pid').write_text(str("
    waiting = job("waiting", wait + "os.getpid())); time.sleep(60)", seconds=2)
    failing = job(
        "failing",
        "import pathlib, sys, time\n"
        "while not (pathlib.Path(sys.argv[1]) / 'pid').exists(): time.sleep(0.01)\n"
        "time.sleep(0.1); sys.exit('first\\nweights.pth: no such file')",
    )
    started = time.monotonic()
    with pytest.raises(InputError) as caught:
        run_jobs([waiting, failing, replace(job("never"), needs=(waiting,))], 2)
    assert time.monotonic() - started < 30
    message = str(caught.value)
    assert message == f"failing, weights.pth: no such file (log: {failing.log})"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert not (tmp_path / "logs" / "never.log").exists()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import sys; sys.exit(3)", "it ended without a word"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL, out of memory?"),
    ],
)
def test_a_silent_end_is_told(job: Make, code, said):
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        run_jobs([job("a", code)], 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.4, "3 s"), (89, "89 s"), (100, "2 min"), (5340, "89 min"), (7500, "2 h 05 min")],
)
def test_durations(seconds, text):
    assert jobs._duration(seconds) == text


# Two trainings of many short epochs, and the command that runs them

TRAIN = """
import sys
from dataclasses import replace
from cstn_lib.reproduction.experiments import make_experiment
from cstn_lib.reproduction.jobs import stopped_by_signals
from cstn_lib.reproduction.runs import RunStore

smoke = make_experiment("cam", "birds-cub", "smoke", seed=int(sys.argv[2]))
experiment = replace(smoke, training=replace(smoke.training, epochs=12))
with stopped_by_signals():
    RunStore(sys.argv[1], device="cpu").run(experiment)
"""

COMMAND = """
import sys
from pathlib import Path
from cstn_lib.reproduction.jobs import Job, run_jobs, stopped_by_signals

runs, train = Path(sys.argv[1]), sys.argv[2]
with stopped_by_signals():
    run_jobs([
        Job(f"seed {seed}", [sys.executable, "-c", train, str(runs), str(seed)],
            runs / "logs" / f"{seed}.log", 1)
        for seed in (0, 1)
    ], 2)
"""


def test_trainings_are_stopped_and_continue(tmp_path: Path):
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "runs"), TRAIN]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "runs").glob("*/*/checkpoint.safetensors")):
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.01)
    started.terminate()
    printed, _ = started.communicate(timeout=60)
    assert started.returncode == 128 + 15
    assert printed == ""
    begun = list((tmp_path / "runs" / "birds-cub").iterdir())  # one may still have been importing
    for folder in begun:
        with FileLock(folder / "lock", timeout=0):  # nobody works here any more
            names = {path.name for path in folder.iterdir()}
        assert names <= {"checkpoint.safetensors", "config.json", "lock"}
    kept = [folder for folder in begun if (folder / "checkpoint.safetensors").is_file()]
    assert kept

    seed = int(kept[0].name.split("-")[1].removeprefix("seed"))
    smoke = make_experiment("cam", "birds-cub", "smoke", seed=seed)
    experiment = replace(smoke, training=replace(smoke.training, epochs=12))
    run = RunStore(tmp_path / "runs", device="cpu").run(experiment)
    assert run.folder == kept[0]
    assert run.history["epoch"].tolist() == list(range(1, 13))


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("InputError", "letters.zip: no zip\nmore", "letters.zip: no zip"),
        ("ZeroDivisionError", "division by zero", "ZeroDivisionError: division by zero"),
        ("KeyError", "", "KeyError: KeyError"),
    ],
)
def test_a_failed_notebook_tells_its_cell_and_why_in_one_line(tmp_path: Path, kind, value, said):
    error = nbformat.v4.new_output("error", ename=kind, evalue=value, traceback=["a", "b"])
    cell = nbformat.v4.new_code_cell("1 / 0", execution_count=3, outputs=[error])
    path, log = tmp_path / "executed.ipynb", tmp_path / "log"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert _error_of(path, log) == f"cell 3: {said} (the executed notebook is {path})"

    log.write_text("first\nno kernel named python3\n", encoding="utf-8")
    for content in ("", "{}"):  # papermill did not come so far
        path.write_text(content, encoding="utf-8")
        assert _error_of(path, log) == "no kernel named python3"
