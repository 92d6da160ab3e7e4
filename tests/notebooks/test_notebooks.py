"""The notebooks: fit to be committed, and run from top to bottom in the smoke profile."""

from __future__ import annotations

import ast
import builtins
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import nbformat
import numpy as np
import pandas as pd
import papermill
import publish
import pytest
from miniatures import make_folder

from cstn_lib import cli
from cstn_lib.evaluation.boxes import box_area
from cstn_lib.evaluation.metrics import hits
from cstn_lib.reproduction.areas import HOW_TO_GET
from cstn_lib.reproduction.batch import needed_experiments, reproduce
from cstn_lib.reproduction.experiments import make_experiment
from cstn_lib.reproduction.results import NOTEBOOKS, RESULTS
from cstn_lib.reproduction.runs import RunStore
from cstn_lib.reproduction.tables import with_intervals

FOLDER = publish.FOLDER
FOUND = [path.stem for path in publish.paths()]
PARAMETERS = {
    "dataset": "str",
    "profile": "str",
    "device": "str",
    "seeds": "int",
    "data_root": "str",
    "runs_dir": "str",
    "figures_dir": "str",
}

pytestmark = pytest.mark.notebooks
each_notebook = pytest.mark.parametrize("name", FOUND)


def read(name: str) -> nbformat.NotebookNode:
    return publish.read(FOLDER / f"{name}.ipynb")


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def outputs(name: str) -> Iterator[nbformat.NotebookNode]:
    for cell in code_cells(name):
        yield from cell.outputs


def test_the_list_is_the_folder():
    assert list(NOTEBOOKS) == FOUND


# As committed


@each_notebook
def test_nothing_that_must_not_be_committed(name):
    path = FOLDER / f"{name}.ipynb"
    assert publish.faults(path, read(name)) == []
    assert publish.linked(path) == read(name)


def test_links_lead_through_all_notebooks_and_back():
    ways = [re.findall(r"\]\(([^)]+)\)", read(name).cells[0].source) for name in FOUND]
    files = [f"{name}.ipynb" for name in FOUND]
    assert ways[0] == ["../README.md", files[1]]
    assert ways[-1] == [files[-2], files[0]]
    for at in range(1, len(files) - 1):
        assert ways[at] == [files[at - 1], files[0], files[at + 1]]


PICTURE = '<img alt="{alt}" src="data:image/png;base64,{data}">'


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda cell: cell.update(source="x = 1\n" * 26), "26 lines of code, expected at most 25"),
        (lambda cell: cell.update(cell_type="markdown", source="[a](none.py)"), "link to none.py"),
        (dict(output_type="error", ename="E", evalue="", traceback=[]), "an error: E"),
        (dict(output_type="stream", name="stderr", text="oh\nno"), "on standard error: oh"),
        ({publish.WIDGET: {}}, "a widget"),
        ({"image/png": "AAAA"}, "a picture without a text"),
        ({"text/html": PICTURE.format(alt="", data="AAAA")}, "a picture without a text"),
        ({"text/html": PICTURE.format(alt="a", data="A" * 210_000)}, "expected at most 153600"),
        ({"text/html": PICTURE.format(alt="a plot", data="A" * 200_000)}, None),
    ],
)
def test_what_must_not_be_committed_is_named(change, said):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")])
    (cell,) = notebook.cells
    if callable(change):
        change(cell)
        if cell.cell_type == "markdown":
            del cell["outputs"], cell["execution_count"]
    elif "output_type" in change:
        cell.outputs = [nbformat.from_dict(change)]
    else:
        cell.outputs = [nbformat.v4.new_output("display_data", data=change)]
    found = publish.faults(FOLDER / "00_start_here.ipynb", notebook)
    assert len(found) == (said is not None)
    assert said is None or (found[0].startswith("cell 0: ") and said in found[0])


@each_notebook
def test_parameters(name):
    tagged = [c for c in read(name).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0].cell_type == "code"
    found = papermill.inspect_notebook(FOLDER / f"{name}.ipynb")
    types = {key: value["inferred_type_name"] for key, value in found.items()}
    assert types == PARAMETERS
    for key, value in found.items():
        assert value["help"].strip(), f"{key} has no comment"


