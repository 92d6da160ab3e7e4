"""Locks, also where there are none."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from cstn_lib.support.disk import acquired, alone_in

fcntl = pytest.importorskip("fcntl")

HOLD = """
import sys, time
from pathlib import Path
from cstn_lib.support.disk import alone_in
with alone_in(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_second_process_waits_until_the_first_has_ended(tmp_path: Path):
    """However it ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "new"], stdout=subprocess.PIPE, text=True
    )
    entered = threading.Event()

    def enter() -> None:
        with alone_in(tmp_path / "new"):
            entered.set()

    try:
        assert process.stdout.readline() == "in\n"
        threading.Thread(target=enter, daemon=True).start()
        assert not entered.wait(0.5)
        process.kill()
        assert entered.wait(30)
    finally:
        process.kill()
        process.communicate()


def test_a_lock_that_is_held_is_not_acquired(tmp_path: Path, capsys):
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert acquired(first)
    assert not acquired(second)
    first.release()
    assert acquired(second)
    second.release()
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("ignore:flock not supported")  # some versions of filelock say it, too
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_without_locks_work_goes_on_and_says_so(tmp_path: Path, monkeypatch, capsys, code):
    def flock(*_: object) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".cstn-lock").touch()  # left by an earlier command
    for _ in range(2):
        with alone_in(tmp_path):
            said = capsys.readouterr().err
        assert said.splitlines() == [
            f"{tmp_path}: this file system has no locks; start nothing else that works there"
        ]


def test_a_folder_that_forbids_the_lock_is_an_error(tmp_path: Path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    lock = FileLock(tmp_path / "lock")
    monkeypatch.setattr(lock, "acquire", refuse)
    with pytest.raises(PermissionError):
        acquired(lock)
