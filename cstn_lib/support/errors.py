"""The one error a user can cause.

Every mistake that comes from outside (a file, a name, a value) is raised as `InputError` with a
message of one line that names the culprit and says what was expected. The command line prints that
line and exits with status 2; a notebook shows it in place of a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["InputError", "first_line", "unknown_name"]


class InputError(ValueError):
    """Input from outside the library is not usable; the message is one line for a person."""

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows: where in the library it was noticed helps nobody."""
        return [f"{type(self).__name__}: {self}"]


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not on a list, with the list."""
    return InputError(f"unknown {kind} {str(name)!r}: expected one of {', '.join(sorted(known))}")


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
