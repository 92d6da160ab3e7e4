"""The machine: how much of it may be used, and what a run notes down of it, with its packages."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch
import torchvision

from cstn_lib.support.project import project_folder

CGROUP = Path("/sys/fs/cgroup")


def processors() -> int:
    """How many processors this process may use: its affinity mask and a container's quota count."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        allowed = os.cpu_count() or 1
    return max(1, int(min(allowed, _quota())))


def _quota() -> float:
    """Processors' worth of time that the container has; infinite where nothing limits it."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # v2, v1
        try:
            words = [word for file in files for word in (CGROUP / file).read_text().split()]
            quota, period = (float(word) for word in words)  # "max" is no number
        except (OSError, ValueError):
            continue
        if quota > 0:
            return quota / period
    return float("inf")


def provenance(device: str) -> dict[str, str | int]:
    """What to write beside a result, by name.

    Args:
        device: ``"cpu"`` or ``"cuda"``.

    Returns:
        versions of ``python``, ``torch`` and ``torchvision``; ``machine``, its architecture;
        ``processor``, the model of the CPU or GPU; ``threads`` of this process; and ``commit`` of
        the code, ending in ``-dirty`` where files differ from it, ``""`` outside a checkout.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "machine": platform.machine(),
        "processor": torch.cuda.get_device_name() if device == "cuda" else _cpu_model(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")  # of Linux
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    root = project_folder("")
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        done = subprocess.run(
            [*command, "--exclude", "*"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return ""
    return done.stdout.strip()
