"""Where the files of a data set lie: a folder or a zip, read the same way.

File names are relative to the source's top, with slashes, so that readers and their messages need
not know which of the two it is.
"""

from __future__ import annotations

import codecs
import io
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from cstn_lib.data.photos.faults import Faults
from cstn_lib.data.photos.file_names import PHOTO_SUFFIXES, inner_path, is_leftover, is_photo
from cstn_lib.support.errors import InputError, is_unicode

__all__ = ["FolderSource", "Source", "ZipSource", "open_source"]


class Source(ABC):
    """The files of a data set, but for what is hidden or made by a machine.

    Attributes:
        top: the folder that file names are relative to; inside a zip, for messages.
        passed_over: what was met of the latter, by name.
    """

    def __init__(self, top: Path) -> None:
        self.top = top
        self.passed_over: set[str] = set()

    @abstractmethod
    def _scan(self, folder: str) -> tuple[Iterable[str], Iterable[str]]:
        """Names of the folders and of the files in a folder; none where it is not a folder."""

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

    def photos(self, folder: str, faults: Faults, *, folders_too: bool = False) -> list[str]:
        """Names of the photos in a folder; order and errors as for `folders`.

        Whatever else lies there is an oddity.

        Args:
            folders_too: folders are none, there may be photos in them.
        """
        folders, names = self._list(folder)
        for name in [] if folders_too else folders:
            faults.oddity(
                "folder inside a class, passed over",
                f"{self.where(f'{folder}/{name}')}: expected the photos in {self.where(folder)}",
            )
        photos = [name for name in names if is_photo(name)]
        for name in sorted(set(names).difference(photos)):
            faults.oddity(
                "not a kind of photo that is read, passed over",
                f"{self.where(f'{folder}/{name}')}: expected {_KINDS}",
            )
        return photos

    def why_missing(self, file: str) -> str:
        """What is wrong with a photo that the annotations name and `photos` does not."""
        if not self.has(file):
            return f"no such image, expected {self.where(file)}"
        if not is_photo(file):
            return f"{self.where(file)} is of a kind that is not read, expected {_KINDS}"
        return f"{self.where(file)} is hidden or in no class's folder, expected directly in one"

    @abstractmethod
    def files(self, folder: str) -> dict[str, int]:
        """As `names`, each with a number that tells its content.

        In a zip that is the checksum, on disk the size: another photo of the same name and the
        same size goes unnoticed there. For a million files `names` is quicker.
        """

    @abstractmethod
    def open(self, file: str) -> BinaryIO:
        """A file, to be read in part.

        Raises:
            InputError: it is missing or not readable.
        """

    @abstractmethod
    def read(self, file: str) -> bytes:
        """The content of a file.

        Raises:
            InputError: it is missing or not readable.
        """

    @abstractmethod
    def has(self, file: str) -> bool:
        """Whether there is such a file."""

    def checksum(self, file: str) -> int:
        """CRC-32 of the content of a file."""
        return zlib.crc32(self.read(file))

    def where(self, file: str, line: int | None = None) -> str:
        """A file, and a line of it, as messages name it."""
        return os.path.join(self._shown_top, file) + (f", line {line}" if line else "")

    @cached_property
    def _shown_top(self) -> str:
        return str(self.top)

    def lines(self, file: str, part_of: str) -> Iterator[tuple[int, str]]:
        """Number, from 1, and text of the lines of a UTF-8 file.

        Args:
            part_of: what the file belongs to, for the message where it is missing.

        Raises:
            InputError: the file is missing, not readable or not UTF-8.
        """
        text = self.text(file, part_of)
        if text.strip():
            lines = text.rstrip("\r\n").split("\n")
            yield from enumerate((line.rstrip("\r") for line in lines), start=1)

    def text(self, file: str, part_of: str) -> str:
        """The content of a UTF-8 file, with or without a byte-order mark.

        Arguments and errors as for `lines`.
        """
        if not self.has(file):
            raise InputError(f"{self.where(file)}: missing, expected as part of {part_of}")
        data = self.read(file).removeprefix(codecs.BOM_UTF8)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            raise InputError(f"{self.where(file, number)}: not UTF-8 text") from error


