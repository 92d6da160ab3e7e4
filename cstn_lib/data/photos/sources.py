"""Where the files of a data set lie: a folder or a zip, read the same way.

File names are relative to the source's top, with slashes, so that readers and their messages need
not know which of the two it is. What systems and programs leave behind is passed over.
"""

from __future__ import annotations

import codecs
import io
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from cstn_lib.data.photos.faults import Faults
from cstn_lib.support.errors import InputError, is_unicode

_PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif"),
    *(".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
)
_KINDS = ", ".join(_PHOTO_SUFFIXES)

# made by Synology, QNAP, macOS, Windows, Python and Linux without their users' knowledge, as are
# all names that begin with a dot
_LEFTOVERS = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("__macosx", "icon\r", "thumbs.db", "ehthumbs.db", "desktop.ini"),
    *("$recycle.bin", "system volume information", "__pycache__", "lost+found"),
}


def is_photo(name: str) -> bool:
    """Whether a file is one of the photos, by its name."""
    return name.lower().endswith(_PHOTO_SUFFIXES)


def is_leftover(name: str) -> bool:
    """Whether a file or folder is hidden or made by a machine, and so no part of a data set."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def inner_path(name: str) -> str:
    """The name of an archive's member, or of a photo in a table, with slashes and no ``./``.

    Some programs write backslashes, others begin with a dot. Whether it stays below its folder is
    for `is_safe` to say.
    """
    return str(PurePosixPath(name.replace("\\", "/")))


def is_safe(file: str) -> bool:
    """Whether a relative path stays below the folder it is relative to, on any system."""
    return (
        not any(sign in file for sign in "\\:\0")
        and not file.startswith("/")
        and ".." not in file.split("/")
        and file != ""
    )


class Source(ABC):
    """The files of a data set, but for what is hidden or made by a machine.

    Attributes:
        top: the folder that file names are relative to; inside a zip, for messages.
        what: the data set, for messages.
        faults: where faults and oddities are reported.
        passed_over: hidden and machine-made files that were met, by name.
    """

    def __init__(self, top: Path, what: str = "", faults: Faults | None = None) -> None:
        self.top = top
        self.what = what
        self.faults = faults or Faults()
        self.passed_over: set[str] = set()

    # What a folder and a zip do each in its way

    @abstractmethod
    def _scan(self, folder: str) -> tuple[Iterable[str], Iterable[str]]:
        """Names of the folders and of the files in a folder; none where it is not a folder."""

    @abstractmethod
    def _content(self, file: str) -> bytes:
        """As `read`, with whatever error comes."""

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether there is such a file, or such a folder where the name ends with a slash."""

    @abstractmethod
    def mark(self, file: str) -> int:
        """A number that tells the content of a file, without reading it.

        In a zip that is the checksum, on disk the size: another photo of the same name and the
        same size goes unnoticed there.
        """

    # What there is

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        """As `_scan`, sorted, of what belongs to the data set."""
        found = []
        for names in self._scan(folder):
            kept = [name for name in names if not is_leftover(name)]
            self.passed_over.update(f"{folder}/{name}" for name in set(names).difference(kept))
            for name in kept:
                if not is_unicode(name):
                    raise InputError(
                        f"{self.where(f'{folder}/{name}')}: its name is no UTF-8, expected one "
                        "that is; rename it"
                    )
            found.append(sorted(kept))
        return found[0], found[1]

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where it is not a folder.

        Raises:
            InputError: it is not readable, or a name in it is no UTF-8.
        """
        return self._list(folder)[0]

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder; order and errors as for `folders`."""
        return self._list(folder)[1]

    def photos(self, folder: str, *, folders_too: bool = False) -> list[str]:
        """The photos in a folder, by their names from the top on; errors as for `folders`.

        Whatever else lies there is an oddity.

        Args:
            folders_too: folders are none, there may be photos in them.
        """
        folders, names = self._list(folder)
        for name in [] if folders_too else folders:
            message = f"expected the photos in {self.where(folder)}"
            self.oddity("folder inside a class, passed over", message, f"{folder}/{name}")
        for name in names:
            if not is_photo(name):
                kind = "not a kind of photo that is read, passed over"
                self.oddity(kind, f"expected {_KINDS}", f"{folder}/{name}")
        return [f"{folder}/{name}" for name in names if is_photo(name)]

    def marks(self, folders: Iterable[str]) -> list[tuple[str, list[tuple[str, int]]]]:
        """Folders with the names and marks of their files, to tell whether anything changed."""
        return [
            (folder, [(name, self.mark(f"{folder}/{name}")) for name in self.names(folder)])
            for folder in folders
        ]

    # What is in it

    def read(self, file: str) -> bytes:
        """The content of a file.

        Raises:
            InputError: it is missing or not readable.
        """
        with self._readable(file):
            return self._content(file)

    def open(self, file: str) -> BinaryIO:
        """A file, to be read in part; errors as for `read`."""
        return io.BytesIO(self.read(file))

    def checksum(self, file: str) -> int:
        """CRC-32 of the content of a file."""
        return zlib.crc32(self.read(file))

    def checksums(self, files: Iterable[str]) -> list[tuple[str, int]]:
        """Names and checksums of those files that there are."""
        return [(file, self.checksum(file)) for file in files if self.has(file)]

    def lines(self, file: str) -> list[str]:
        """The lines of a UTF-8 file, with or without a byte-order mark.

        Raises:
            InputError: the file is missing, not readable or not UTF-8.
        """
        if not self.has(file):
            raise InputError(f"{self.where(file)}: missing, expected as part of {self.what}")
        data = self.read(file).removeprefix(codecs.BOM_UTF8)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            raise InputError(f"{self.where(file, number)}: not UTF-8 text") from error
        if not text.strip():
            return []
        return [line.rstrip("\r") for line in text.rstrip("\r\n").split("\n")]

    # What is wrong with it

    @contextmanager
    def _readable(self, file: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, KeyError) as error:
            raise InputError(f"{self.where(file)}: missing") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
            raise InputError(f"{self.where(file)}: damaged in the zip ({error})") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{self.where(file)}: not readable ({reason})") from error

    def where(self, file: str, line: int | None = None) -> str:
        """A file, and a line of it, as messages name it."""
        return os.path.join(self.top, file) + (f", line {line}" if line else "")

    def fault(self, kind: str, message: str, file: str, line: int | None = None) -> None:
        """Report a fault of a file (see `cstn_lib.data.photos.faults.Faults.fault`)."""
        self.faults.fault(kind, f"{self.where(file, line)}: {message}")

    def oddity(self, kind: str, message: str, file: str) -> None:
        """Report an oddity of a file."""
        self.faults.oddity(kind, f"{self.where(file)}: {message}")

    def why_missing(self, file: str) -> str:
        """What is wrong with a photo that the annotations name and `photos` does not."""
        if not self.has(file):
            return f"no such image, expected {self.where(file)}"
        if not is_photo(file):
            return f"{self.where(file)} is of a kind that is not read, expected {_KINDS}"
        return f"{self.where(file)} is hidden or in no class's folder, expected directly in one"


