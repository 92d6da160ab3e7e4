"""Counting by area: against plain loops, and against the real annotations where they are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cstn_lib.evaluation.boxes import box_area, paired_iou
from cstn_lib.evaluation.metrics import area_histogram, mean_interval
from cstn_lib.reproduction.areas import (
    WITH,
    WITHOUT,
    areas_of,
    by_half,
    counts_by_area,
    counts_table,
    effective_bins,
    level_hits,
    pixel_areas,
    published_boxes,
    rates_by_area,
    selection,
    stacked_hits,
)
from cstn_lib.reproduction.comparison import object_areas
from cstn_lib.reproduction.paper import FIGURE_6_AREAS
from cstn_lib.reproduction.runs import Run
from cstn_lib.support.errors import InputError

REAL = Path(__file__).parents[3] / "shared" / "data" / "wsol-metadata"
QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]


@pytest.fixture(scope="module")
def real_boxes():
    """A reader of the real annotations; skips where they are absent."""
    if not REAL.is_dir():
        pytest.skip("the WSOL metadata is absent")
    return lambda dataset: published_boxes(REAL, dataset)


# Counts


def test_counts_of_a_run_by_a_loop(finished_runs: list[Run]):
    for runs in (finished_runs[:2], finished_runs[2:]):
        histogram = counts_by_area(runs)
        images = runs[0].split("test")
        largest = [float(box_area(images.boxes_of(i)).max()) for i in range(len(images))]
        edges = np.linspace(min(largest), max(largest), 11)
        assert histogram.edges == pytest.approx(edges)
        right = {True: np.zeros(len(images)), False: np.zeros(len(images))}
        for run in runs:
            for i, line in run.predictions().iterrows():
                if line["label"] != line["predicted"]:
                    continue
                for moved, column in ((True, "true_box"), (False, "true_default_box")):
                    ious = paired_iou(line[column][:4], line["gt_boxes"].reshape(-1, 4))
                    right[moved][i] += (ious >= 0.5).any() / len(runs)
        for at in range(10):
            low, high = histogram.edges[at : at + 2]
            inside = [low <= a < high or (at == 9 and a == high) for a in largest]
            assert histogram.images[at] == sum(inside)
            for name, moved in ((WITH, True), (WITHOUT, False)):
                expected = right[moved][np.array(inside)].sum()
                assert histogram.localized[name][at] == pytest.approx(expected)
        assert sum(histogram.images) == len(images)


def test_runs_on_other_images_are_refused(finished_runs: list[Run]):
    with pytest.raises(InputError, match="different test images: expected seeds"):
        areas_of(finished_runs[1:3])


def test_stacked_hits(finished_runs: list[Run]):
    stacked = stacked_hits(finished_runs[:2], "top1_class")
    for row, run in zip(stacked, finished_runs[:2], strict=True):
        table = run.predictions()
        assert row.tolist() == (table["label"] == table["predicted"]).astype(int).tolist()


def test_the_table_holds_the_counts():
    histogram = area_histogram(np.array([0.1, 0.2, 0.3]), {"found": np.array([1, 0, 1], bool)}, 2)
    other = replace(histogram, localized={"found": np.array([0.5, 1.337])})
    table = counts_table({"one": histogram, "two": other})
    assert table.index.tolist() == [("one", 1), ("one", 2), ("two", 1), ("two", 2)]
    assert table["images"].tolist() == [1, 2, 1, 2]
    assert table["found"].tolist() == [1, 1, 0.5, 1.34]
    assert table.loc[("two", 1), "area to"] == table.loc[("two", 2), "area from"]


# Rates


def test_rates():
    areas = np.array([0.0, 0.1, 0.2, 0.6, 1.0, 1.1, -0.1])
    right = np.array([1, 0, 1, 0, 1, 1, 1])
    rates = rates_by_area(areas, right, np.array([0, 0.5, 1.0]))
    assert rates["images"].tolist() == [3, 2], "1.0 belongs to the last bin, 1.1 and -0.1 to none"
    assert rates["rate"].tolist() == pytest.approx([2 / 3, 1 / 2])
    assert rates["area"].tolist() == [0.25, 0.75]
    expected = mean_interval(np.array([True, True, False]))
    assert (rates["low"][0], rates["high"][0]) == pytest.approx((expected.low, expected.high))


def test_seeds_do_not_make_more_images():
    areas, right = np.full(8, 0.5), np.array([1, 1, 0, 0, 1, 0, 1, 1])
    once = rates_by_area(areas, right, np.array([0, 1.0]))
    thrice = rates_by_area(areas, np.stack([right] * 3), np.array([0, 1.0]))
    pd.testing.assert_frame_equal(once, thrice)


def test_bins_without_images_have_no_rate():
    rates = rates_by_area(np.array([0.05, 0.95]), np.array([1, 0]), np.linspace(0, 1, 11))
    assert rates["area"].tolist() == pytest.approx([0.05, 0.95])


# Halves


def test_halves():
    random = np.random.default_rng(0)
    areas = random.permutation(100) / 100
    small = areas < 0.5
    values = np.where(small, -0.25, 0.75) + random.normal(0, 0.1, (2, 100))
    found = by_half(areas, values)
    assert found["smaller"].mean == pytest.approx(values[:, small].mean())
    assert found["larger"].mean == pytest.approx(values[:, ~small].mean())
    gap = found["larger less smaller"]
    assert gap.mean == pytest.approx(found["larger"].mean - found["smaller"].mean)
    assert 0.9 < gap.low < gap.mean < gap.high < 1.1


def test_halves_of_an_odd_number():
    found = by_half(np.array([3, 1, 2]), np.array([[1.0, 0, 1]]))
    assert (found["smaller"].mean, found["larger"].mean) == (0, 1)
    assert found["larger less smaller"].mean == pytest.approx(1)


def test_what_does_not_depend_on_the_area_has_no_gap():
    gap = by_half(np.arange(50), np.ones((3, 50)))["larger less smaller"]
    assert (gap.low, gap.high) == pytest.approx((0, 0))


# Levels


def test_the_outer_of_more_groups():
    values = np.tile(np.arange(10.0), (2, 1))
    found = by_half(np.arange(10) + 0.5, values, groups=5)
    assert found["smaller"].mean == 0.5 and found["larger"].mean == 8.5
    gap = found["larger less smaller"]
    assert gap.mean == pytest.approx(8)
    assert gap.low < gap.mean < gap.high
    values[:, 2:8] = 100
    others = by_half(np.arange(10) + 0.5, values, groups=5)
    assert others["larger less smaller"] == gap, "those in between play no part"
    alone = by_half(np.ones(1), np.ones((1, 1)), groups=5)
    assert alone["larger less smaller"] == (0, 0, 0)


def test_selection(finished_runs: list[Run]):
    runs = finished_runs[:2]
    found = selection(runs)
    winner, level, five, anywhere = found.values()
    assert winner <= min(level, five) <= max(level, five) <= anywhere
    each = [selection([run]) for run in runs]
    for name, share in found.items():
        assert share == pytest.approx(np.mean([one[name] for one in each]))


def test_level_hits(finished_runs: list[Run]):
    table = finished_runs[0].predictions()
    found = level_hits(table)
    assert found.shape == (len(table), 2)
    for i, line in table.iterrows():
        for level, box in enumerate(line["level_box"].reshape(-1, 4)):
            ious = paired_iou(box, line["gt_boxes"].reshape(-1, 4))
            assert found[i, level] == (ious >= 0.5).any()


# Annotations alone


@pytest.mark.parametrize(
    ("counts", "expected"), [([5] * 10, 10), ([0, 7, 0], 1), ([1, 1, 0, 0], 2)]
)
def test_effective_bins(counts, expected):
    assert effective_bins(np.array(counts)) == pytest.approx(expected)


def test_no_annotations(tmp_path: Path, tiny_imagenet_zip: Path):
    for root in ("", tmp_path, tmp_path / "missing", tiny_imagenet_zip):
        assert published_boxes(root, "CUB") is None


@pytest.mark.parametrize("above", ["", "metadata"])
def test_annotations_are_found_beside_or_below_metadata(tmp_path: Path, above):
    folder = tmp_path / above / "CUB" / "test"
    folder.mkdir(parents=True)
    lists = {
        "image_ids": "a.jpg\nb.jpg",
        "class_labels": "a.jpg,0\nb.jpg,1",
        "image_sizes": "a.jpg,100,50\nb.jpg,10,10",
        "localization": "a.jpg,0,0,50,25\nb.jpg,1,1,9,6\nb.jpg,0,0,10,10",
    }
    for name, text in lists.items():
        (folder / f"{name}.txt").write_text(text)
    found = published_boxes(tmp_path, "CUB")
    assert found.offsets.tolist() == [0, 1, 3]
    assert box_area(found.boxes) == pytest.approx([0.25, 0.4, 1])
    assert object_areas(found) == pytest.approx([0.25, 1])
    assert published_boxes(tmp_path, "ILSVRC") is None

    (folder / "localization.txt").write_text("a.jpg,0,0,50")
    with pytest.raises(InputError, match=r"localization\.txt, line 1"):
        published_boxes(tmp_path, "CUB")


def test_pixel_areas_round_the_corners():
    boxes = np.array([[0.001, 0, 0.5, 0.5], [0.002, 0, 0.5, 0.5]])
    assert pixel_areas(boxes).tolist() == [160 * 160, 159 * 160]


def test_cub(real_boxes):
    found = real_boxes("CUB")
    areas = object_areas(found)
    assert len(areas) == len(found.boxes) == 5794
    quantiles = np.quantile(areas, QUANTILES)
    assert quantiles == pytest.approx([0.11, 0.20, 0.31, 0.45, 0.68], abs=0.005)
    bars = area_histogram(areas, {}).images
    assert sum(bars) == 5794
    assert bars.tolist() == [766, 1199, 1216, 980, 734, 433, 249, 144, 53, 20]


def test_the_authors_bins_are_those_of_cub_test(real_boxes):
    pixels = pixel_areas(real_boxes("CUB").boxes)
    assert (pixels.min(), pixels.max()) == FIGURE_6_AREAS


def test_ilsvrc(real_boxes):
    found = real_boxes("ILSVRC")
    counts = np.diff(found.offsets)
    assert (len(counts), len(found.boxes), (counts == 1).sum()) == (50_000, 80_477, 38_285)
    areas = box_area(found.boxes)
    assert np.quantile(areas, QUANTILES) == pytest.approx(
        [0.007, 0.05, 0.21, 0.51, 0.90], abs=0.005
    )
    by_box = area_histogram(areas, {}).images
    by_image = area_histogram(object_areas(found), {}).images
    assert (sum(by_box), sum(by_image)) == (80_477, 50_000)
    # the caption of Figure 8 is right by box, the text of section IV-C by image
    assert effective_bins(by_box) < 8 < 9.5 < effective_bins(by_image)
