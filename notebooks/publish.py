"""The notebooks as they are committed: link them to each other, execute them, check them.

python notebooks/publish.py link              previous, contents and next at both ends of each
python notebooks/publish.py execute           run all in the cpu profile, in place
python notebooks/publish.py execute 07_*      or some
ANNOTATIONS=FOLDER python ...                 with the public annotations, for notebooks 12 and 13
PHOTOGRAPHS=ZIP python ...                    with Imagenette, for notebook 17
python notebooks/publish.py check             name whatever must not be committed
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
LONGEST_CELL = 25  # lines
LARGEST_PICTURE = 150 * 1024  # bytes
WIDGET = "application/vnd.jupyter.widget-view+json"
INJECTED = "injected-parameters"
GIVEN = {
    "1[23]_*": ("ANNOTATIONS", {}),
    "17_*": ("PHOTOGRAPHS", {"dataset": "imagenette"}),
}
"""Notebooks that read real data: by their pattern, the environment variable that says where it is
(which stays out of what is committed), and what else they are given with it."""


def paths(pattern: str = "*") -> list[Path]:
    """The notebooks in reading order."""
    return sorted(path for path in FOLDER.glob("[0-9]*.ipynb") if path.match(pattern))


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


# Links


def linked(path: Path) -> NotebookNode:
    """A notebook with a line of links, kept current, above its title and below everything."""
    notebook, order = read(path), paths()
    at = order.index(path)
    before = order[at - 1] if at else None
    after = order[at + 1] if at + 1 < len(order) else None
    steps = [
        f"[← {_title(before)}]({before.name})" if before else "",
        f"[Contents]({order[0].name})" if at else "[README](../README.md)",
        f"[{_title(after)} →]({after.name})" if after else "",
    ]
    line = " · ".join(step for step in steps if step)
    inner = [cell for cell in notebook.cells if "navigation" not in cell.metadata.get("tags", [])]
    top, end = (
        nbformat.v4.new_markdown_cell(
            line, id=f"navigation-{place}", metadata={"tags": ["navigation"]}
        )
        for place in ("top", "end")
    )
    notebook.cells = [top, *inner, end]
    return notebook


def _title(path: Path) -> str:
    """``07 Table I`` of ``# 07 Table I: what the transform adds``."""
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    return re.search(r"^# ([^:\n]+)", text, re.MULTILINE).group(1)


# Execution


def executed(path: Path, **parameters: object) -> NotebookNode:
    """A notebook run from top to bottom, as it is to be committed."""
    return published(
        papermill.execute_notebook(
            path, None, parameters, kernel_name="python3", progress_bar=False
        )
    )


def published(notebook: NotebookNode) -> NotebookNode:
    """What papermill has made of a notebook, without what belongs to the one execution.

    The readers' own parameters stay, without those that were given.
    """
    for name in ("papermill", "widgets"):  # paths and times; widgets live only with a kernel
        notebook.metadata.pop(name, None)
    notebook.cells = [c for c in notebook.cells if INJECTED not in c.metadata.get("tags", [])]
    for cell in notebook.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        for item in (cell, *cell.outputs):
            if "execution_count" in item:
                item.execution_count = number
        for output in cell.outputs:
            if "text/html" in output.get("data", {}):  # the still picture beside a widget stays
                output.data.pop(WIDGET, None)
    return notebook


# Check


def faults(path: Path, notebook: NotebookNode) -> list[str]:
    """What must not be committed, one line each: where, and what was expected."""
    try:
        nbformat.validate(notebook)
    except nbformat.ValidationError as error:
        return [f"not a valid notebook: {str(error).splitlines()[0]}"]
    found = []
    for number, cell in enumerate(notebook.cells):
        found += [f"cell {number}: {fault}" for fault in _faults_of_cell(path, cell)]
    return found


def _faults_of_cell(path: Path, cell: NotebookNode) -> Iterator[str]:
    if cell.cell_type == "markdown":
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", cell.source):
            if "://" not in target and not (path.parent / target).exists():
                yield f"a link to {target}, expected a file that exists"
        return
    lines = len(cell.source.splitlines())
    if lines > LONGEST_CELL:
        yield f"{lines} lines of code, expected at most {LONGEST_CELL}"
    for output in cell.get("outputs", []):
        if output.output_type == "error":
            yield f"an error: {output.ename}"
        if output.get("name") == "stderr":
            yield f"on standard error: {output.text.splitlines()[0]}"
        data = output.get("data", {})
        if WIDGET in data:
            yield "a widget, expected a picture: widgets live only with a kernel"
        if any(kind.startswith("image/") for kind in data):
            yield "a picture without a text, expected one of cstn_lib.plots"
        for picture in re.findall(r"<img[^>]*>", data.get("text/html", "")):
            size = len(picture) * 3 // 4  # of base64
            if size > LARGEST_PICTURE:
                yield f"a picture of {size} bytes, expected at most {LARGEST_PICTURE}"
            if not re.search(r'alt="[^"]+"', picture):
                yield "a picture without a text, expected alt="


def main(task: str, pattern: str = "*") -> int:
    """The exit status: 1 where something was found."""
    status = 0
    for path in paths(pattern):
        if task == "execute":
            print(path, flush=True)
            given = {}
            for some, (variable, others) in GIVEN.items():
                if path.match(some) and variable in os.environ:
                    given = {"data_root": os.environ[variable], **others}
            notebook = executed(path, profile="cpu", **given)
        else:
            notebook = linked(path) if task == "link" else read(path)
        found = faults(path, notebook)
        if task == "check" and notebook != linked(path):
            found.append("old links, expected those of python notebooks/publish.py link")
        for fault in found:
            print(f"{path}: {fault}", file=sys.stderr)
        if found:
            status = 1  # and the file stays as it is
        elif task != "check":
            nbformat.write(notebook, path)
    return status


if __name__ == "__main__":
    if sys.argv[1:2] not in (["link"], ["execute"], ["check"]):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
