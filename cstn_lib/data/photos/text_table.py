"""Annotation files read line by line; every message names the file and the line."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite, nan
from typing import NamedTuple

from cstn_lib.data.photos.faults import quoted
from cstn_lib.data.photos.sources import Source

_SEPARATORS = {"\t": "tab", " ": "space", ",": "comma"}


class Line(NamedTuple):
    """A line of an annotation file.

    Attributes:
        source, file, number: where it is; lines are counted from 1, None is the whole file.
        values: its columns.
    """

    source: Source
    file: str
    number: int | None
    values: Sequence[str]

    @property
    def where(self) -> str:
        return self.source.where(self.file, self.number)

    def fault(self, kind: str, message: str) -> None:
        self.source.fault(kind, message, self.file, self.number)

    def numbers(self, count: int = 4) -> list[float] | None:
        """Those of its last columns, of a box; a fault and None where one is not finite."""
        numbers = []
        for value in self.values[-count:]:
            try:
                numbers.append(float(value))
            except ValueError:
                numbers.append(nan)
            if not isfinite(numbers[-1]):
                self.fault("unreadable line", f"{quoted(value)}, expected a number of pixels")
                return None
        return numbers


def text_lines(source: Source, file: str) -> Iterator[Line]:
    """The lines of a file that is no table, each one value; errors as for `Source.lines`."""
    for number, text in enumerate(source.lines(file), start=1):
        yield Line(source, file, number, [text])


def table_lines(
    source: Source, file: str, columns: Sequence[str], separator: str
) -> Iterator[Line]:
    """The lines of a table; one with another number of columns is a fault and left out.

    Args:
        columns: what each column is, for messages.
        separator: between the columns; a value that holds one may be quoted.
    """
    for line in text_lines(source, file):
        try:
            values = next(csv.reader(line.values, delimiter=separator)) or [""]
        except csv.Error:  # a carriage return inside
            values = []
        if len(values) == len(columns):
            yield line._replace(values=values)
        else:
            message = (
                f"expected {len(columns)} {_SEPARATORS[separator]}-separated columns "
                f"({', '.join(columns)}), found {len(values)}"
            )
            line.fault("unreadable line", message)


def keyed(what: str, lines: Iterable[Line]) -> dict[str, Line]:
    """The line of each value of the first column, which is a `what`; one that comes again is a
    fault.
    """
    found: dict[str, Line] = {}
    for line in lines:
        first = found.setdefault(line.values[0], line)
        if first is not line:
            message = f"{what} {quoted(line.values[0])} again, expected once"
            line.fault("listed twice", f"{message} (it is on line {first.number})")
    return found
