"""Annotation files read line by line; every message names the file and the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from math import isfinite

from cstn_lib.data.faults import Faults, quoted
from cstn_lib.data.sources import Source

__all__ = ["box_numbers", "columns_of", "first_rows", "is_safe", "keyed_rows", "rows"]

_SEPARATORS = {"\t": "tab", " ": "space", ",": "comma"}


def rows(
    source: Source,
    file: str,
    columns: Sequence[str],
    *,
    separator: str,
    part_of: str,
    faults: Faults,
) -> Iterator[tuple[int, list[str]]]:
    """The lines of a text file without header, as the values of their columns.

    Args:
        columns: what each is, for messages.
        part_of: the data set, for the message where the file is missing.

    Yields:
        Line number, from 1, and one text a column. A line with another number of columns is a
        fault and left out.
    """
    expected = len(columns)
    for number, line in source.lines(file, part_of):
        quotes = separator == "," and '"' in line
        values = next(csv.reader([line])) if quotes else line.split(separator)
        if len(values) == expected:
            yield number, values
        else:
            faults.fault(
                "unreadable line",
                f"{source.where(file, number)}: expected {expected} {_SEPARATORS[separator]}-"
                f"separated columns ({', '.join(columns)}), found {len(values)}",
            )


def keyed_rows(
    source: Source,
    file: str,
    columns: Sequence[str],
    *,
    separator: str,
    part_of: str,
    faults: Faults,
) -> dict[str, tuple[int, list[str]]]:
    """As `rows`, where the first column names each thing once.

    Returns:
        Line number and further columns by the first one. A second line of the same thing is a fault
        and left out.
    """
    found: dict[str, tuple[int, list[str]]] = {}
    lines = rows(source, file, columns, separator=separator, part_of=part_of, faults=faults)
    for number, (key, *values) in lines:
        if key in found:
            faults.fault(
                "listed twice",
                f"{source.where(file, number)}: {columns[0]} {quoted(key)} again, expected once "
                f"(it is on line {found[key][0]})",
            )
        else:
            found[key] = number, values
    return found


def columns_of(
    source: Source,
    file: str,
    columns: Sequence[str],
    *,
    separator: str,
    part_of: str,
    faults: Faults,
) -> tuple[Sequence[int], list[list[str]]]:
    """As `rows`, column by column: for files of a million lines, several times as fast.

    Returns:
        The line numbers, and one list of texts a column.
    """
    lines = [line for _, line in source.lines(file, part_of)]
    width = len(columns)
    if all(line.count(separator) == width - 1 and '"' not in line for line in lines):
        # one flat list: a list a line would keep the garbage collector busy
        flat = separator.join(lines).split(separator) if lines else []
        return range(1, len(lines) + 1), [flat[place::width] for place in range(width)]
    found = list(rows(source, file, columns, separator=separator, part_of=part_of, faults=faults))
    numbers = [number for number, _ in found]
    return numbers, [[values[place] for _, values in found] for place in range(width)]


def first_rows(
    source: Source, file: str, numbers: Sequence[int], keys: Sequence[str], faults: Faults
) -> dict[str, int]:
    """The row of each key; a fault for a key that comes again.

    Args:
        numbers: the lines of the file that the keys are from.
    """
    found: dict[str, int] = {}
    for row, key in enumerate(keys):
        first = found.setdefault(key, row)
        if first != row:
            faults.fault(
                "listed twice",
                f"{source.where(file, numbers[row])}: {quoted(key)} again, expected once "
                f"(it is on line {numbers[first]})",
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


def is_safe(file: str) -> bool:
    """Whether a relative path stays below the folder it is relative to."""
    return not (
        file.startswith("/") or "\\" in file or "\0" in file or ".." in file.split("/") or not file
    )
