"""The one error a user can cause, and a user's Ctrl-C.

Every mistake that comes from outside (a file, a name, a value) is raised as `InputError` with a
message of one line that names the culprit and says what was expected. The command line prints that
line and exits with status 2. Work that Ctrl-C may stop half way says in `Interrupted` what is kept;
the command exits with status 130. A notebook shows both as one line, without a traceback.
"""

from __future__ import annotations

from collections.abc import Iterable


class _OneLine(BaseException):
    """An exception that a notebook shows as one line.

    Bytes of a file's name that are no UTF-8 are shown escaped: no notebook could keep them.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shown(message))

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython shows: where in the library it was noticed helps nobody."""
        return [f"{type(self).__name__}: {self}"]


class InputError(_OneLine, ValueError):
    """Input from outside the library is not usable; the message is one line for a person."""


class Interrupted(_OneLine, KeyboardInterrupt):
    """Ctrl-C; the message is one line that says what is kept and how to go on."""


def unknown_name(kind: str, name: object, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that is not on a list, with the list."""
    return InputError(f"unknown {kind} {str(name)!r}: expected one of {', '.join(sorted(known))}")


def is_unicode(name: str) -> bool:
    """Whether a file's name can be written to a text file, as names on some disks cannot."""
    return name.isascii() or _shown(name) == name


def first_line(error: BaseException) -> str:
    """What another library's error says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _shown(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
