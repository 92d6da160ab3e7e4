"""Progress bars and users' mistakes, as a saved notebook and a terminal show them."""

from __future__ import annotations

import io
import time

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from cstn_lib.support.errors import InputError
from cstn_lib.support.progress import Progress, message_stream

LONG, QUICK, STOPPED, BYTES, MISTAKE = (
    """
import time
from cstn_lib.support.progress import Progress, message_stream
with Progress(total=12, desc="long", unit="image") as bar:
    for _ in range(12):
        time.sleep(0.1)
        bar.update()
    bar.set_postfix_str("loss 0.5")
""",
    """
print("waiting", file=message_stream())
for _ in Progress(range(3), "quick"):
    pass
with Progress(total=2, desc="off", disable=True):
    time.sleep(1.1)
""",
    """
for done in Progress(range(20), "stopped"):
    time.sleep(0.1)
    if done == 15:
        break
""",
    """
with Progress(total=2e6, desc="archive.zip", unit="B", unit_scale=True) as bar:
    for _ in range(2):
        time.sleep(0.6)
        bar.update(1e6)
""",
    """
from cstn_lib.support.errors import InputError
raise InputError("profile 'qick': expected quick")
""",
)


@pytest.fixture(scope="module")
def outputs() -> list[list[nbformat.NotebookNode]]:
    """Of each of those cells, as they are saved."""
    cells = [nbformat.v4.new_code_cell(code) for code in (LONG, QUICK, STOPPED, BYTES, MISTAKE)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(CellExecutionError, match="InputError: profile 'qick': expected quick"):
        NotebookClient(notebook, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


def test_a_bar_leaves_one_line_of_what_was_done(outputs):
    (long,), (stopped,), (archive,) = outputs[0], outputs[2], outputs[3]
    for output in (long, stopped, archive):
        assert output.output_type == "display_data"
        assert list(output.data) == ["text/plain"]  # no widget, which would be lost
    assert long.data["text/plain"] == "long: 12 images in 00:01, loss 0.5"
    assert stopped.data["text/plain"].startswith("stopped: 15 of 20 steps in 00:0")
    assert archive.data["text/plain"] == "archive.zip: 2.00MB in 00:01"


def test_a_quick_bar_leaves_nothing_and_nothing_goes_to_standard_error(outputs):
    (message,) = outputs[1]
    assert (message.name, message.text) == ("stdout", "waiting\n")


def test_a_mistake_is_one_line_in_a_notebook(outputs):
    (error,) = outputs[4]
    assert error.output_type == "error"
    assert error.traceback == ["InputError: profile 'qick': expected quick"]


def test_a_mistake_is_an_ordinary_exception_elsewhere():
    with pytest.raises(ValueError, match="wrong") as caught:
        raise InputError("wrong")
    assert caught.traceback


def test_a_terminal_has_its_bar_and_no_trace_of_it(capsys):
    with Progress(total=2, desc="drawing", mininterval=0) as bar:
        bar.update(2)
        time.sleep(0.01)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "drawing:   0%" in shown.err
    assert shown.err.splitlines()[-1].strip() == ""  # wiped
    print("waiting", file=message_stream())
    assert capsys.readouterr().err == "waiting\n"


def test_a_bar_may_be_written_elsewhere():
    file = io.StringIO()
    assert list(Progress(range(3), file=file)) == [0, 1, 2]
    assert file.getvalue()
