"""The numbers published in the paper, each with its place; nowhere else in the project.

Meethal, Pedersoli, Belharbi, Granger: "Convolutional STN for Weakly Supervised Object
Localization", ICPR 2020. All values are percentages, as printed; None where the paper leaves a
cell blank.
"""

from __future__ import annotations

STANDS_FOR = {
    "birds-cub": "CUB-200-2011",
    "cub": "CUB-200-2011",
    "birds-ilsvrc": "ImageNet",
    "ilsvrc": "ImageNet",
    "imagenette": "ImageNet",
}
"""The paper's data set that a data set of ours is, is a part of, or whose place it takes."""

TABLE_1 = {
    "CUB-200-2011": {"without transform": 40.64, "with transform": 49.03},
    "ImageNet": {"without transform": 36.69, "with transform": 42.38},
}
"""Table I: Top-1 Loc of the same network judged by its default and by its transformed boxes."""

TABLE_1_TEXT = (5, 8)
"""What "the transform is improving the localization around", section IV-B."""

TABLE_2 = {
    "Without conv STN": {"Top-1 Class": 77.40, "Top-1 Loc": 21.64},
    "With conv STN": {"Top-1 Class": 78.46, "Top-1 Loc": 49.03},
}
"""Table II, CUB-200-2011."""

TABLE_2_CAPTION = 26.79
"""The gain in Top-1 Loc as its caption has it; the rows differ by 27.39."""

TABLE_3 = {
    1e-2: {"Top-1 Loc": 27.39, "Top-1 Class": 78.98},
    1e-3: {"Top-1 Loc": 30.88, "Top-1 Class": 78.63},
    1e-4: {"Top-1 Loc": 49.03, "Top-1 Class": 78.46},
    1e-5: {"Top-1 Loc": 45.52, "Top-1 Class": 78.25},
    0.0: {"Top-1 Loc": 5.13, "Top-1 Class": 77.32},
}
"""Table III, CUB-200-2011, by lambda as printed."""

TABLE_COLUMNS = ("Top-1 Loc", "GT-Known Loc", "Top-1 Class")
"""The columns of Tables IV and V."""

TABLE_4 = {
    "CAM": (41.00, 71.13, None),
    "HaS": (44.67, 73.32, 76.64),
    "ACoL": (45.92, 75.30, 71.90),
    "SPG": (46.64, 74.11, None),
    "ADL": (62.29, 78.62, 80.34),
    "CSTN": (49.03, 76.06, 78.46),
    "CSTN Top-5 box": (None, 81.14, None),
}
"""Table IV, CUB-200-2011 test."""

TABLE_5 = {
    "CAM": (42.80, 61.10, 66.60),
    "HaS": (45.21, 63.12, 70.70),
    "ACoL": (45.83, 62.73, 67.50),
    "SPG": (48.60, 64.24, None),
    "ADL": (48.43, 63.72, 75.85),
    "CSTN": (42.38, 60.48, 69.48),
    "CSTN Top-5 box": (None, 63.45, None),
}
"""Table V, ILSVRC 2012 validation."""

RECALL = 99.0
"""Images of CUB-200-2011 where some box is right: "close to 99%", section IV-C."""

FIGURE_6 = {"level 4": 37.78, "level 5": 42.91, "levels 4 and 5": 48.43}
"""Figure 6, CUB-200-2011: Top-1 Loc of each level alone and of both, from the captions."""

FIGURE_6_AREAS = (6141, 101123)
"""The range that the ten bins divide in the authors' public code, in px² of 320² pixels."""


def printed_about(dataset: str) -> dict[str | float, dict[str, float | None]]:
    """Every number above about one data set of the paper, by row and column; empty for others."""
    if dataset not in TABLE_1:
        return {}
    rows = {row: {"Top-1 Loc": value} for row, value in TABLE_1[dataset].items()}
    methods = {"CUB-200-2011": TABLE_4, "ImageNet": TABLE_5}[dataset]
    rows |= {row: dict(zip(TABLE_COLUMNS, cells, strict=True)) for row, cells in methods.items()}
    if dataset == "CUB-200-2011":
        rows |= TABLE_2 | TABLE_3 | {"any box": {"recall": RECALL}}
        rows |= {panel: {"Top-1 Loc": value} for panel, value in FIGURE_6.items()}
    return rows