class FolderSource(Source):
    """Files on disk."""

    def _scan(self, folder: str) -> tuple[list[str], list[str]]:
        if not self.has(f"{folder}/"):
            return [], []
        with self._readable(folder), os.scandir(self.top / folder) as found:
            entries = list(found)
        # a link to nowhere is neither
        return [e.name for e in entries if e.is_dir()], [e.name for e in entries if e.is_file()]

    def _content(self, file: str) -> bytes:
        return (self.top / file).read_bytes()

    def has(self, name: str) -> bool:
        # os.path answers no, where pathlib raises, for a path that may not be looked at
        known = os.path.isdir if name.endswith("/") else os.path.isfile
        return known(self.top / name)

    def mark(self, file: str) -> int:
        return os.path.getsize(self.top / file)

    def open(self, file: str) -> BinaryIO:
        with self._readable(file):
            return open(self.top / file, "rb")

    def dates(self, folder: str, depth: int) -> list[tuple[str, str, int]]:
        """The folders down to a depth, with the time at which a file was last added or removed.

        Instead of the sizes of a million files. The absolute place of the folder is part of it,
        since a copy may keep its times.
        """
        if not self.has(f"{folder}/"):
            return []
        found = [(str(self.top.resolve()), folder, os.stat(self.top / folder).st_mtime_ns)]
        for name in self.folders(folder) if depth else ():
            found += self.dates(f"{folder}/{name}", depth - 1)
        return found


class ZipSource(Source):
    """Files below a folder in a zip archive; ``top`` ends with that folder, which may be ``""``."""

    def __init__(self, archive: zipfile.ZipFile, folder: str, *options: Any) -> None:
        super().__init__(*options)
        self._archive = archive
        prefix = f"{folder}/" if folder else ""
        self._members = {  # nothing is ever unpacked by these names
            name.removeprefix(prefix): member
            for member in archive.infolist()
            if (name := inner_path(member.filename)).startswith(prefix)
            and not member.filename.endswith(("/", "\\"))
        }

    @cached_property
    def _tree(self) -> dict[str, tuple[set[str], set[str]]]:
        """The folders and files in each folder; the top is ``""``."""
        tree: dict[str, tuple[set[str], set[str]]] = defaultdict(lambda: (set(), set()))
        for file in self._members:
            folder, _, name = file.rpartition("/")
            tree[folder][1].add(name)
            while folder:
                folder, _, name = folder.rpartition("/")
                tree[folder][0].add(name)
        return dict(tree)

    def _scan(self, folder: str) -> tuple[Iterable[str], Iterable[str]]:
        return self._tree.get(folder, ((), ()))

    def _content(self, file: str) -> bytes:
        return self._archive.read(self._members[file])

    def has(self, name: str) -> bool:
        return name.removesuffix("/") in (self._tree if name.endswith("/") else self._members)

    def mark(self, file: str) -> int:
        return self._members[file].CRC

    checksum = mark


@contextmanager
def open_source(
    root: Path, *, what: str, marker: str, inner: Sequence[str], faults: Faults | None = None
) -> Iterator[Source]:
    """The folder or zip of a data set.

    Args:
        root: the folder with `marker`, a folder or zip that holds it under a name of `inner`, or a
            zip of the former.
        what: the data set, for messages.
        marker: the name of a file; of a folder if it ends with a slash.
        faults: where they are reported.

    Raises:
        InputError: `root` is missing, not readable, or has no `marker`.
    """
    expected = f"expected {marker} in it or in its folder {' or '.join(inner)}"
    archive = None
    with ExitStack() as stack:
        if os.path.isfile(root):
            try:
                archive = stack.enter_context(zipfile.ZipFile(root))
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
                message = f"{root}: not a whole zip archive ({error}), {expected}"
                raise InputError(message) from error
        elif not os.path.isdir(root):
            message = f"{root}: missing or not readable, expected {what} as a folder or a zip"
            raise InputError(message)
        for name in ("", *inner):
            place = root / name, what, faults
            source = ZipSource(archive, name, *place) if archive else FolderSource(*place)
            if source.has(marker):
                yield source
                return
        raise InputError(f"{root}: not {what}, {expected}")
