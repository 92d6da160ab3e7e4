"""Annotation files read line by line; every message names the file and the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.sources import Source
from cstn_lib.support.errors import InputError

__all__ = ["TextTable", "box_numbers"]

_SEPARATORS = {"\t": "tab", " ": "space", ",": "comma"}


@dataclass(frozen=True)
class TextTable:
    """A text file of lines with the same columns each.

    Attributes:
        source, file: where it is.
        names: what each column is, for messages.
        separator: between the columns; a value that holds one may be quoted.
        part_of: the data set, for the message where the file is missing.
    """

    source: Source
    file: str
    names: Sequence[str]
    separator: str
    part_of: str

    def where(self, line: int | None = None) -> str:
        """The file, and a line of it, as messages name it."""
        return self.source.where(self.file, line)

    def columns(self, faults: Faults) -> tuple[Sequence[int], list[list[str]]]:
        """The numbers of the lines, from 1, and one list of texts a column.

        A line with another number of columns is a fault and left out.
        """
        width = len(self.names)
        lines = [line for _, line in self.source.lines(self.file, self.part_of)]
        if all(line.count(self.separator) == width - 1 and '"' not in line for line in lines):
            # a million lists, one a line, would keep the garbage collector busy for seconds
            flat = self.separator.join(lines).split(self.separator) if lines else []
            return range(1, len(lines) + 1), [flat[place::width] for place in range(width)]
        numbers: list[int] = []
        columns: list[list[str]] = [[] for _ in self.names]
        for number, line in enumerate(lines, start=1):
            try:
                quotes = '"' in line and next(csv.reader([line], delimiter=self.separator))
                values = quotes or line.split(self.separator)
            except csv.Error:  # a carriage return beside a quote
                values = []
            if len(values) == width:
                numbers.append(number)
                for column, value in zip(columns, values, strict=True):
                    column.append(value)
            else:
                faults.fault(
                    "unreadable line",
                    f"{self.where(number)}: expected {width} {_SEPARATORS[self.separator]}-"
                    f"separated columns ({', '.join(self.names)}), found {len(values)}",
                )
        return numbers, columns

    def below_header(self, faults: Faults) -> Iterator[tuple[int, list[str]]]:
        """Number and texts of the lines after the first, which must be `names`.

        Raises:
            InputError: the header is another.
        """
        numbers, columns = self.columns(faults)
        lines = zip(numbers, map(list, zip(*columns, strict=True)), strict=True)
        number, header = next(lines, (1, []))
        if [name.strip() for name in header] != list(self.names):
            raise InputError(
                f"{self.where(number)}: {quoted(','.join(header))}, expected the header "
                f"{self.separator.join(self.names)}"
            )
        yield from lines

    def keyed(self, faults: Faults) -> dict[str, tuple[int, list[str]]]:
        """Line number and further columns by the first column, which names each thing once."""
        numbers, (keys, *columns) = self.columns(faults)
        return {
            key: (numbers[row], [column[row] for column in columns])
            for key, row in self.first_rows(numbers, keys, faults).items()
        }

    def first_rows(
        self, numbers: Sequence[int], keys: Sequence[str], faults: Faults
    ) -> dict[str, int]:
        """The row of each key of the first column; a key that comes again is a fault.

        Args:
            numbers: the lines that the keys are from.
        """
        found: dict[str, int] = {}
        for row, key in enumerate(keys):
            first = found.setdefault(key, row)
            if first != row:
                faults.fault(
                    "listed twice",
                    f"{self.where(numbers[row])}: {self.names[0]} {quoted(key)} again, expected "
                    f"once (it is on line {numbers[first]})",
                )
        return found


def box_numbers(
    source: Source, file: str, line: int | None, values: Sequence[str], faults: Faults
) -> list[float] | None:
    """The numbers of a box; a fault and None where one is not a finite number."""
    for value in values:
        if not _is_number(value):
            faults.fault(
                "unreadable line",
                f"{source.where(file, line)}: {quoted(value)}, expected a number of pixels",
            )
            return None
    return [float(value) for value in values]


def _is_number(text: str) -> bool:
    try:
        return isfinite(float(text))
    except ValueError:
        return False
