"""The page of the reproduction says what the files beside it say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cstn_lib.reproduction.batch import needed_experiments
from cstn_lib.reproduction.figures import FIGURE_6_PANELS, figure_6
from cstn_lib.reproduction.page import fill_markers, reproduction_page, verdict_table
from cstn_lib.reproduction.paper import TABLE_2
from cstn_lib.reproduction.results import NOTEBOOKS, RESULTS, experiments_of, result_file
from cstn_lib.reproduction.runs import Run
from cstn_lib.reproduction.tables import save_table_files, table_2
from cstn_lib.support.errors import InputError
from cstn_lib.support.project import project_folder

WriteRun = Callable[..., Run]


@pytest.fixture
def two_seeds(write_run: WriteRun) -> list[Run]:
    facts = {"training_seconds": 90.0, "torch": "2.6", "threads": 1, "commit": "0123456789"}
    runs = [write_run("plain", ["+r", "+x", "+x", "+x"], seed=seed) for seed in (0, 1)]
    runs += [write_run("cstn", ["+r", "+r", "+r", "+x"]), write_run("cstn", ["+r", "-x"], seed=1)]
    return [replace(run, facts=facts) for run in runs]


@pytest.fixture
def figures(two_seeds: list[Run], tmp_path: Path) -> Path:
    folder = tmp_path / "figures" / "cpu"
    save_table_files(table_2(two_seeds), folder, "table_2")
    return folder


def rows(page: str, first: str) -> list[list[str]]:
    """The cells of every table row that begins with this one."""
    lines = [line for line in page.splitlines() if line.startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_table_beside_the_papers(two_seeds: list[Run], figures: Path, tmp_path: Path):
    page = reproduction_page(tmp_path / "PAGE.md", figures, ["table-2"], two_seeds)
    (header,) = rows(page, "type on birds-cub")
    assert header[1:] == ["Top-1 Class", "paper", "Top-1 Loc", "paper", "GT-Known Loc"]
    table = pd.read_csv(figures / "table_2.csv", index_col=0)
    for name, row in table.iterrows():
        (cells,) = rows(page, name)
        for place, column in ((1, "Top-1 Class"), (3, "Top-1 Loc"), (5, "GT-Known Loc")):
            assert cells[place] == f"{row[column]:.2f} ± {row[f'{column} ±']:.2f}"
        assert cells[2:5:2] == [f"{value:.2f}" for value in TABLE_2[name].values()]
    assert "(figures/cpu/table_2.csv)" in page
    assert "2 seeds." in page
    assert page.count("Its runs are missing.") == 6


def test_how_it_was_made(two_seeds: list[Run], figures: Path, tmp_path: Path):
    page = reproduction_page(tmp_path / "PAGE.md", figures, ["table-2"], two_seeds)
    assert rows(page, "code") == [["code", "commit 0123456789"]]
    assert rows(page, "time") == [["time", "0.1 hours of training altogether"]]
    assert rows(page, "plain") == [["plain", "90"]]
    assert rows(page, "trainings")[0][1] == "4 of 2 experiments on 1 data sets, with seeds 0, 1"


def test_what_is_not_current_is_left_out(two_seeds: list[Run], figures: Path, tmp_path: Path):
    page = reproduction_page(tmp_path / "PAGE.md", figures, [], two_seeds)
    assert page.count("Its runs are missing.") == 7
    assert "table_2.csv" not in page


def test_photographs_have_a_section_where_there_are_results(
    two_seeds: list[Run], figures: Path, tmp_path: Path
):
    def made() -> str:
        return reproduction_page(tmp_path / "PAGE.md", figures, ["table-2"], two_seeds)

    assert "Real photographs" not in made()
    table = table_2(two_seeds).rename_axis("type on tiny-imagenet")
    save_table_files(table, figures / "tiny-imagenet", "table_2")
    page = made()
    assert page.count("Real photographs") == 1
    assert len(rows(page, "type on tiny-imagenet")) == 1
    assert "(figures/cpu/tiny-imagenet/table_2.csv)" in page


def test_markers_are_filled_and_nothing_else_changes(tmp_path: Path):
    path = tmp_path / "README.md"
    path.write_text("a\n\n<!-- claims -->\nold\n<!-- /claims -->\n\nb\n", encoding="utf-8")
    fill_markers(path, "claims", "new\nlines\n")
    assert path.read_text() == "a\n\n<!-- claims -->\nnew\nlines\n<!-- /claims -->\n\nb\n"
    fill_markers(path, "claims", "new\nlines\n")
    assert path.read_text() == "a\n\n<!-- claims -->\nnew\nlines\n<!-- /claims -->\n\nb\n"


@pytest.mark.parametrize("text", ["", "<!-- claims -->", "<!-- /claims --> <!-- claims -->"])
def test_missing_markers(tmp_path: Path, text):
    path = tmp_path / "README.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"README.md: expected the markers"):
        fill_markers(path, "claims", "new")
    assert path.read_text() == text


def test_the_readme_has_markers():
    readme = project_folder("README.md")
    if not readme.is_file():
        pytest.skip("README.md absent")
    text = readme.read_text(encoding="utf-8")
    assert text.index("<!-- claims -->") < text.index("<!-- /claims -->")


def test_verdict_table(tmp_path: Path):
    path = tmp_path / "claims.csv"
    path.write_text(
        "id,claim,data set,place,rule,paper,here,verdict,why\n"
        "a,It works,birds-cub,Table I,>0,+1,+2,holds,so\n",
        encoding="utf-8",
    )
    assert verdict_table(path).splitlines()[-1] == "| It works | Table I | birds-cub | holds |"


# What is needed


def test_every_notebook_says_what_it_needs():
    assert len(set(NOTEBOOKS)) == len(NOTEBOOKS) == len(RESULTS)
    for notebook in NOTEBOOKS:
        assert needed_experiments([notebook], "smoke")


def names(notebook: str, **given: object) -> list[tuple[str, str, int]]:
    needed = needed_experiments([notebook], "cpu", **given)
    return [(e.name, e.data.name, e.seed) for e in needed]


def test_lessons_need_one_seed_and_figures_all():
    assert names("01_joint_distribution") == [("cstn", "birds-cub", 0)]
    assert names("01_joint_distribution", dataset="birds-ilsvrc") == [("cstn", "birds-ilsvrc", 0)]
    assert names("13_figure_8", seeds=2) == [("cstn", "birds-ilsvrc", s) for s in (0, 1)]
    with pytest.raises(InputError, match="expected at most one data set for joint"):
        names("01_joint_distribution", dataset="birds-cub,birds-ilsvrc")
    with pytest.raises(InputError, match="expected at most one data set for figure-6"):
        names("12_figure_6", dataset="birds-cub,birds-ilsvrc")


def test_photographs_are_needed_where_their_root_is_given():
    photos = [("cstn", "tiny-imagenet", seed) for seed in (0, 1)]
    assert names("05_training", seeds=2, data_root="zip")[1:] == photos
    assert names("05_training", seeds=2) == [("cstn", "birds-cub", 0)]
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
