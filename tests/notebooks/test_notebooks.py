"""The notebooks: fit to be committed, and run from top to bottom in the smoke profile."""

from __future__ import annotations

import ast
import base64
import builtins
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import papermill
import pytest

from cstn_lib.evaluation.boxes import box_area
from cstn_lib.evaluation.metrics import hits
from cstn_lib.reproduction.batch import needed_experiments
from cstn_lib.reproduction.batch import reproduce as run_notebooks
from cstn_lib.reproduction.experiments import make_experiment
from cstn_lib.reproduction.results import NOTEBOOKS, RESULTS
from cstn_lib.reproduction.runs import RunStore
from cstn_lib.support.errors import InputError

FOLDER = Path(__file__).parents[2] / "notebooks"
FOUND = sorted(path.stem for path in FOLDER.glob("*.ipynb"))
PARAMETERS = {
    "dataset": "str",
    "profile": "str",
    "device": "str",
    "seeds": "int",
    "data_root": "str",
    "runs_dir": "str",
    "figures_dir": "str",
}
TABLE_1 = RESULTS["table-1"].notebook
LONGEST_CELL = 25  # lines
LARGEST_PICTURE = 150 * 1024  # bytes
WSOL_METADATA = Path(__file__).parents[3] / "shared" / "data" / "wsol-metadata"

pytestmark = pytest.mark.notebooks
each_notebook = pytest.mark.parametrize("name", FOUND)


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in read(name).cells if cell.cell_type == "code"]


def outputs(name: str) -> Iterator[nbformat.NotebookNode]:
    for cell in code_cells(name):
        yield from cell.outputs


def test_the_list_is_the_folder():
    assert list(NOTEBOOKS) == FOUND


# As committed


@each_notebook
def test_valid(name):
    nbformat.validate(read(name))


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


@each_notebook
def test_no_error_among_the_outputs(name):
    assert not [out for out in outputs(name) if out.output_type == "error"]


@each_notebook
def test_pictures_are_small(name):
    for out in outputs(name):
        for kind, content in out.get("data", {}).items():
            if kind.startswith("image/"):
                text = "".join(content)
                size = len(text if "svg" in kind else base64.b64decode(text))
                assert size < LARGEST_PICTURE, f"{kind} of {size} bytes"


@each_notebook
def test_no_path_of_a_machine(name):
    notebook = read(name)
    for cell in notebook.cells:
        for out in cell.get("outputs", []):
            for kind in [k for k in out.get("data", {}) if k.startswith("image/")]:
                if "svg" not in kind:
                    del out["data"][kind]  # base64 holds slashes of its own
    found = re.findall(r"/(?:work|root|home|tmp|Users)/[^\s\"']*", json.dumps(notebook))
    assert not found


@each_notebook
def test_no_widget_captures_outputs(name):
    """nbclient answers a captured output on the channel it reads, and then may wait for ever.

    See https://github.com/jupyter/nbclient/issues/312; a widgets.Image shows a picture as well.
    """
    capturing = re.compile(r"\b(?:interact(?:ive|_manual|ive_output)?|Output|capture)\(")
    assert not [cell.source for cell in code_cells(name) if capturing.search(cell.source)]


@each_notebook
def test_code_cells_are_short(name):
    for cell in code_cells(name):
        lines = len(cell.source.splitlines())
        assert lines <= LONGEST_CELL, f"{lines} lines: {cell.source.splitlines()[0]}"


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


# Executed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all notebooks, so that later ones find the runs of earlier ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield tmp_path_factory.mktemp("reproduced")


def parameters(place: Path, figures: str = "figures") -> dict[str, object]:
    return {
        "profile": "smoke",
        "device": "cpu",
        "runs_dir": str(place / "runs"),
        "figures_dir": str(place / figures),
    }


def reproduce(only: str, given: dict[str, object]) -> str:
    """What ``cstn reproduce`` prints for one result."""
    options = {**given, "only": only}
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cstn_lib", "reproduce"),
            *(f"--{name.replace('_', '-')}={value}" for name, value in options.items()),
        ],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@each_notebook
def test_runs_in_the_smoke_profile(place: Path, name):
    (output,) = run_notebooks([name], parameters(place))
    assert output == place / "runs" / "notebooks" / "smoke" / f"{name}.ipynb"
    executed = nbformat.read(output, as_version=4)
    assert all(c.execution_count for c in executed.cells if c.cell_type == "code" and c.source)
    for result in [result for result, made in RESULTS.items() if made.notebook == name]:
        if not result.startswith("table-"):
            continue
        written = place / "figures" / f"{result.replace('-', '_')}.csv"
        assert values(pd.read_csv(written, index_col=0)) in list(shown_tables(executed))


@pytest.mark.parametrize("result", [name for name in RESULTS if name.startswith("table-")])
def test_committed_tables_are_the_published_ones(result):
    published = FOLDER.parent / "figures" / "cpu" / f"{result.replace('-', '_')}.csv"
    shown = list(shown_tables(read(RESULTS[result].notebook)))
    assert values(pd.read_csv(published, index_col=0)) in shown


