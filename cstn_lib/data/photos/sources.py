"""Where the files of a data set lie: a folder or a zip, read the same way.

File names are relative to the source's top, with slashes, so that readers and their messages need
not know which of the two it is.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from cstn_lib.support.errors import InputError

__all__ = ["FolderSource", "Source", "ZipSource", "open_source"]


class Source(ABC):
    """The files of a data set.

    Attributes:
        top: the folder that file names are relative to; inside a zip, for messages.
    """

    top: Path

    @abstractmethod
    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder, sorted; none where it is not a folder."""

    @abstractmethod
    def files(self, folder: str) -> dict[str, int]:
        """Names of the files in a folder, sorted, each with a number that tells its content.

        In a zip that is the checksum, on disk the size: another photo of the same name and the
        same size goes unnoticed there.
        """

    @abstractmethod
    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted; quicker than `files` for a million."""

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
        """The content of a UTF-8 file; arguments and errors as for `lines`."""
        if not self.has(file):
            raise InputError(f"{self.where(file)}: missing, expected as part of {part_of}")
        data = self.read(file)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            number = data.count(b"\n", 0, error.start) + 1
            raise InputError(f"{self.where(file, number)}: not UTF-8 text") from error


class FolderSource(Source):
    """Files on disk."""

    def __init__(self, top: Path) -> None:
        self.top = top

    def folders(self, folder: str) -> list[str]:
        return sorted(entry.name for entry in self._scan(folder) if entry.is_dir())

    def files(self, folder: str) -> dict[str, int]:
        # a link to nowhere is no file and has no size
        entries = [entry for entry in self._scan(folder) if entry.is_file()]
        return {entry.name: entry.stat().st_size for entry in sorted(entries, key=_name)}

    def names(self, folder: str) -> list[str]:
        return sorted(entry.name for entry in self._scan(folder) if entry.is_file())

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

    def _scan(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.top / folder) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._unreadable(folder, error) from error

    def _unreadable(self, file: str, error: Exception) -> InputError:
        if isinstance(error, FileNotFoundError):
            return InputError(f"{self.where(file)}: missing")
        reason = getattr(error, "strerror", None) or str(error)
        return InputError(f"{self.where(file)}: not readable ({reason})")


class ZipSource(Source):
    """Files in a zip archive, below a folder of it (``""`` or with a last slash)."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, prefix: str) -> None:
        self.top = path / prefix
        self._archive = archive
        self._members = {
            member.filename.removeprefix(prefix): member
            for member in archive.infolist()
            if member.filename.startswith(prefix) and not member.is_dir()
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

    def folders(self, folder: str) -> list[str]:
        return sorted(self._tree.get(folder, (set(), {}))[0])

    def files(self, folder: str) -> dict[str, int]:
        return self._tree.get(folder, (set(), {}))[1]

    def names(self, folder: str) -> list[str]:
        return list(self.files(folder))

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
            prefixes = [
                prefix
                for prefix in ("", f"{inner}/")
                if any(name.startswith(f"{prefix}{marker}") for name in archive.namelist())
            ]
            if not prefixes:
                raise InputError(f"{root}: not {what}, {expected}")
            yield ZipSource(root, archive, prefixes[0])
    else:
        raise InputError(f"{root}: missing or not readable, expected {what} as a folder or a zip")


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
