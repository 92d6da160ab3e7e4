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

    def fault(self, kind: str, message: str, line: int | None = None) -> None:
        self.source.fault(kind, message, self.file, line)

    def columns(self) -> tuple[Sequence[int], list[list[str]]]:
        """The numbers of the lines, from 1, and one list of texts per column.

        A line with another number of columns is a fault and left out.
        """
        width = len(self.names)
        lines = self.source.lines(self.file)
        if all(line.count(self.separator) == width - 1 and '"' not in line for line in lines):
            # a million lists, one per line, would keep the garbage collector busy for seconds
            flat = self.separator.join(lines).split(self.separator) if lines else []
            return range(1, len(lines) + 1), [flat[place::width] for place in range(width)]
        found: dict[int, list[str]] = {}
        for number, line in enumerate(lines, start=1):
            try:
                quotes = '"' in line and next(csv.reader([line], delimiter=self.separator))
                values = quotes or line.split(self.separator)
            except csv.Error:  # a carriage return beside a quote
                values = []
            if len(values) == width:
                found[number] = values
            else:
                message = (
                    f"expected {width} {_SEPARATORS[self.separator]}-separated columns "
                    f"({', '.join(self.names)}), found {len(values)}"
                )
                self.fault("unreadable line", message, number)
        return list(found), [[values[place] for values in found.values()] for place in range(width)]

    def below_header(self) -> Iterator[Line]:
        """The lines after the first, which must be `names`.

        Raises:
            InputError: the header is another.
        """
        numbers, columns = self.columns()
        rows = zip(numbers, map(list, zip(*columns, strict=True)), strict=True)
        number, header = next(rows, (1, []))
        if [name.strip() for name in header] != list(self.names):
            raise InputError(
                f"{self.source.where(self.file, number)}: {quoted(','.join(header))}, expected the "
                f"header {self.separator.join(self.names)}"
            )
        for number, values in rows:
            yield Line(self.source, self.file, number, values)

    def keyed(self) -> dict[str, Line]:
        """The lines by the first column; one that comes again is a fault."""
        numbers, columns = self.columns()
        return {
            key: Line(self.source, self.file, numbers[row], [column[row] for column in columns])
            for key, row in self.first_rows(numbers, columns[0]).items()
        }

    def first_rows(self, numbers: Sequence[int], keys: Sequence[str]) -> dict[str, int]:
        """The row of each key of the first column; a key that comes again is a fault.

        Args:
            numbers: the lines that the keys are from.
        """
        found: dict[str, int] = {}
        for row, key in enumerate(keys):
            first = found.setdefault(key, row)
            if first != row:
                message = f"{self.names[0]} {quoted(key)} again, expected once"
                there = f"(it is on line {numbers[first]})"
                self.fault("listed twice", f"{message} {there}", numbers[row])
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
