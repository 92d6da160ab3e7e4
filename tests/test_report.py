"""The tables against plain loops over the predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torchvision.ops import box_iou

from cstn_lib.paper import TABLE_1
from cstn_lib.predictions import array
from cstn_lib.report import centred_square_loc, save_table_files, table_1
from cstn_lib.runs import Run

MEASURED = [
    "Top-1 Loc without transform",
    "Top-1 Loc with transform",
    "GT-Known without transform",
    "GT-Known with transform",
    "Top-5 box Loc",
    "Top-1 Class",
]


def right(boxes: np.ndarray, truth: np.ndarray) -> bool:
    """Whether one of the boxes overlaps one of the ground truth by half."""
    boxes, truth = np.reshape(boxes, (-1, 4)), np.reshape(truth, (-1, 4))
    tensors = [torch.from_numpy(b.astype(np.float64)) for b in (boxes, truth)]
    return bool((box_iou(*tensors) >= 0.5).any())


def percentages(run: Run) -> dict[str, float]:
    """The measured columns by a loop over the images."""
    table = run.predictions()
    counts = dict.fromkeys(MEASURED, 0)
    for i, line in table.iterrows():
        truth = line["gt_boxes"]
        correct = line["label"] == line["predicted"]
        counts["Top-1 Class"] += correct
        for column, kind in (("without", "default_box"), ("with", "box")):
            predicted = array(table, f"predicted_{kind}")[i, 0]
            known = array(table, f"true_{kind}")[i, 0]
            counts[f"Top-1 Loc {column} transform"] += correct and right(predicted, truth)
            counts[f"GT-Known {column} transform"] += right(known, truth)
        counts["Top-5 box Loc"] += right(array(table, "true_box")[i], truth)
    return {name: 100 * count / len(table) for name, count in counts.items()}


def test_one_seed(finished_runs: list[Run]):
    runs = finished_runs[::2]
    table = table_1(runs)
    assert table.index.tolist() == ["birds-cub", "birds-ilsvrc"]
    assert table["seeds"].tolist() == [1, 1]
    assert not [column for column in table.columns if "±" in column]
    for run in runs:
        row = table.loc[run.experiment.data.name]
        for name, value in percentages(run).items():
            assert row[name] == pytest.approx(value, abs=0.0051), name
    assert (table[MEASURED].to_numpy() > 0).any(), "or the comparison says little"


def test_several_seeds(finished_runs: list[Run]):
    table = table_1(finished_runs)
    assert table["seeds"].tolist() == [2, 2]
    for dataset in table.index:
        each = [percentages(r) for r in finished_runs if r.experiment.data.name == dataset]
        for name in MEASURED:
            one, other = (values[name] for values in each)
            assert table.loc[dataset, name] == pytest.approx((one + other) / 2, abs=0.0051)
            # Student's t of one degree of freedom is tan(0.475 pi); s / sqrt(2) is |a - b| / 2
            reach = np.tan(0.475 * np.pi) * abs(one - other) / 2
            assert table.loc[dataset, f"{name} ±"] == pytest.approx(reach, abs=0.0051)
    assert (table[[f"{name} ±" for name in MEASURED]].to_numpy() > 0).any()


def test_the_papers_columns(finished_runs: list[Run]):
    table = table_1(finished_runs)
    places = {"birds-cub": "CUB-200-2011", "birds-ilsvrc": "ImageNet"}
    for dataset, published in places.items():
        row = table.loc[dataset]
        assert row["paper: data set"] == published
        for side in ("without transform", "with transform"):
            assert row[f"paper: Top-1 Loc {side}"] == TABLE_1[published][side]


def test_the_order_of_runs_is_the_order_of_rows(finished_runs: list[Run]):
    assert table_1(finished_runs[::-1]).index.tolist() == ["birds-ilsvrc", "birds-cub"]


def test_centred_square_is_chosen_on_val_and_counted_on_test(finished_runs: list[Run]):
    run = finished_runs[0]

    def loc(side: float, split: str) -> float:
        square = np.array([0.5 - side / 2, 0.5 - side / 2, 0.5 + side / 2, 0.5 + side / 2])
        images = run.split(split)
        return np.mean([right(square, images.boxes_of(i)) for i in range(len(images))])

    sides = np.arange(1, 81) / 80
    on_val = [loc(side, "val") for side in sides]
    best = {loc(s, "test") for s, v in zip(sides, on_val, strict=True) if v == max(on_val)}
    assert centred_square_loc(run) in best
    row = table_1([run]).loc["birds-cub"]
    assert row["centred square"] == round(100 * centred_square_loc(run), 2)


def cells(line: str) -> list[str]:
    assert line.startswith("| ") and line.endswith(" |")
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("step", [1, 2], ids=["two seeds", "one seed"])
def test_files(finished_runs: list[Run], tmp_path: Path, step):
    table = table_1(finished_runs[::step])
    save_table_files(table, tmp_path / "new" / "figures", "table_1")
    folder = tmp_path / "new" / "figures"
    assert sorted(path.name for path in folder.iterdir()) == ["table_1.csv", "table_1.md"]
    again = pd.read_csv(folder / "table_1.csv", index_col="data set")
    pd.testing.assert_frame_equal(again, table)

    text = (folder / "table_1.md").read_text(encoding="utf-8")
    assert text.endswith("|\n")
    header, rule, *rows = text.splitlines()
    assert cells(header) == ["data set", *table.columns]
    assert set(cells(rule)) == {"---"}
    assert len(rows) == len(table)
    for line, (dataset, row) in zip(rows, table.iterrows(), strict=True):
        values = cells(line)
        assert len(values) == len(cells(header)) == len(cells(rule))
        assert values[0] == dataset
        for name, value in zip(cells(header)[1:], values[1:], strict=True):
            if name in MEASURED:
                assert float(value) == row[name]


def test_a_data_set_the_paper_does_not_have(tmp_path: Path):
    """Blank cells stay blank, and the lines keep their length."""
    table = pd.DataFrame({"a": [1.5, float("nan")], "b": ["x", None]}, index=["one", "two"])
    save_table_files(table.rename_axis("data set"), tmp_path, "t")
    lines = (tmp_path / "t.md").read_text(encoding="utf-8").splitlines()
    assert [cells(line) for line in lines] == [
        ["data set", "a", "b"],
        ["---", "---", "---"],
        ["one", "1.5", "x"],
        ["two", "", ""],
    ]
