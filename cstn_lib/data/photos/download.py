"""Fetching the archives that anyone may fetch, and unpacking them.

An archive gets its name once it is there and has its published MD5. Of what it holds the one folder
that is needed appears, whole or not at all. Nothing that lies there already is overwritten.
"""

from __future__ import annotations

import http.client
import tarfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torchvision.datasets import Imagenette
from torchvision.datasets.utils import check_integrity

from cstn_lib.data.photos.sources import inner_path
from cstn_lib.support.atomic import atomic_directory, atomic_file
from cstn_lib.support.disk import writing
from cstn_lib.support.errors import InputError, first_line, unknown_name
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
            MD5, or the disk cannot be written.
    """
    if name not in ARCHIVES:
        raise unknown_name("data set to download", name, ARCHIVES)
    archive = ARCHIVES[name]
    path, folder = root / archive.file, root / archive.folder
    if archive.folder and folder.is_dir():
        return folder
    if not path.exists():
        with writing(path), atomic_file(path) as temporary:
            _receive(archive, temporary)
    elif not check_integrity(path, archive.md5):
        raise InputError(
            f"{path}: not the published file (its MD5 is another), expected {archive.md5}; move it "
            "away and start again"
        )
    if not archive.folder:
        return path
    unpack(path, folder)
    return folder


def _receive(archive: Archive, path: Path) -> None:
    request = urllib.request.Request(archive.url, headers={"User-Agent": "cstn"})
    try:
        with (
            urllib.request.urlopen(request, timeout=_PATIENCE) as response,
            open(path, "wb") as file,
            Progress(desc=archive.file, unit="B", unit_scale=True) as bar,
        ):
            bar.total = int(response.headers.get("Content-Length", 0)) or None
            while chunk := response.read(_CHUNK):
                with writing(path):  # not to be taken for an error of the network
                    file.write(chunk)
                bar.update(len(chunk))
    except (http.client.HTTPException, OSError) as error:
        raise InputError(f"{archive.url}: not received ({first_line(error)})") from error
    if not check_integrity(path, archive.md5):
        raise InputError(
            f"{archive.url}: what came is not the published file (its MD5 is another), expected "
            f"{archive.md5}; start again, or fetch {archive.file} by other means"
        )


def unpack(path: Path, folder: Path) -> None:
    """Unpack that folder of a tar archive, whole or not at all; whatever is beside it is left out.

    Raises:
        InputError: the archive is damaged, does not hold the folder, or holds a path outside it, a
            link that leads out of it or a device.
    """
    try:
        with (
            writing(folder),
            atomic_directory(folder) as temporary,
            tarfile.open(path) as archive,
            Progress(archive, desc=f"unpacking {path.name}", unit="file") as members,
        ):
            for member in members:
                inner = PurePosixPath(inner_path(member.name))
                if inner.parts[:1] == (folder.name,):
                    member.name = str(inner.relative_to(folder.name))
                    archive.extract(member, temporary, filter="data")
            if not any(temporary.iterdir()):
                raise InputError(f"{path}: no folder {folder.name} in it, expected one")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: no whole and safe tar archive ({first_line(error)}); move it away and start "
            "again"
        ) from error
