"""Fetching the archives that anyone may fetch, and unpacking them safely.

An archive comes to ``ROOT/NAME.part``, is checked against its published MD5, and then gets its
name. An interrupted download is continued where it stopped, if the server can. Unpacking refuses an
archive with a path outside the target, a link or a device, and the folder appears whole or not at
all. Nothing that lies there already is overwritten.
"""

from __future__ import annotations

import gzip
import http
import http.client
import lzma
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from torchvision.datasets import Imagenette
from torchvision.datasets.utils import check_integrity

from cstn_lib.data.photos.sources import inner_path, is_safe
from cstn_lib.support.atomic import atomic_directory
from cstn_lib.support.disk import alone_in, need_space, writing
from cstn_lib.support.errors import InputError, Interrupted, first_line, unknown_name
from cstn_lib.support.progress import Progress


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
    "imagenette": Archive(*Imagenette._ARCHIVES["320px"], folder="imagenette2-320"),
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
    with writing(root), alone_in(root):
        if not path.exists():
            _fetch(archive, path)
        elif not check_integrity(path, archive.md5):
            raise InputError(
                f"{path}: not the published file (its MD5 is another), expected {archive.md5}; "
                "move it away and start again"
            )
        if archive.folder and not folder.is_dir():
            unpack(path, folder)
    return folder if archive.folder else path


def _fetch(archive: Archive, path: Path) -> None:
    part = path.with_name(f"{path.name}.part")
    with writing(part), open(part, "ab") as file:
        _receive(archive.url, part, file)
    if not check_integrity(part, archive.md5):
        part.unlink()
        raise InputError(
            f"{archive.url}: what came is not the published file (its MD5 is another), expected "
            f"{archive.md5}; start again, or fetch it by other means to {path}"
        )
    os.replace(part, path)


def _receive(url: str, part: Path, file: BinaryIO) -> None:
    """Append to an open file what is not yet in it."""
    have = done = file.tell()
    headers = {"User-Agent": "cstn", **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE) as response:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                done = file.truncate(0)
            missing = int(response.headers.get("Content-Length", 0))
            size = done + missing
            need_space(part.parent, missing, part)
            options = {"desc": part.stem, "unit": "B", "unit_scale": True}
            with Progress(total=size, initial=done, **options) as bar:
                while chunk := response.read(_CHUNK):
                    with writing(part):  # not to be taken for an error of the network
                        file.write(chunk)
                    done += len(chunk)
                    bar.update(len(chunk))
        if done < size:
            raise http.client.IncompleteRead(b"", size - done)
    except KeyboardInterrupt as stop:
        message = f"{part}: stopped after {done} bytes; start again to continue"
        raise Interrupted(message) from stop
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise InputError(f"{url}: not received ({error.code} {error.reason})") from error
        # else all of it is there
    except (http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or first_line(error)
        raise InputError(
            f"{url}: broken off after {done} bytes ({reason}); start again to continue"
        ) from error


def unpack(path: Path, folder: Path) -> None:
    """Unpack that folder of a tar archive, whole or not at all; whatever is beside it is left out.

    Raises:
        InputError: the archive is damaged, does not hold the folder, or holds a path outside it, a
            link or a device.
    """
    bar = Progress(desc=f"unpacking {path.name}", unit="file")

    def place_of(member: tarfile.TarInfo) -> PurePosixPath | None:
        inner = PurePosixPath(inner_path(member.name))
        for allowed, wrong, expected in (
            (is_safe(str(inner)), "lies outside the folder", "paths inside"),
            (member.isfile() or member.isdir(), "is a link or a device", "files and folders alone"),
        ):
            if not allowed:
                raise InputError(
                    f"{path}: {member.name!r} {wrong}, expected {expected}; nothing was unpacked"
                )
        bar.update()
        return PurePosixPath(*inner.parts[1:]) if inner.parts[0] == folder.name else None

    try:
        with tarfile.open(path) as tar, atomic_directory(folder) as temporary, bar:
            for member in tar:  # by hand: extractall has filters since 3.10.12 and 3.11.4 only
                place = place_of(member)
                if place and member.isfile():
                    (temporary / place).parent.mkdir(parents=True, exist_ok=True)
                    with tar.extractfile(member) as content, (temporary / place).open("wb") as file:
                        shutil.copyfileobj(content, file)
            if not any(temporary.iterdir()):
                raise InputError(f"{path}: no folder {folder.name} in it, expected one")
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(
            f"{path}: damaged, expected a whole tar archive ({first_line(error)}); move it away "
            "and start again"
        ) from error