def test_the_notebooks_train_what_reproduce_trains(place: Path):
    """So that after its trainings the notebooks, side by side, only read."""
    executed = {path.stem for path in (place / "runs" / "notebooks" / "smoke").glob("*.ipynb")}
    if set(FOUND) - executed:
        pytest.skip("not all notebooks were executed")
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
        self.inside = tag in ("th", "td")
        if self.inside:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data.strip()


Values = dict[tuple[float | str, float | str], float | str]


def value(text: object) -> float | str:
    """What a cell says, however it is written: blank and a dash are the same nothing."""
    try:
        return "" if float(text) != float(text) else float(text)
    except ValueError:
        return "" if text == "–" else str(text)


def values(table: pd.DataFrame) -> Values:
    return {(value(i), value(c)): value(table.loc[i, c]) for i in table.index for c in table}


def shown_tables(notebook: nbformat.NotebookNode) -> Iterator[Values]:
    """Each table among the outputs, as it stands and turned."""
    for cell in notebook.cells:
        for out in cell.get("outputs", []):
            page = Cells()
            page.feed(out.get("data", {}).get("text/html", ""))
            if page.rows:
                (_, *columns), *rows = page.rows
                body = [row for row in rows if any(row[1:])]  # not the name of the index
                shown = {
                    (value(row[0]), value(column)): value(text)
                    for row in body
                    for column, text in zip(columns, row[1:], strict=False)
                }
                yield shown
                yield {(column, row): text for (row, column), text in shown.items()}


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
def test_the_counts_of_a_figure_are_those_of_its_runs(place: Path, result, panels):
    run_notebooks([result], parameters(place, "counted"))
    table = pd.read_csv(place / "counted" / f"{result.replace('-', '_')}.csv", index_col="panel")
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


@pytest.mark.skipif(not WSOL_METADATA.is_dir(), reason="the WSOL metadata is absent")
@pytest.mark.parametrize(
    ("result", "counts"),
    [
        ("figure-6", {"CUB-200-2011 test": 5794}),
        ("figure-8", {"every box": 80_477, "every image, its largest box": 50_000}),
    ],
)
def test_real_annotations_are_drawn(place: Path, result, counts):
    given = {**parameters(place, "annotated"), "data_root": str(WSOL_METADATA)}
    run_notebooks([result], given)
    stem = result.replace("-", "_")
    for name in (stem, f"{stem}_annotations"):
        for kind in ("svg", "png"):
            assert 0 < (place / "annotated" / f"{name}.{kind}").stat().st_size < LARGEST_PICTURE
    table = pd.read_csv(place / "annotated" / f"{stem}_annotations.csv")
    found = table.groupby("panel")["images"].sum()
    assert {name: found[name] for name in counts} == counts


def test_a_figures_data_root_may_be_something_else(place: Path, tiny_imagenet_zip: Path):
    given = {**parameters(place, "not annotated"), "data_root": str(tiny_imagenet_zip)}
    run_notebooks(["figure-6"], given)
    made = {path.name for path in (place / "not annotated").iterdir()}
    assert made == {"figure_6.svg", "figure_6.png", "figure_6.csv"}


def test_the_command_says_where_the_figures_are(place: Path):
    printed = reproduce("figure-8", parameters(place, "figures by command"))
    path = place / "figures by command" / "figure_8.png"
    assert f"{path}, .svg and .csv" in printed
    assert all(path.with_suffix(kind).is_file() for kind in (".png", ".svg", ".csv"))
    table = pd.read_csv(path.with_suffix(".csv"))
    assert table["images"].sum() == 48, "the test images of the smoke profile"


@pytest.mark.skipif(
    RESULTS["table-1"].notebook not in FOUND, reason="the notebook of Table I is absent"
)
def test_the_command_and_papermill_by_hand_agree(place: Path):
    given = parameters(place, "by hand")
    source = FOLDER / f"{TABLE_1}.ipynb"
    papermill.execute_notebook(
        source, place / "by hand.ipynb", parameters=given, progress_bar=False
    )
    printed = reproduce("table-1", parameters(place, "by command"))
    tables = [(place / way / "table_1.csv").read_bytes() for way in ("by hand", "by command")]
    assert tables[0] == tables[1]
    assert "Top-1 Loc with transform" in printed
    assert str(place / "by command" / "table_1.csv") in printed


@pytest.mark.skipif(
    RESULTS["table-1"].notebook not in FOUND, reason="the notebook of Table I is absent"
)
def test_a_mistake_inside_a_notebook_is_one_line(place: Path, tmp_path: Path):
    root = tmp_path / "letters.zip"
    root.write_bytes(b"no zip")
    given = {**parameters(place), "dataset": "tiny-imagenet", "data_root": str(root)}
    with pytest.raises(InputError) as caught:
        run_notebooks(["table-1"], {**given, "runs_dir": str(tmp_path / "runs")})
    message = str(caught.value)
    assert "\n" not in message
    assert f"{TABLE_1}.ipynb, cell " in message
    assert str(root) in message
