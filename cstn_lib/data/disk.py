"""A disk that is full or may not be written, told in one line with what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cstn_lib.errors import InputError

__all__ = ["writing"]

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
