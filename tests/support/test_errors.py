"""What a notebook shows of a user's mistake and of Ctrl-C."""

from __future__ import annotations

import pytest
from IPython.core.interactiveshell import InteractiveShell

from cstn_lib.support.errors import InputError, Interrupted
from cstn_lib.training.engine import TrainingDivergedError


@pytest.mark.parametrize("kind", [InputError, Interrupted, TrainingDivergedError])
def test_a_notebook_shows_one_line(kind, capsys):
    shell = InteractiveShell()
    shell.user_ns["kind"] = kind
    shell.run_cell("def deep():\n    raise kind('photo.jpg: damaged')\ndeep()")
    out, err = capsys.readouterr()
    assert f"{out}{err}".strip().splitlines() == [f"{kind.__name__}: photo.jpg: damaged"]


def test_other_errors_keep_their_traceback(capsys):
    InteractiveShell().run_cell("1 / 0")
    assert "Traceback" in capsys.readouterr().out
