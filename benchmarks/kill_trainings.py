"""Does a training lose anything when it is killed? Signal 9 at random moments, again and again.

    python benchmarks/kill_trainings.py [KILLS]

A smoke training is started, killed at a random moment after it has opened its run, and started
again; whenever one gets to its end, the next begins from nothing. Every finished network is
compared bit for bit with that of an undisturbed training, and so are its predictions.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "cstn_lib", "train", "cstn", "--profile=smoke", "--device=cpu"]
KEPT = ("model.safetensors", "predictions-*.parquet")


def start(runs: Path) -> subprocess.Popen:
    """A training that has just opened its run: what it imports before takes longer than itself."""
    for lock in runs.glob("*/*/lock"):
        lock.unlink()
    process = subprocess.Popen(
        [*COMMAND, f"--runs-dir={runs}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not list(runs.glob("*/*/lock")):
        time.sleep(0.005)
    return process


def finished(process: subprocess.Popen) -> None:
    _, said = process.communicate()
    if process.returncode:
        sys.exit(f"not recovered: {said.splitlines()[-1]}")


def content(runs: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for name in KEPT for p in sorted(runs.glob(f"*/*/{name}"))}


def main(kills: int) -> None:
    moments, recovered = random.Random(0), 0
    with tempfile.TemporaryDirectory() as folder:
        finished(start(Path(folder) / "once"))  # draws the data, too
        undisturbed = start(Path(folder) / "undisturbed")
        began = time.perf_counter()
        finished(undisturbed)
        seconds = time.perf_counter() - began
        expected = content(Path(folder) / "undisturbed")
        killed = 0
        while killed < kills:
            runs = Path(folder) / str(recovered)
            for _ in range(moments.randint(1, 3)):
                moment = moments.uniform(0, seconds)
                process = start(runs)
                try:
                    process.wait(moment)
                    break  # it was done before
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.communicate()
                killed += 1
                left = sorted(path.name for path in runs.glob("*/*/*"))
                print(
                    f"{killed:3}: killed after {moment:5.2f} s, left {', '.join(left) or 'nothing'}"
                )
            finished(start(runs))
            if content(runs) != expected:
                sys.exit(f"{runs}: another network or other predictions than undisturbed")
            recovered += 1
    print(f"{killed} kills, {recovered} trainings finished, all equal to the undisturbed one")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100)
