"""Writing to a disk that may be full, forbidden or shared with another process."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cstn_lib.support.errors import InputError
from cstn_lib.support.progress import message_stream

try:
    import fcntl
except ImportError:  # not on this system, whose file systems all have locks
    fcntl = None

_ADVICE = {
    errno.ENOSPC: "free some space and start again",
    errno.EDQUOT: "free some space and start again",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the system has against writing `path`, as an `InputError` that names the file.

    Raises:
        InputError: an `OSError` was raised inside.
    """
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "put it right and start again")
        raise InputError(f"{path}: not written ({error.strerror or error}); {advice}") from error


def need_space(folder: Path, needed: int, path: Path) -> None:
    """Refuse to write so many bytes of `path` where the disk of `folder` has no room for them.

    Raises:
        InputError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{path}: {free / 1e9:.1f} GB free, expected {needed / 1e9:.1f} GB; free some space "
            "and start again"
        )


@contextmanager
def alone_in(folder: Path, name: str = ".cstn-lock", what: str = "") -> Iterator[None]:
    """Make the folder, and wait until no other process is in here with it.

    The system ends the wait when the other process ends, however it does.

    Args:
        name: of the lock's file, where processes share the folder but not what they make in it.
        what: is made there, for whoever waits; by default the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / name)
    waited = 0
    while not acquired(lock):
        if not waited:
            said = f"{what or folder}: another process has it, waiting"
            print(said, file=message_stream(), flush=True)
        waited += 1
        time.sleep(min(0.1 * waited, 2))
    try:
        yield
    finally:
        lock.release()


def acquired(lock: FileLock) -> bool:
    """Take a lock and tell whether that went, without waiting.

    On a file system that has no locks it seems to go, and a line on stderr says so: to refuse all
    work there would be worse than two processes that do the same.

    Raises:
        OSError: the lock's file cannot be written.
    """
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError) as error:
        path = Path(lock.lock_file)
        if not _lacks_locks(path):
            if isinstance(error, Timeout):
                return False
            raise
        print(
            f"{path.parent}: this file system has no locks; start nothing else that works there",
            file=message_stream(),
        )
    return True


def _lacks_locks(path: Path) -> bool:
    """Whether that is why a file could not be locked; filelock's versions tell it in many ways."""
    try:
        with path.open() as file:
            fcntl and fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
    return False
