"""How many processors may be used, and what a run notes down of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cstn_lib.support import machine
from cstn_lib.support.machine import processors


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "50000 100000"}, 1),  # half a processor
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "9000000 100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ({"cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "300000"}, 8),
    ],
)
def test_a_quota_counts(tmp_path: Path, monkeypatch, files, expected):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert processors() == expected


def test_affinity_counts(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5}, raising=False)
    assert processors() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # another system
    assert processors() == 64


def test_nothing_counts_processors_by_itself():
    """One place decides; elsewhere a mask or a quota would be forgotten."""
    package = Path(machine.__file__).parents[1]
    counting = [p.name for p in package.rglob("*.py") if "cpu_count" in p.read_text("utf-8")]
    assert counting == ["machine.py"]
