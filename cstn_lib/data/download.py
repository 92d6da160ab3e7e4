"""Fetching the archives that anyone may fetch, and unpacking them safely.

An archive comes to ``ROOT/NAME.part``, is checked against its published MD5, and then gets its
name. An interrupted download is continued where it stopped, if the server can. Unpacking refuses an
archive with a path outside the target, a link or a device, and the folder appears whole or not at
all. Nothing that lies there already is overwritten.
"""

from __future__ import annotations

import http.client
import os
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchvision.datasets.utils import check_integrity
from tqdm.auto import tqdm

from cstn_lib.data.disk import writing
from cstn_lib.data.rows import is_safe
from cstn_lib.errors import InputError, first_line, unknown_name

__all__ = ["ARCHIVES", "Archive", "download", "unpack"]


@dataclass(frozen=True)
class Archive:
    """What is published.

    Attributes:
        url: where it is.
        md5: of the file, in hexadecimal.
        folder: the folder in it that is unpacked; empty where it is read as it is.
    """

    url: str
    md5: str
    folder: str = ""

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


ARCHIVES = {
    "cub": Archive(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        md5="97eceeb196236b17998738112f37df78",
        folder="CUB_200_2011",
    ),
    "tiny-imagenet": Archive(
        "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
        md5="90528d7ca1a48142e341f4ef8d21d0de",
    ),
}

_CHUNK = 1 << 20  # bytes
_PATIENCE = 30  # seconds without a byte


def download(name: str, root: Path) -> Path:
    """Fetch and unpack a data set below `root`; what is there already is not fetched again.

    Args:
        name: of `ARCHIVES`.
        root: a folder; made where it is not there.

    Returns:
        What to give as the data set's root.

    Raises:
        InputError: the name is not one of them, the server does not answer, the file has another
            MD5, the archive is not safe, or the disk cannot be written.
    """
    if name not in ARCHIVES:
        raise unknown_name("data set to download", name, ARCHIVES)
    archive = ARCHIVES[name]
    path, folder = root / archive.file, root / archive.folder
    if archive.folder and folder.is_dir():
        return folder
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if not check_integrity(path, archive.md5):
            raise InputError(
                f"{path}: not the published file (its MD5 is another), expected {archive.md5}; "
                "move it away and start again"
            )
    else:
        _fetch(archive, path)
    if not archive.folder:
        return path
    unpack(path, folder)
    return folder


def _fetch(archive: Archive, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    with writing(part), open(part, "ab") as file:
        try:
            _receive(archive.url, file)
        except (http.client.HTTPException, urllib.error.URLError, TimeoutError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _DISK:
                raise
            reason = getattr(error, "reason", None) or first_line(error)
            raise InputError(
                f"{archive.url}: not received ({reason}); {file.tell()} bytes are kept in {part}, "
                "start again to continue"
            ) from error
    if not check_integrity(part, archive.md5):
        part.unlink()
        raise InputError(
            f"{archive.url}: what came is not the published file (its MD5 is another), expected "
            f"{archive.md5}; start again, or fetch it by other means to {path}"
        )
    with writing(path):
        os.replace(part, path)
