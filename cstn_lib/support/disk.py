"""Writing to a disk that may be full, forbidden or shared with another process."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cstn_lib.support.errors import InputError

try:
    import fcntl
except ImportError:  # not on this system: there, two processes must not write at once
    fcntl = None

__all__ = ["alone_in", "writing"]

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
        culprit = error.filename or path
        raise InputError(f"{culprit}: not written ({error.strerror or error}); {advice}") from error


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make the folder, and wait until no other process is in here with it.

    The system ends the wait when the other process ends, however it does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
