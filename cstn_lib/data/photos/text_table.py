"""Annotation files read line by line; every message names the file and the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple

from cstn_lib.data.photos.faults import quoted
from cstn_lib.data.photos.sources import Source
from cstn_lib.support.errors import InputError

_SEPARATORS = {"\t": "tab", " ": "space", ",": "comma"}


class Line(NamedTuple):
    """A line of an annotation file.

    Attributes:
        source, file, number: where it is; lines are counted from 1.
        values: its columns.
    """

    source: Source
    file: str
    number: int
    values: list[str]

    @property
    def where(self) -> str:
        return self.source.where(self.file, self.number)

    def fault(self, kind: str, message: str) -> None:
        self.source.fault(kind, message, self.file, self.number)

    def box(self, values: Sequence[str]) -> list[float] | None:
        return box_numbers(self.source, values, self.file, self.number)


def text_lines(source: Source, file: str) -> Iterator[Line]:
    """The lines of a file that is no table, each one value; errors as for `Source.lines`."""
    for number, text in enumerate(source.lines(file), start=1):
        yield Line(source, file, number, [text])


@dataclass(frozen=True)
class TextTable:
    """A text file of lines with the same columns each.

    Attributes:
        source, file: where it is.
        names: what each column is, for messages; the first one names each thing once.
        separator: between the columns; a value that holds one may be quoted.
    """

    source: Source
    file: str
    names: Sequence[str]
    separator: str

    def lines(self) -> Iterator[Line]:
        """Its lines; one with another number of columns is a fault and left out."""
        width = len(self.names)
        for line in text_lines(self.source, self.file):
            text = line.values[0]
            try:
                quotes = '"' in text and next(csv.reader([text], delimiter=self.separator))
                values = quotes or text.split(self.separator)
            except csv.Error:  # a carriage return beside a quote
                values = []
            if len(values) == width:
                yield line._replace(values=values)
            else:
                message = (
                    f"expected {width} {_SEPARATORS[self.separator]}-separated columns "
                    f"({', '.join(self.names)}), found {len(values)}"
                )
                line.fault("unreadable line", message)

    def below_header(self) -> Iterator[Line]:
        """The lines after the first, which must be `names`.

        Raises:
            InputError: the header is another.
        """
        lines = self.lines()
        header = next(lines, Line(self.source, self.file, 1, []))
        if [name.strip() for name in header.values] != list(self.names):
            raise InputError(
                f"{header.where}: {quoted(','.join(header.values))}, expected the header "
                f"{self.separator.join(self.names)}"
            )
        return lines

    def keyed(self) -> dict[str, Line]:
        """The line of each value of the first column; a value that comes again is a fault."""
        found: dict[str, Line] = {}
        for line in self.lines():
            first = found.setdefault(line.values[0], line)
            if first is not line:
                message = f"{self.names[0]} {quoted(line.values[0])} again, expected once"
                line.fault("listed twice", f"{message} (it is on line {first.number})")
        return found


def box_numbers(
    source: Source, values: Sequence[str], file: str, line: int | None = None
) -> list[float] | None:
    """The numbers of a box; a fault and None where one is not a finite number."""
    for value in values:
        try:
            known = isfinite(float(value))
        except ValueError:
            known = False
        if not known:
            message = f"{quoted(value)}, expected a number of pixels"
            source.fault("unreadable line", message, file, line)
            return None
    return [float(value) for value in values]