@each_notebook
def test_executed_from_top_to_bottom(name):
    cells = code_cells(name)
    assert cells
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert "injected-parameters" not in {t for c in cells for t in c.metadata.get("tags", [])}


@pytest.mark.parametrize("name", [path.stem for path in publish.paths("1[23]_*")])
def test_published_notebooks_draw_the_real_annotations(name):
    """`publish.py execute` was given their folder."""
    assert HOW_TO_GET not in json.dumps(read(name))


@each_notebook
def test_no_path_of_a_machine(name):
    # base64 holds slashes of its own
    notebook = re.sub(r"base64,[A-Za-z0-9+/=]*", "", json.dumps(read(name)))
    found = re.findall(r"/(?:work|root|home|tmp|Users)/[^\s\"']*", notebook)
    assert not found


@each_notebook
def test_no_widget_captures_outputs(name):
    """nbclient answers a captured output on the channel it reads, and then may wait for ever.

    See https://github.com/jupyter/nbclient/issues/312; a widgets.Image shows a picture as well.
    """
    capturing = re.compile(r"\b(?:interact(?:ive|_manual|ive_output)?|Output|capture)\(")
    assert not [cell.source for cell in code_cells(name) if capturing.search(cell.source)]


def solutions(name: str) -> list[str]:
    """The code that is folded away."""
    folded = [cell.source for cell in read(name).cells if "<details>" in cell.source]
    return re.findall(r"```python\n(.*?)```", "".join(folded), re.DOTALL)


def names(source: str, *, loaded: bool) -> set[str]:
    """The names that code reads, or those that it binds."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) == loaded:
            found.add(node.id)
        elif not loaded and isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif not loaded and isinstance(node, ast.arg):
            found.add(node.arg)
        elif not loaded and isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
    return found


@each_notebook
def test_solutions_use_what_the_notebook_has(name):
    """Each by itself, below the last cell: whoever renames something renames it there, too."""
    cells = "\n".join(cell.source for cell in code_cells(name))
    known = names(cells, loaded=False) | set(dir(builtins))
    for code in solutions(name):
        assert names(code, loaded=True) <= known | names(code, loaded=False), code


@each_notebook
def test_solutions_leave_each_other_alone(name):
    """A reader may paste one after the other: none changes a name that another one reads."""
    cells = names("\n".join(cell.source for cell in code_cells(name)), loaded=False)
    each = [(names_left(code), first_reads(code)) for code in solutions(name)]
    for at, (bound, _) in enumerate(each):
        for other, (_, read_there) in enumerate(each):
            if at != other:
                assert not bound & read_there & cells


def names_left(source: str) -> set[str]:
    """The names that are bound when code is over: those of a function's inside are not."""
    found = set()
    for statement in ast.parse(source).body:
        function = isinstance(statement, ast.FunctionDef)
        found |= {statement.name} if function else names(ast.unparse(statement), loaded=False)
    return found


def first_reads(source: str) -> set[str]:
    """The names that code reads before it binds them, statement by statement."""
    bound: set[str] = set()
    found: set[str] = set()
    for statement in ast.parse(source).body:
        here = names(ast.unparse(statement), loaded=False)
        if isinstance(statement, ast.Assign):  # its right side is read first
            value = ast.unparse(statement.value)
            found |= names(value, loaded=True) - names(value, loaded=False) - bound
        else:
            found |= names(ast.unparse(statement), loaded=True) - here - bound
        bound |= here
    return found


# Executed


class Executed(NamedTuple):
    notebook: nbformat.NotebookNode
    printed: str
    """By the command; a notebook by itself prints nothing."""


