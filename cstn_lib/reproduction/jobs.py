"""Commands side by side: some at a time, each a process of its own, one line when one is done.

A training on one thread uses a processor best, so several processors want several trainings.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cstn_lib.support.errors import InputError
from cstn_lib.support.machine import processors

PATIENCE = 20
"""Seconds that a process has to end itself when it is told to."""


def last_line(log: Path) -> str:
    """The end of what a process said: after a mistake, what was wrong."""
    said = log.read_text(encoding="utf-8", errors="replace").strip()
    return said.splitlines()[-1] if said else "it ended without a word"


@dataclass(frozen=True, eq=False)
class Job:
    """One process.

    Attributes:
        title: names it to the reader.
        command: program and arguments.
        log: file that takes what it prints.
        seconds: about how long it takes, compared with the others.
        explain: why it failed, in one line, from its log.
        needs: jobs of the same list that must be finished before it begins.
        then: called when it is finished.
    """

    title: str
    command: Sequence[str]
    log: Path
    seconds: float
    explain: Callable[[Path], str] = last_line
    needs: Sequence[Job] = ()
    then: Callable[[], None] = lambda: None


def run_jobs(jobs: Sequence[Job], at_once: int, gpus: Sequence[str] = ()) -> None:
    """Run every job as soon as those it needs are finished, and print a line after each.

    Of those that may begin, the first in the list does. Each gets its share of the processors as
    ``OMP_NUM_THREADS``, unless the user has set that. Whatever ends this function, no process is
    left.

    Args:
        gpus: as ``CUDA_VISIBLE_DEVICES`` names them; each job sees one, in turn.

    Raises:
        InputError: a job failed; the others were stopped.
    """
    waiting, finished = list(jobs), {}
    seen = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}]
    places = [seen[at % len(seen)] for at in range(at_once)]  # those that are free
    running: dict[subprocess.Popen, tuple[Job, float, dict[str, str]]] = {}
    environment = {
        "OMP_NUM_THREADS": str(max(1, processors() // min(at_once, len(jobs) or 1))),
        "TQDM_MININTERVAL": "30",  # a log needs no moving bar
        **os.environ,
    }
    try:
        while waiting or running:
            ready = [job for job in waiting if finished.keys() >= set(job.needs)]
            for job in ready[: len(places)]:
                waiting.remove(job)
                place = places.pop(0)
                running[_start(job, environment | place)] = job, time.perf_counter(), place
            for process in [process for process in running if process.poll() is not None]:
                job, started, place = running.pop(process)
                places.append(place)
                if process.returncode:
                    raise InputError(
                        f"{job.title}, {_killed(process) or job.explain(job.log)} (log: {job.log})"
                    )
                finished[job] = time.perf_counter() - started
                print(_progress(jobs, finished, at_once), flush=True)
                job.then()
            time.sleep(0.05)
    finally:
        _stop(list(running))


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """End this process as an exception would when it is told to stop: nothing is left half done."""

    def stop(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    # a closed terminal sends SIGHUP, which Windows does not have
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start(job: Job, environment: dict[str, str]) -> subprocess.Popen:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        return subprocess.Popen(
            job.command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop them
        )


def _stop(processes: Sequence[subprocess.Popen]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _killed(process: subprocess.Popen) -> str:
    """How another process ended it; "" where it ended itself."""
    if process.returncode >= 0:
        return ""
    name = signal.Signals(-process.returncode).name
    return f"killed by {name}" + (", out of memory?" if name == "SIGKILL" else "")


def _progress(jobs: Sequence[Job], finished: Mapping[Job, float], at_once: int) -> str:
    """The last job finished, and how long the rest takes if it goes on at this rate.

    Args:
        finished: seconds that each took, in the order in which they ended.
    """
    last, seconds = list(finished.items())[-1]
    expected = sum(job.seconds for job in finished)
    to_come = sum(job.seconds for job in jobs) - expected
    rest = to_come * sum(finished.values()) / expected / at_once
    left = f"about {_duration(rest)} left" if len(finished) < len(jobs) else "all done"
    width = max(len(job.title) for job in jobs)
    count = f"{len(finished):{len(str(len(jobs)))}}/{len(jobs)}"
    return f"{count}  {last.title:{width}}  {seconds:6.1f} s  {left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
