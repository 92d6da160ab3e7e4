"""What a reader does with a fault in the data: stop at the first, or list them all.

A reader reports every fault and every oddity to a `Faults`. Opening a split stops at the first
fault, in one line; ``cstn data check`` goes on with the next row and counts.
"""

from __future__ import annotations

import warnings
from collections import Counter

from cstn_lib.support.errors import InputError


class Faults:
    """Stops at the first fault or counts them; remembers the oddities.

    Splits share folders and files: what two of them report with the same words counts once.

    Args:
        stop: whether a fault ends the reading.

    Attributes:
        counts: how many faults and oddities of each kind.
        first: the message of the first of each kind.
        odd: the kinds that are oddities.
    """

    def __init__(self, *, stop: bool = True) -> None:
        self.stop = stop
        self.counts: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        self.odd: set[str] = set()
        self._known: set[str] = set()

    @property
    def clean(self) -> bool:
        """No fault, whatever the oddities."""
        return set(self.counts) <= self.odd

    def fault(self, kind: str, message: str) -> None:
        """Something that makes a photo unusable.

        Args:
            kind: e.g. ``"missing image"``.
            message: one line: file (and line), what is wrong, what was expected.

        Raises:
            InputError: a fault ends the reading.
        """
        if self.stop:
            raise InputError(message)
        self._count(kind, message)

    def oddity(self, kind: str, message: str) -> None:
        """Something that was put right, such as a box that was clipped."""
        self.odd.add(kind)
        self._count(kind, message)

    def _count(self, kind: str, message: str) -> None:
        if message not in self._known:
            self._known.add(message)
            self.counts[kind] += 1
            self.first.setdefault(kind, message)

    def warn(self) -> None:
        """Say once, as a Python warning, what was put right."""
        for kind in sorted(self.odd):
            message = f"{kind}: {self.counts[kind]}, the first is {self.first[kind]}"
            warnings.warn(message, stacklevel=3)


def quoted(text: str) -> str:
    """A piece of a file as messages show it, cut to 40 characters."""
    return repr(text if len(text) <= 40 else text[:39] + "…")