Execute = Callable[[str], Executed]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all notebooks, so that later ones find the runs of earlier ones."""
    return tmp_path_factory.mktemp("reproduced")


@pytest.fixture(scope="module")
def wsol_metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public annotations of ILSVRC in miniature: two images, three boxes."""
    root = tmp_path_factory.mktemp("metadata")
    lists = {
        "image_ids": "a.jpg\nb.jpg",
        "class_labels": "a.jpg,0\nb.jpg,1",
        "image_sizes": "a.jpg,100,50\nb.jpg,10,10",
        "localization": "a.jpg,0,0,50,25\nb.jpg,1,1,9,6\nb.jpg,0,0,10,10",
    }
    folder = root / "ILSVRC" / "test"
    folder.mkdir(parents=True)
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def execute(place: Path, tiny_imagenet_zip: Path, wsol_metadata: Path) -> Iterator[Execute]:
    """Each notebook once, in the smoke profile, when it is first asked for.

    Lessons are executed by papermill, as a reader would, and train what they miss; those that make
    a table or a figure by ``cstn reproduce``, which trains first.
    """
    # one of the two notebooks that can draw real annotations gets some, the other something else
    roots = {"12_figure_6": tiny_imagenet_zip, "13_figure_8": wsol_metadata}

    @cache
    def run(name: str) -> Executed:
        given = {"profile": "smoke", "device": "cpu"}
        given |= {f"{kind}_dir": str(place / kind) for kind in ("runs", "figures")}
        given |= {"data_root": str(roots[name])} if name in roots else {}
        if name not in {made.notebook for made in RESULTS.values()}:
            source = FOLDER / f"{name}.ipynb"
            return Executed(papermill.execute_notebook(source, None, given, progress_bar=False), "")
        options = [f"--{option.replace('_', '-')}={value}" for option, value in given.items()]
        with redirect_stdout(io.StringIO()) as printed:
            cli.app(["reproduce", f"--only={name}", *options], standalone_mode=False)
        made = place / "runs" / "notebooks" / "smoke" / f"{name}.ipynb"
        return Executed(nbformat.read(made, as_version=4), printed.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield run


@each_notebook
def test_runs_in_the_smoke_profile(place: Path, execute: Execute, name):
    notebook = execute(name).notebook
    assert all(c.execution_count for c in notebook.cells if c.cell_type == "code" and c.source)
    still = publish.published(notebook)
    assert publish.faults(FOLDER / f"{name}.ipynb", still) == []
    assert [cell.source for cell in still.cells] == [cell.source for cell in read(name).cells]
    for result in [result for result, made in RESULTS.items() if made.notebook == name]:
        if result.startswith("table-"):
            written = place / "figures" / f"{result.replace('-', '_')}.csv"
            assert values(pd.read_csv(written, index_col=0)) <= shown_values(notebook)


def test_two_classes_of_few_photos(tmp_path: Path):
    """The lessons show as many classes and photos as there are, and names as they are."""
    classes = ("$10_$20", "$5_$кот {0}")
    root = make_folder(tmp_path, count=1, classes=classes)
    for split in ("train", "val", "test"):
        litter = root / split / ".ipynb_checkpoints"
        shutil.copytree(root / split / "$10_$20", litter)
    lessons = [name for name in FOUND if name[:2] in ("01", "02", "04", "05")]
    given = {"profile": "smoke", "device": "cpu", "dataset": "folder", "data_root": str(root)}
    for output in reproduce(lessons, {**given, "runs_dir": str(tmp_path / "runs")}):
        if output.stem[:2] == "01":  # the text of a picture has its titles
            assert any(name in output.read_text(encoding="utf-8") for name in classes)


@pytest.mark.parametrize("result", [name for name in RESULTS if name.startswith("table-")])
def test_committed_tables_are_the_published_ones(result):
    published = FOLDER.parent / "figures" / "cpu" / f"{result.replace('-', '_')}.csv"
    shown = shown_values(read(RESULTS[result].notebook))
    assert values(pd.read_csv(published, index_col=0)) <= shown


def test_the_notebooks_train_what_reproduce_trains(place: Path, execute: Execute):
    """So that after its trainings the notebooks, side by side, only read."""
    for name in FOUND:
        execute(name)
    store = RunStore(place / "runs", device="cpu")
    needed = [store.open(e) for e in needed_experiments(FOUND, "smoke")]
    there = {path.parent for path in (place / "runs").glob("*/*/config.json")}
    assert there == {run.folder for run in needed}


class Cells(HTMLParser):
    """The cells of the tables of a page, row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.inside = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data.strip()


Values = set[tuple[float | str, float | str, float | str]]
"""Row, column and value of each cell."""


def value(text: object) -> float | str:
    """What a cell says, however it is written: blank and a dash are the same nothing."""
    try:
        return "" if float(text) != float(text) else float(text)
    except ValueError:
        return "" if text == "–" else str(text)


def values(table: pd.DataFrame) -> Values:
    joined = with_intervals(table)
    return {(value(i), value(c), value(joined.loc[i, c])) for i in joined.index for c in joined}


def shown_values(notebook: nbformat.NotebookNode) -> Values:
    """The cells of all tables among the outputs, as they stand and turned."""
    found = set()
    for cell in notebook.cells:
        for out in cell.get("outputs", []):
            page = Cells()
            page.feed(out.get("data", {}).get("text/html", ""))
            if page.rows:
                (_, *columns), *rows = page.rows
                for row, *texts in rows:
                    for column, text in zip(columns, texts, strict=False):
                        found |= {(value(row), value(column), value(text))}
                        found |= {(value(column), value(row), value(text))}
    return found


@pytest.mark.parametrize(
    ("result", "panels"),
    [
        (
            "figure-6",
            {"level 4": "cstn-level-4", "level 5": "cstn-level-5", "levels 4 and 5": "cstn"},
        ),
        ("figure-8", {"birds-ilsvrc": "cstn"}),
    ],
)
def test_the_counts_of_a_figure_are_those_of_its_runs(
    place: Path, execute: Execute, result, panels
):
    execute(RESULTS[result].notebook)
    table = pd.read_csv(place / "figures" / f"{result.replace('-', '_')}.csv", index_col="panel")
    assert list(table.index.unique()) == list(panels)
    dataset = {"figure-6": "birds-cub", "figure-8": "birds-ilsvrc"}[result]
    store = RunStore(place / "runs", device="cpu")
    for panel, name in panels.items():
        run = store.open(make_experiment(name, dataset, "smoke"))
        assert run.finished
        predictions = run.predictions()
        for transform, column in ((True, "with transform"), (False, "without transform")):
            right = hits(predictions, transform=transform)["top1_loc"].sum()
            assert table.loc[panel, column].sum() == right
        areas = [box_area(boxes.reshape(-1, 4)).max() for boxes in predictions["gt_boxes"]]
        edges = np.linspace(min(areas), max(areas), 11)
        below = [sum(area < edge for area in areas) for edge in edges[1:-1]]
        assert table.loc[panel, "images"].cumsum().tolist() == [*below, len(areas)]


def test_real_annotations_are_drawn(place: Path, execute: Execute):
    execute("13_figure_8")
    for name in ("figure_8", "figure_8_annotations"):
        for kind in ("svg", "png"):
            size = (place / "figures" / f"{name}.{kind}").stat().st_size
            assert 0 < size < publish.LARGEST_PICTURE
    table = pd.read_csv(place / "figures" / "figure_8_annotations.csv")
    found = table.groupby("panel")["images"].sum()
    assert found["every box"] == 3
    assert found["every image, its largest box"] == 2


def test_a_figures_data_root_may_be_something_else(place: Path, execute: Execute):
    notebook = execute("12_figure_6").notebook
    assert HOW_TO_GET in {
        out.data.get("text/markdown")
        for cell in notebook.cells
        for out in cell.get("outputs", [])
        if "data" in out
    }
    made = {path.name for path in (place / "figures").glob("figure_6*")}
    assert made == {"figure_6.svg", "figure_6.png", "figure_6.csv"}


def test_the_command_says_where_the_figures_are(place: Path, execute: Execute):
    printed = execute("13_figure_8").printed
    path = place / "figures" / "figure_8.png"
    assert f"{path}, .svg and .csv" in printed
    assert all(path.with_suffix(kind).is_file() for kind in (".png", ".svg", ".csv"))
    table = pd.read_csv(path.with_suffix(".csv"))
    assert table["images"].sum() == 48, "the test images of the smoke profile"


def test_the_command_prints_its_table(place: Path, execute: Execute):
    printed = execute("07_table_1").printed
    assert "Top-1 Loc with transform" in printed
    assert str(place / "figures" / "table_1.csv") in printed
