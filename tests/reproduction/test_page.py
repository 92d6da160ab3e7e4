"""The page of the reproduction says what the files beside it say."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cstn_lib.config import PAPER_LEVELS
from cstn_lib.losses import authors_weight
from cstn_lib.reproduction.areas import FIGURE_6_PANELS, figure_6
from cstn_lib.reproduction.batch import needed_experiments
from cstn_lib.reproduction.page import HEADLINES, fill_markers, fill_pages
from cstn_lib.reproduction.paper import (
    FIGURE_6,
    FIGURE_6_AREAS,
    TABLE_1,
    TABLE_1_TEXT,
    TABLE_2,
    TABLE_2_CAPTION,
)
from cstn_lib.reproduction.results import NOTEBOOKS, RESULTS, experiments_of, result_file
from cstn_lib.reproduction.rules import NOT_TESTED
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import save_table_files, table_2
from cstn_lib.support.errors import InputError
from cstn_lib.support.project import project_folder

WriteRun = Callable[..., Run]


@pytest.fixture
def two_seeds(write_run: WriteRun) -> list[Run]:
    facts = {"training_seconds": 90.0, "torch": "2.6", "threads": 1, "commit": "0123456789"}
    facts |= {"processor": "Zen", "machine": "x86_64"}
    runs = [write_run("plain", ["+r", "+x", "+x", "+x"], seed=seed) for seed in (0, 1)]
    runs += [write_run("cstn", ["+r", "+r", "+r", "+x"])]
    runs += [write_run("cstn", ["+r", "+r", "-x", "-x"], seed=1)]
    others = [replace(run, facts=facts | {"processor": "H200"}) for run in runs[:-1]]
    return [*others, replace(runs[-1], facts=facts)]


@pytest.fixture
def figures(two_seeds: list[Run], tmp_path: Path) -> Path:
    folder = tmp_path / "figures" / "cpu"
    save_table_files(table_2(two_seeds), folder, "table_2")
    return folder


def rows(page: str, first: str) -> list[list[str]]:
    """The cells of every table row that begins with this one."""
    lines = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture
def project(figures: Path, tmp_path: Path) -> Path:
    """A folder with both pages, and all that they are filled from."""
    for name, result in RESULTS.items():
        if result.table and name != "table-2":
            columns = dict.fromkeys(result.columns, 1.0) | {"seeds": 1}
            found = ["CAM", "plain convolution"] if name == "table-4" else ["a row"]
            columns |= {"GT-Known with transform ±": 2.0}
            table = pd.DataFrame(columns, index=pd.Index(found, name=name))
            save_table_files(table, figures, name.replace("-", "_"))
    (figures / "claims.csv").write_text(
        "id,claim,data set,place,rule,paper,here,verdict,why,condition\n"
        + "".join(
            f"{name},{text},{data},Table I,>0,+1,a: +2; b: +3,holds,so,there\n"
            for data in ("birds-cub", "birds-ilsvrc")
            for name, text in [(n, f"It {n}s") for n in HEADLINES] + [("a", "It works")]
        ),
        encoding="utf-8",
    )
    tables = [f"table-{n}" for n in range(1, 6)]
    markers = ("made", *tables, "claims", "photographs", "result")
    for page in ("REPRODUCTION.md", "README.md"):
        text = "".join(f"# {m}\n\n<!-- {m} -->\nold\n<!-- /{m} -->\n\n" for m in markers)
        (tmp_path / page).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def filled(project: Path, figures: Path, two_seeds: list[Run]) -> Callable[[], str]:
    def fill() -> str:
        fill_pages(project, figures, two_seeds)
        return (project / "REPRODUCTION.md").read_text(encoding="utf-8")

    return fill


def test_a_table_beside_the_papers(filled: Callable[[], str], figures: Path):
    page = filled()
    (header,) = rows(page, "type on birds-cub")
    assert header[1:] == ["Top-1 Class", "paper", "Top-1 Loc", "paper", "GT-Known Loc"]
    table = pd.read_csv(figures / "table_2.csv", index_col=0)
    for name, row in table.loc[list(TABLE_2)].iterrows():
        (cells,) = rows(page, name)
        for place, column in ((1, "Top-1 Class"), (3, "Top-1 Loc"), (5, "GT-Known Loc")):
            assert cells[place] == f"{row[column]:.2f} ± {row[f'{column} ±']:.2f}"
        assert cells[2:5:2] == [f"{value:.2f}" for value in TABLE_2[name].values()]
    assert "2 seeds." in page
    assert page.count("1 seed.") == 4
    assert page.count("\nold\n") == 1, "the result stands in the README alone"


def test_how_it_was_made(filled: Callable[[], str]):
    page = filled()
    assert rows(page, "code") == [["code", "commit 0123456789"]]
    assert rows(page, "time") == [["time", "0.1 hours of training altogether"]]
    assert rows(page, "precision") == [["precision", "float32"]]
    assert rows(page, "processor") == [["processor", "H200: 3 trainings; Zen: 1 trainings (cstn)"]]
    assert rows(page, "trainings")[0][1] == "4 of 2 experiments on 1 data sets, with seeds 0, 1"
    assert filled() == page, "the same bytes"


def test_claims_stand_on_both_pages(filled: Callable[[], str], project: Path):
    first, second = rows(filled(), "It works<br>*there*")
    assert first[1:] == ["Table I", "birds-cub", "+1", "a: +2<br>b: +3", "holds"]
    assert second[2] == "birds-ilsvrc"
    readme = (project / "README.md").read_text(encoding="utf-8")
    for name in HEADLINES:
        text = f"It {name}s"
        assert rows(readme, text) == [[text, "Table I", "holds", "there"]]
    assert "It works" not in readme
    assert "finds 1.0 ± 2.0 % of the test images' objects (1 seeds)" in readme
    assert readme.count("\nold\n") == 7


def test_photographs_have_a_section_where_there_are_results(
    filled: Callable[[], str], figures: Path, two_seeds: list[Run]
):
    assert "tiny-imagenet" not in filled()
    table = table_2(two_seeds).rename_axis("type on tiny-imagenet")
    save_table_files(table, figures / "tiny-imagenet", "table_2")
    page = filled()
    assert page.count("### `tiny-imagenet`") == 1
    assert len(rows(page, "type on tiny-imagenet")) == 1
    assert "(figures/cpu/tiny-imagenet/table_2.csv)" in page
    assert "#### What holds" not in page
    judged = {
        "claim": ["It helps", "It is fast"],
        "paper": ["+1.0", ""],
        "here": ["+2.0; +3.0", ""],
    }
    verdicts = pd.DataFrame(judged | {"verdict": ["holds", NOT_TESTED]})
    verdicts.to_csv(figures / "tiny-imagenet" / "claims.csv", index=False)
    assert rows(filled(), "It helps") == [["It helps", "+1.0", "+2.0<br>+3.0", "holds"]]
    assert "It is fast" not in filled()


def test_markers_are_filled_and_nothing_else_changes(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_text("a\n\n<!-- claims -->\nold\n<!-- /claims -->\n\nb\n", encoding="utf-8")
    for _ in range(2):
        fill_markers(path, {"claims": "new\nlines\n"})
        assert path.read_text() == "a\n\n<!-- claims -->\nnew\nlines\n<!-- /claims -->\n\nb\n"


@pytest.mark.parametrize("missing", ["", "<!-- claims -->", "<!-- /claims --> <!-- claims -->"])
def test_missing_markers(tmp_path: Path, missing):
    path = tmp_path / "README.md"
    text = f"<!-- made -->\n<!-- /made -->\n{missing}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"README.md: expected the markers"):
        fill_markers(path, {"made": "new", "claims": "new"})
    assert path.read_text() == text


# The pages of the project


def page_of_project(name: str) -> str:
    if not project_folder(name).is_file():
        pytest.skip(f"{name} absent")
    return project_folder(name).read_text(encoding="utf-8")


def test_the_pages_have_their_markers(tmp_path: Path):
    tables = [name for name, result in RESULTS.items() if result.table]
    parts = {
        "README.md": ["result", "claims"],
        "REPRODUCTION.md": ["made", *tables, "claims", "photographs"],
    }
    for name, markers in parts.items():
        text = page_of_project(name)
        assert re.findall(r"<!-- ([\w-]+) -->", text) == markers
        (tmp_path / name).write_text(text, encoding="utf-8")
        fill_markers(tmp_path / name, dict.fromkeys(markers, "filled"))
        assert (tmp_path / name).read_text(encoding="utf-8").count("\nfilled\n") == len(markers)


def test_every_figure_stands_in_the_page():
    text = page_of_project("REPRODUCTION.md")
    for name, result in RESULTS.items():
        if result.title:
            assert f"\n## {result.title}\n" in text
            assert f"(figures/cpu/{name.replace('-', '_')}.csv)" in text


PLAIN, WITH_STN = (row["Top-1 Loc"] for row in TABLE_2.values())
BOTH_LEVELS = FIGURE_6["levels 4 and 5"]
FINE, COARSE = (level.kernel_size for level in PAPER_LEVELS)
GAINS = [row["with transform"] - row["without transform"] for row in TABLE_1.values()]
NUMBER = r"(\d+(?:\.\d+)?)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a gain of # points, but its rows give #", (TABLE_2_CAPTION, WITH_STN - PLAIN)),
        ("The caption's gain is # less #, and #", (BOTH_LEVELS, PLAIN, BOTH_LEVELS)),
        ("less #, and # is the model", (PLAIN, TABLE_2_CAPTION + PLAIN)),
        ('adds "around #-#%"', TABLE_1_TEXT),
        ("Table I has # on CUB-200-2011 and # on ImageNet", GAINS),
        ("Windows have # cells at level 4 and # at level 5", (FINE, COARSE)),
        ("λ and α weigh # times as much", (authors_weight(1),)),
        ("the areas, # to # px²", FIGURE_6_AREAS),
        ("is #, where equal widths give #", (23137, np.linspace(*FIGURE_6_AREAS, 11)[2])),
    ],
)
def test_numbers_of_the_paper_in_the_prose(text: str, expected: Sequence[float]):
    prose = " ".join(page_of_project("REPRODUCTION.md").split())
    (found,) = re.findall(re.escape(text).replace(r"\#", "#").replace("#", NUMBER), prose)
    found = [float(number) for number in ([found] if isinstance(found, str) else found)]
    assert found == pytest.approx(list(expected), abs=0.001)


# What is needed


def test_every_notebook_says_what_it_needs():
    assert len(set(NOTEBOOKS)) == len(NOTEBOOKS) == len(RESULTS)
    for notebook in NOTEBOOKS:
        assert needed_experiments([notebook], "smoke")


def names(notebook: str, **given: object) -> list[tuple[str, str, int]]:
    needed = needed_experiments([notebook], "cpu", **given)
    return [(e.name, e.data.name, e.seed) for e in needed]


def test_lessons_need_one_seed_and_figures_all():
    assert names("01_joint_distribution") == [("plain", "birds-cub", 0)]
    assert names("01_joint_distribution", dataset="birds-ilsvrc") == [("plain", "birds-ilsvrc", 0)]
    assert names("13_figure_8", seeds=2) == [("cstn", "birds-ilsvrc", s) for s in (0, 1)]
    with pytest.raises(InputError, match="expected at most one data set for joint"):
        names("01_joint_distribution", dataset="birds-cub,birds-ilsvrc")
    with pytest.raises(InputError, match="expected at most one data set for figure-6"):
        names("12_figure_6", dataset="birds-cub,birds-ilsvrc")


def test_a_lesson_trains_on_one_data_set():
    assert names("05_training", seeds=2, data_root="zip") == [("cstn", "birds-cub", 0)]
    assert names("05_training", seeds=2, data_root="zip", dataset="cub") == [("cstn", "cub", 0)]


def test_one_data_set_serves_a_figure_of_two():
    needed = experiments_of("figures-2-5-7-9", "smoke", dataset="birds-cub")
    assert [(e.name, e.data.name) for e in needed] == [
        ("cstn", "birds-cub"),
        ("cstn-lambda-0", "birds-cub"),
    ]


def test_panels_of_figure_6(write_run: WriteRun):
    images = {"cstn-level-4": ["+r", "-r"], "cstn-level-5": ["-x", "-x"], "cstn": ["+r", "+r"]}
    runs = [write_run(name, images[name]) for name in FIGURE_6_PANELS.values()]
    for run in runs:
        run.tables["test"]["true_default_box"] = [np.array([0.0, 0.0, 0.1, 0.1])] * 2
        run.tables["test"]["any_default_iou"] = 0.0
    panels = figure_6(runs)
    found = {name: panel.localized["with transform"].sum() for name, panel in panels.items()}
    assert found == {"level 4": 1, "level 5": 0, "levels 4 and 5": 2}
    with pytest.raises(InputError, match="cstn-level-5 missing"):
        figure_6([runs[0], runs[2]])


@pytest.mark.parametrize(
    ("dataset", "chosen", "folder"),
    [
        ("", "", "figures/cpu"),
        ("birds-cub", "", "figures/cpu"),
        ("tiny-imagenet", "", "figures/cpu/tiny-imagenet"),
        ("birds-ilsvrc,birds-cub", "", "figures/cpu/birds-ilsvrc+birds-cub"),
        ("tiny-imagenet", "here", "here"),
    ],
)
def test_another_data_set_has_its_own_folder(dataset, chosen, folder):
    found = result_file("figure-6", "cpu", dataset, chosen)
    assert found == project_folder(folder, chosen) / "figure_6.csv"
