"""Progress bars: drawn on standard error at a terminal, one line of text in a notebook.

tqdm's own bar for notebooks is a widget, which is gone when a saved notebook is opened again, and
its bar for terminals leaves every state it went through in the saved output. Here a notebook holds
one line that is replaced in place, and that says in the end what was done and how long it took.
"""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm.std import tqdm


class Progress(tqdm):
    """`tqdm.tqdm` with the same arguments.

    At a terminal it disappears at its end. In a notebook it turns into a line of what was done and
    how long it took, ``predict birds-cub test: 19 steps in 00:06``. What takes less than a second
    leaves nothing.
    """

    # a second thread would refresh slow bars, but a notebook's outputs belong to the main thread
    monitor_interval = 0

    def __init__(self, *args: object, **options: object) -> None:
        self._in_notebook = _in_notebook()
        if self._in_notebook:
            options |= {"file": _Line(), "delay": 1, "mininterval": 0.3}
        super().__init__(*args, **{"unit": "step", **options}, leave=self._in_notebook)

    def close(self) -> None:
        if self._in_notebook and not self.disable:
            done = "{n_fmt}" if self.total in (None, self.n) else "{n_fmt} of {total_fmt}"
            unit = self.unit if self.unit_scale else f" {self.unit}s"
            self.bar_format = f"{{desc}}: {done}{unit} in {{elapsed}}{{postfix}}"
        super().close()


def message_stream() -> TextIO:
    """Where to tell a person what goes on; results of a command have standard output to themselves,
    and a notebook shows standard error as if something were wrong.
    """
    return sys.stdout if _in_notebook() else sys.stderr


def _in_notebook() -> bool:
    # IPython is not imported for the question: where it is not, this is no notebook
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


class _Line:
    """A file whose last line is shown, as an output of the running cell."""

    def __init__(self) -> None:
        self._output = None

    def write(self, text: str) -> None:
        line = text.strip()
        if not line:  # tqdm ends its line
            return
        from IPython.display import display

        bundle = {"text/plain": line}
        if self._output is None:
            self._output = display(bundle, raw=True, display_id=True)
        else:
            self._output.update(bundle, raw=True)

    def flush(self) -> None:
        """Outputs need none; tqdm asks for it."""
