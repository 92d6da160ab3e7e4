"""Where a result comes from: the code, the packages and the machine, as a run notes them down."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import torch
import torchvision

from cstn_lib.support.project import project_folder

__all__ = ["provenance"]


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
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor()
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
