"""Annotation files read line by line; every message names the file and the line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import PurePosixPath

from cstn_lib.data.faults import Faults, quoted
from cstn_lib.data.sources import Source

__all__ = ["box_numbers", "is_safe", "keyed_rows", "rows"]

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


def box_numbers(here: str, values: Sequence[str], faults: Faults) -> list[float] | None:
    """Four numbers; a fault and None where one is not a finite number.

    Args:
        here: names the line.
    """
    numbers = []
    for value in values:
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        if not isfinite(number):
            faults.fault("unreadable line", f"{here}: {quoted(value)}, expected a number of pixels")
            return None
        numbers.append(number)
    return numbers


def is_safe(file: str) -> bool:
    """Whether a relative path stays below the folder it is relative to."""
    path = PurePosixPath(file)
    return (
        not path.is_absolute() and ".." not in path.parts and "\\" not in file and "\0" not in file
    )