class FolderSource(Source):
    """Files on disk."""

    def files(self, folder: str) -> dict[str, int]:
        place = os.path.join(self.top, folder)
        return {name: os.path.getsize(os.path.join(place, name)) for name in self.names(folder)}

    def open(self, file: str) -> BinaryIO:
        try:
            return open(self.top / file, "rb")
        except (OSError, ValueError) as error:
            raise self._unreadable(file, error) from error

    def read(self, file: str) -> bytes:
        try:
            with self.open(file) as opened:
                return opened.read()
        except OSError as error:
            raise self._unreadable(file, error) from error

    def has(self, file: str) -> bool:
        # os.path answers no, where pathlib raises, for a path that may not be looked at
        return os.path.isfile(self.top / file)

    def dates(self, folder: str, depth: int) -> list[tuple[str, str, int]]:
        """The folders down to a depth, with the time at which a file was last added or removed.

        Instead of the sizes of a million files. The absolute place of the folder is part of it,
        since a copy may keep its times.
        """
        if not os.path.isdir(self.top / folder):
            return []
        found = [(str(self.top.resolve()), folder, os.stat(self.top / folder).st_mtime_ns)]
        for name in self.folders(folder) if depth else ():
            found += self.dates(f"{folder}/{name}", depth - 1)
        return found

    def _scan(self, folder: str) -> tuple[list[str], list[str]]:
        folders, files = [], []
        try:
            with os.scandir(self.top / folder) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders.append(entry.name)
                    elif entry.is_file():  # a link to nowhere is none
                        files.append(entry.name)
            return folders, files
        except (FileNotFoundError, NotADirectoryError):
            return [], []
        except OSError as error:
            raise self._unreadable(folder, error) from error

    def _unreadable(self, file: str, error: Exception) -> InputError:
        if isinstance(error, FileNotFoundError):
            return InputError(f"{self.where(file)}: missing")
        reason = getattr(error, "strerror", None) or str(error)
        return InputError(f"{self.where(file)}: not readable ({reason})")


class ZipSource(Source):
    """Files in a zip archive, below a folder of it (``""`` or with a last slash)."""

    def __init__(
        self,
        path: Path,
        archive: zipfile.ZipFile,
        members: Mapping[str, zipfile.ZipInfo],
        prefix: str,
    ) -> None:
        super().__init__(path / prefix)
        self._archive = archive
        self._members = {
            name.removeprefix(prefix): member
            for name, member in members.items()
            if name.startswith(prefix)
        }

    @cached_property
    def _tree(self) -> dict[str, tuple[set[str], dict[str, int]]]:
        """The folders and files in each folder; the top is ``""``."""
        tree: dict[str, tuple[set[str], dict[str, int]]] = {}
        for file, member in sorted(self._members.items()):
            folder, _, name = file.rpartition("/")
            tree.setdefault(folder, (set(), {}))[1][name] = member.CRC
            while folder:
                folder, _, name = folder.rpartition("/")
                tree.setdefault(folder, (set(), {}))[0].add(name)
        return tree

    def _scan(self, folder: str) -> tuple[Iterable[str], Iterable[str]]:
        return self._tree.get(folder, (set(), {}))

    def files(self, folder: str) -> dict[str, int]:
        return {name: self._tree[folder][1][name] for name in self.names(folder)}

    def open(self, file: str) -> BinaryIO:
        return io.BytesIO(self.read(file))

    def read(self, file: str) -> bytes:
        try:
            return self._archive.read(self._members[file])
        except KeyError as error:
            raise InputError(f"{self.where(file)}: missing in the zip") from error
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
            raise InputError(f"{self.where(file)}: damaged in the zip ({error})") from error

    def has(self, file: str) -> bool:
        return file in self._members

    def checksum(self, file: str) -> int:
        return self._members[file].CRC


@contextmanager
def open_source(root: Path, *, what: str, marker: str, inner: str) -> Iterator[Source]:
    """The folder or zip of a data set.

    Args:
        root: the folder with `marker`, a folder or zip that holds it as `inner`, or a zip of the
            former.
        what: the data set, for messages.
        marker: the name of a file; of a folder if it ends with a slash.

    Raises:
        InputError: `root` is missing, not readable, or has no `marker`.
    """
    expected = f"expected {marker} in it or in its folder {inner}"
    if os.path.isdir(root):
        known = os.path.isdir if marker.endswith("/") else os.path.isfile
        tops = [top for top in (root, root / inner) if known(top / marker)]
        if not tops:
            raise InputError(f"{root}: not {what}, {expected}")
        yield FolderSource(tops[0])
    elif os.path.isfile(root):
        try:
            archive = zipfile.ZipFile(root)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{root}: not a whole zip archive ({error}), {expected}") from error
        with archive:
            members = _members(archive)
            prefixes = [
                prefix
                for prefix in ("", f"{inner}/")
                if any(name.startswith(f"{prefix}{marker}") for name in members)
            ]
            if not prefixes:
                raise InputError(f"{root}: not {what}, {expected}")
            yield ZipSource(root, archive, members, prefixes[0])
    else:
        raise InputError(f"{root}: missing or not readable, expected {what} as a folder or a zip")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The files of a zip, by names with slashes; nothing is ever unpacked by them."""
    return {
        inner_path(member.filename): member
        for member in archive.infolist()
        if not member.filename.endswith(("/", "\\"))
    }


_KINDS = ", ".join(PHOTO_SUFFIXES)
