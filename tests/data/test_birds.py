"""The drawn birds: what they depend on, their boxes beside the real ones, and how they are made."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from cstn_lib.data.birds import dataset as birds
from cstn_lib.data.birds.dataset import (
    class_names,
    class_parts,
    draw_bird_image,
    draw_specimen,
    open_birds,
    sample_boxes,
)
from cstn_lib.data.birds.drawing import (
    BODIES,
    MARKS,
    Background,
    Shape,
    bird_shapes,
    paint,
    plain_ground,
)
from cstn_lib.data.config import SPLITS, DataConfig
from cstn_lib.support.errors import InputError

METADATA = Path(__file__).parents[3] / "shared" / "data" / "wsol-metadata"
KINDS = {"cub": "CUB", "ilsvrc": "ILSVRC"}
SAMPLES = 5000

SMALL = DataConfig("birds-cub", train=210, val=20, test=24, pretrain=30, image_size=16)


def drawn_one_by_one(config: DataConfig, split: str, count: int) -> np.ndarray:
    return np.stack([draw_bird_image(config, split, index)[0] for index in range(count)])


def everything_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


# What an image depends on


def test_an_image_depends_on_its_index_alone() -> None:
    forward = [draw_bird_image(SMALL, "train", index) for index in range(6)]
    other_counts = DataConfig("birds-cub", train=7, val=1, test=1, pretrain=1, image_size=16)
    for index in (5, 0, 3, 1, 4, 2):
        image, label, boxes = draw_bird_image(other_counts, "train", index)
        np.testing.assert_array_equal(image, forward[index][0])
        assert label == forward[index][1]
        np.testing.assert_array_equal(boxes, forward[index][2])


def test_the_number_of_images_changes_none_of_them(tmp_path: Path) -> None:
    more = open_birds(DataConfig("birds-cub", train=140, image_size=16), "train", tmp_path)
    fewer = open_birds(DataConfig("birds-cub", train=30, image_size=16), "train", tmp_path)
    np.testing.assert_array_equal(more.images[:30], fewer.images)
    np.testing.assert_array_equal(more.boxes[:30], fewer.boxes)
    np.testing.assert_array_equal(more.images, drawn_one_by_one(SMALL, "train", 140))


@pytest.mark.parametrize("kind", KINDS)
def test_splits_and_seeds_differ(kind: str) -> None:
    drawn = [draw_bird_image(DataConfig(f"birds-{kind}"), split, 0) for split in SPLITS]
    drawn.append(draw_bird_image(DataConfig(f"birds-{kind}", drawing=1), SPLITS[0], 0))
    assert len({image.tobytes() for image, _, _ in drawn}) == len(drawn)
    assert len({boxes.tobytes() for _, _, boxes in drawn}) == len(drawn)


def test_another_size_shows_the_same_scene() -> None:
    for index in range(5):
        image, label, boxes = draw_bird_image(DataConfig("birds-cub"), "test", index)
        large, large_label, large_boxes = draw_bird_image(
            DataConfig("birds-cub"), "test", index, size=240
        )
        assert large.shape == (240, 240, 3)
        assert large_label == label
        np.testing.assert_array_equal(large_boxes, boxes)
        reduced = large.reshape(80, 3, 80, 3, 3).mean(axis=(1, 3))
        other = draw_bird_image(DataConfig("birds-cub"), "test", index + 1)[0]
        assert np.abs(reduced - image).mean() < 0.25 * np.abs(reduced - other).mean()


def test_the_drawing_is_that_of_its_version() -> None:
    """Where this fails, the drawing changed: raise DRAWING_VERSION, then correct the numbers."""
    assert birds.DRAWING_VERSION == 2
    for kind, corners, colour in (
        ("cub", (0.0632, 0.1964, 0.7226, 0.8696), (167.86, 128.54, 111.81)),
        ("ilsvrc", (0.2233, 0.2181, 0.9996, 0.9984), (161.85, 125.54, 109.70)),
    ):
        image, label, boxes = draw_bird_image(DataConfig(f"birds-{kind}"), "train", 0)
        assert label == 0
        np.testing.assert_allclose(boxes, [corners], atol=1e-4)
        np.testing.assert_allclose(image.mean(axis=(0, 1)), colour, atol=0.3)


# The boxes


@lru_cache
def sampled(kind: str) -> list[np.ndarray]:
    return [sample_boxes(kind, np.random.default_rng([11, index])) for index in range(SAMPLES)]


@lru_cache
def annotated(kind: str) -> list[np.ndarray]:
    """The real boxes, (n, 4) in [0, 1] for each image."""
    folder = METADATA / KINDS[kind] / "test"
    if not folder.is_dir():
        pytest.skip(f"{METADATA.name}/{KINDS[kind]}/test absent")
    sizes = {}
    for line in (folder / "image_sizes.txt").read_text().split():
        image, width, height = line.rsplit(",", 2)
        sizes[image] = float(width), float(height)
    boxes: dict[str, list[list[float]]] = {}
    for line in (folder / "localization.txt").read_text().split():
        image, *corners = line.rsplit(",", 4)
        width, height = sizes[image]
        x0, y0, x1, y1 = map(float, corners)
        boxes.setdefault(image, []).append([x0 / width, y0 / height, x1 / width, y1 / height])
    return [np.array(each) for each in boxes.values()]


def area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def area_quantiles(boxes: np.ndarray) -> np.ndarray:
    return np.quantile(area(boxes), (0.05, 0.25, 0.5, 0.75, 0.95))


def log_aspect(boxes: np.ndarray) -> np.ndarray:
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    return np.log(width / height)


def centre_moments(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return centres.mean(axis=0), centres.std(axis=0)


# measured on the public annotations: area quantiles; log aspect mean, sd; centre x and y mean, sd
MEASURED = {
    "cub": ((0.11, 0.20, 0.31, 0.45, 0.68), (-0.10, 0.37), (0.50, 0.52), (0.09, 0.07)),
    "ilsvrc": ((0.007, 0.05, 0.21, 0.51, 0.90), (-0.14, 0.63), (0.50, 0.51), (0.18, 0.16)),
}
AREA_TOLERANCE = {"cub": 0.03, "ilsvrc": 0.04}
# ILSVRC's narrowest boxes are left out: no bird is that thin
ASPECT_TOLERANCE = {"cub": 0.03, "ilsvrc": 0.07}


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_like_the_published_measurements(kind: str) -> None:
    boxes = np.concatenate(sampled(kind))
    areas, (mean, spread), centre, centre_spread = MEASURED[kind]
    np.testing.assert_allclose(area_quantiles(boxes), areas, atol=AREA_TOLERANCE[kind])
    assert log_aspect(boxes).mean() == pytest.approx(mean, abs=0.05)
    assert log_aspect(boxes).std() == pytest.approx(spread, abs=ASPECT_TOLERANCE[kind])
    np.testing.assert_allclose(centre_moments(boxes)[0], centre, atol=0.02)
    np.testing.assert_allclose(centre_moments(boxes)[1], centre_spread, atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_like_the_real_ones(kind: str) -> None:
    boxes, real = np.concatenate(sampled(kind)), np.concatenate(annotated(kind))
    np.testing.assert_allclose(
        area_quantiles(boxes), area_quantiles(real), atol=AREA_TOLERANCE[kind]
    )
    for drawn, measured, tolerance in zip(
        centre_moments(boxes), centre_moments(real), (0.02, 0.03), strict=True
    ):
        np.testing.assert_allclose(drawn, measured, atol=tolerance)
    assert log_aspect(boxes).mean() == pytest.approx(log_aspect(real).mean(), abs=0.05)
    assert log_aspect(boxes).std() == pytest.approx(
        log_aspect(real).std(), abs=ASPECT_TOLERANCE[kind]
    )


def test_small_boxes_come_from_images_with_several() -> None:
    def median_areas(images: list[np.ndarray]) -> list[float]:
        return [
            float(np.median(area(np.concatenate([b for b in images if (len(b) > 1) == several]))))
            for several in (False, True)
        ]

    drawn, real = median_areas(sampled("ilsvrc")), median_areas(annotated("ilsvrc"))
    np.testing.assert_allclose(drawn, real, atol=0.04)


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_boxes_an_image_as_in_the_real_data(kind: str) -> None:
    drawn = np.array([len(boxes) for boxes in sampled(kind)])
    # measured: 80,477 boxes on 50,000 images, 38,285 of which have one; CUB has one everywhere
    single, mean = {"cub": (1, 1), "ilsvrc": (38_285 / 50_000, 80_477 / 50_000)}[kind]
    assert (drawn == 1).mean() == pytest.approx(single, abs=0.02)
    assert drawn.mean() == pytest.approx(mean, abs=0.08)
    real = np.array([len(boxes) for boxes in annotated(kind)])
    for count in (1, 2, 3, 4):
        assert (drawn == count).mean() == pytest.approx((real == count).mean(), abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fixed_square_finds_as_many_as_on_the_real_data(kind: str) -> None:
    def found(images: list[np.ndarray], side: float) -> float:
        low, high = 0.5 - side / 2, 0.5 + side / 2
        boxes = np.concatenate(images)
        extent = np.minimum(boxes[:, 2:], high) - np.maximum(boxes[:, :2], low)
        common = np.prod(np.clip(extent, 0, None), axis=1)
        right = common / (area(boxes) + side**2 - common) >= 0.5
        starts = np.cumsum([0, *(len(each) for each in images)])[:-1]
        return float(np.logical_or.reduceat(right, starts).mean())

    side = {"cub": 200 / 320, "ilsvrc": 240 / 320}[kind]
    assert found(sampled(kind), side) == pytest.approx(found(annotated(kind), side), abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_lie_in_the_image_and_hold_a_bird(kind: str) -> None:
    for boxes in sampled(kind):
        assert boxes.min() >= 0 and boxes.max() <= 1
        assert (boxes[:, 2:] - boxes[:, :2]).min() >= 0.05 - 1e-9
        assert (np.diff(area(boxes)) >= -1e-9).all(), "small boxes, the far ones, come first"


@pytest.mark.parametrize("size", [80, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_the_birds_fill_their_boxes_exactly(
    kind: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silhouettes(background: Background, shapes: list[Shape], size: int) -> np.ndarray:
        return paint(plain_ground(), [Shape(each.points, (0, 0, 0)) for each in shapes], size)

    monkeypatch.setattr(birds, "paint", silhouettes)
    paper = paint(plain_ground(), [], size)
    for index in range(60):
        image, _, boxes = draw_bird_image(DataConfig(f"birds-{kind}"), "test", index, size)
        painted = (image != paper).any(axis=2)
        columns, rows = np.flatnonzero(painted.any(axis=0)), np.flatnonzero(painted.any(axis=1))
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        hull = np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]) * size
        # a pixel that the edge cuts counts as painted, and the painter rounds to thirds of one
        np.testing.assert_allclose(extent, hull, atol=1.2)


@pytest.mark.parametrize("split", ["test", "pretrain"])
def test_the_hull_of_every_bird_is_the_unit_square(split: str) -> None:
    for label in range(len(class_names(split))):
        for aspect, mark in ((0.3, None), (1.0, MARKS[label % 24]), (3.0, None)):
            rng = np.random.default_rng(label)
            shapes = bird_shapes(class_parts(label, split), rng, aspect=aspect, mark=mark)
            points = np.concatenate([shape.points for shape in shapes])
            np.testing.assert_allclose(points.min(axis=0), 0, atol=1e-12)
            np.testing.assert_allclose(points.max(axis=0), 1, atol=1e-12)


# The classes


def test_a_class_is_a_combination_of_head_wing_and_tail() -> None:
    classes = [class_parts(label) for label in range(24)]
    values = [set(part) for part in zip(*classes, strict=True)]
    assert [len(part) for part in values] == [4, 3, 2]
    assert len(set(classes)) == 24 == 4 * 3 * 2
    assert class_names() == tuple("-".join(parts) for parts in classes)
    assert class_names("train") == class_names("val") == class_names("test")


def test_the_pretrain_birds_share_no_part_with_the_others() -> None:
    names = class_names("pretrain")
    pretrain = [class_parts(label, "pretrain") for label in range(len(names))]
    assert len(set(pretrain)) == len(names) > 24
    for ours, theirs in zip(
        zip(*map(class_parts, range(24)), strict=True), zip(*pretrain, strict=True), strict=True
    ):
        assert not set(ours) & set(theirs)


def test_every_part_changes_the_picture() -> None:
    """Classes that differ in one part differ where that part is; the random pose is the same."""

    def changed(monkeypatch: pytest.MonkeyPatch, label: int) -> np.ndarray:
        parts = class_parts(label)
        monkeypatch.setattr(birds, "class_parts", lambda *_: parts)
        return draw_specimen(0, 96).astype(int)

    with pytest.MonkeyPatch.context() as monkeypatch:
        first = changed(monkeypatch, 0)
        differences = {label: np.abs(changed(monkeypatch, label) - first) for label in (1, 2, 6)}
    # labels 1, 2 and 6 differ from 0 in the tail, the wing and the head
    assert [class_parts(label) for label in (1, 2, 6)] == [
        ("hooded", "barred", "fan"),
        ("hooded", "patched", "forked"),
        ("crested", "barred", "forked"),
    ]
    for difference in differences.values():
        assert (difference.max(axis=2) > 40).sum() > 50


def test_labels_are_balanced(tmp_path: Path) -> None:
    images = open_birds(DataConfig("birds-cub", test=53, image_size=16), "test", tmp_path)
    assert images.num_classes == 24
    counts = np.bincount(images.labels, minlength=24)
    assert counts.max() - counts.min() <= 1


# The mark on the head


def test_marks_tell_the_classes_apart() -> None:
    assert len(MARKS) == len(set(MARKS)) == len(class_names())
    assert not set(MARKS) & set(BODIES)


def test_a_share_of_the_birds_wears_the_mark() -> None:
    def draw(probability: float, index: int) -> tuple[np.ndarray, int, np.ndarray]:
        return draw_bird_image(
            DataConfig("birds-cub", head_tell=probability, image_size=32), "test", index
        )

    marked = 0
    for index in range(100):
        (never, label, boxes), (always, *always_rest) = draw(0.0, index), draw(1.0, index)
        sometimes = draw(0.5, index)[0]
        assert always_rest[0] == label
        np.testing.assert_array_equal(always_rest[1], boxes)
        assert not np.array_equal(never, always)
        wears = np.array_equal(sometimes, always)
        assert wears or np.array_equal(sometimes, never)
        marked += wears
    assert 35 <= marked <= 65


def test_the_mark_has_the_colours_of_the_class() -> None:
    for label in range(len(MARKS)):
        plain, marked = (draw_specimen(label, 120, head_tell=tell).astype(int) for tell in (0, 1))
        assert not np.array_equal(plain, marked)
        for colour in MARKS[label]:
            # the ink of a bird varies by at most 12 steps and a tenth
            close = np.abs(marked - colour).max(axis=2) <= 48
            new = close & (np.abs(plain - marked).max(axis=2) > 20)
            assert new.sum() > 10


def test_parts_that_do_not_tell_are_drawn_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """With every mark on: the class is told by the mark alone, boxes and labels stay."""
    worn: list[tuple[tuple[str, ...], object]] = []
    drawn = birds.bird_shapes

    def watched(parts: tuple[str, ...], rng: object, *, mark: object, **options: object) -> object:
        worn.append((parts, mark))
        return drawn(parts, rng, mark=mark, **options)

    monkeypatch.setattr(birds, "bird_shapes", watched)
    usual = DataConfig("birds-cub", head_tell=1.0, image_size=16)
    silent = DataConfig("birds-cub", head_tell=1.0, parts_tell=False, image_size=16)
    pairs = []
    for index in range(480):
        worn.clear()
        _, label, boxes = draw_bird_image(silent, "train", index)
        ((parts, mark),) = worn
        assert mark == MARKS[label]
        pairs.append((label, [class_parts(other) for other in range(24)].index(parts)))
        _, label_of_usual, boxes_of_usual = draw_bird_image(usual, "train", index)
        assert worn[-1] == (class_parts(label), mark)
        assert label_of_usual == label
        np.testing.assert_array_equal(boxes_of_usual, boxes)
    counts = np.zeros((24, 24), int)
    np.add.at(counts, tuple(np.transpose(pairs)), 1)
    assert counts.sum(axis=0).min() > 0, "every kind of parts is drawn"
    # independent: of 480 birds about 20 have the parts of their own class
    assert 5 <= np.trace(counts) <= 40
    assert max(counts.sum(axis=0)) < 45


def test_parts_tell_unless_they_are_told_not_to(tmp_path: Path) -> None:
    """The images of before are the same; the pretraining's never change."""
    for index in range(5):
        plain = draw_bird_image(SMALL, "train", index)[0]
        told = draw_bird_image(replace(SMALL, parts_tell=True), "train", index)[0]
        np.testing.assert_array_equal(told, plain)
    silent = replace(SMALL, parts_tell=False)
    train, pretrain = (
        [
            np.array_equal(draw_bird_image(c, split, i)[0], draw_bird_image(silent, split, i)[0])
            for c in (SMALL,)
            for i in range(10)
        ]
        for split in ("train", "pretrain")
    )
    assert all(pretrain) and not all(train)
    for split in ("train", "pretrain"):
        folders = [open_birds(config, split, tmp_path).fingerprint for config in (SMALL, silent)]
        same = folders[0] == folders[1]
        assert same == (split == "pretrain")


def test_pretrain_birds_never_wear_a_mark(tmp_path: Path) -> None:
    marked = DataConfig("birds-cub", pretrain=30, image_size=16, head_tell=1.0)
    for index in range(5):
        np.testing.assert_array_equal(
            draw_bird_image(marked, "pretrain", index)[0],
            draw_bird_image(SMALL, "pretrain", index)[0],
        )
    np.testing.assert_array_equal(
        draw_specimen(3, 40, split="pretrain", head_tell=True),
        draw_specimen(3, 40, split="pretrain"),
    )
    fingerprints = {open_birds(each, "pretrain", tmp_path).fingerprint for each in (marked, SMALL)}
    assert len(fingerprints) == 1


# Opening


def test_open_birds_gives_what_is_drawn(tmp_path: Path) -> None:
    config = DataConfig("birds-ilsvrc", test=40, image_size=24)
    images = open_birds(config, "test", tmp_path)
    assert (images.name, images.split, len(images)) == ("birds-ilsvrc", "test", 40)
    assert images.image_size == (24, 24)
    assert images.class_names == class_names("test")
    assert len(images.boxes) > 40
    for index in (0, 17, 39):
        image, label, boxes = draw_bird_image(config, "test", index)
        np.testing.assert_array_equal(images.images[index], image)
        assert images.labels[index] == label
        np.testing.assert_array_equal(images.boxes_of(index), boxes)


def test_opening_again_does_not_draw_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_birds(SMALL, "test", tmp_path)

    def must_not_draw(*_: object) -> None:
        raise AssertionError("drawn twice")

    monkeypatch.setattr(birds, "draw_bird_image", must_not_draw)
    second = open_birds(SMALL, "test", tmp_path)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.images, first.images)
    with pytest.raises(AssertionError, match="drawn twice"):
        open_birds(SMALL, "val", tmp_path)


def test_what_changes_the_images_changes_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = (
        {},
        {"test": 23},
        {"image_size": 20},
        {"head_tell": 0.5},
        {"parts_tell": False},
        {"drawing": 1},
        {"name": "birds-ilsvrc"},
    )
    configs = [
        DataConfig(**{"name": "birds-cub", "test": 24, "image_size": 16, **change})
        for change in changes
    ]
    fingerprints = [open_birds(config, "test", tmp_path).fingerprint for config in configs]
    monkeypatch.setattr(birds, "DRAWING_VERSION", birds.DRAWING_VERSION + 1)
    fingerprints.append(open_birds(configs[0], "test", tmp_path).fingerprint)
    assert len(set(fingerprints)) == len(changes) + 1
    unrelated = DataConfig("birds-cub", train=1, val=1, test=24, pretrain=1, image_size=16)
    assert open_birds(unrelated, "test", tmp_path).fingerprint == fingerprints[-1]


def test_an_interrupted_drawing_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(config: DataConfig, split: str, index: int) -> tuple:
        if index == 115:  # in the second batch
            raise KeyboardInterrupt
        return draw_bird_image(config, split, index)

    monkeypatch.setattr(birds, "draw_bird_image", interrupt)
    with pytest.raises(KeyboardInterrupt):
        open_birds(SMALL, "train", tmp_path)
    assert everything_below(tmp_path) == []
    monkeypatch.undo()
    assert len(open_birds(SMALL, "train", tmp_path)) == 210


# What a user can get wrong


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_tell": -0.1}, r"head_tell = -0\.1: expected a probability in \[0, 1\]"),
        ({"head_tell": 1.5}, r"head_tell = 1\.5: expected"),
        ({"head_tell": float("nan")}, "head_tell = nan: expected"),
        ({"train": 0}, "train = 0: expected a positive number"),
        ({"val": -3}, "val = -3: expected a positive number"),
        ({"test": 0}, "test = 0: expected"),
        ({"pretrain": 0}, "pretrain = 0: expected"),
        ({"image_size": 0}, "image_size = 0: expected"),
        ({"drawing": -1}, "drawing = -1: expected 0 or more"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}") as error:
        DataConfig("birds-cub", **options)
    assert "\n" not in str(error.value)


def test_wrong_names_and_numbers(tmp_path: Path) -> None:
    split = r"^unknown split 'tset': expected one of pretrain, test, train, val$"
    for call in (
        lambda: open_birds(SMALL, "tset", tmp_path),
        lambda: draw_bird_image(SMALL, "tset", 0),
        lambda: class_names("tset"),
        lambda: class_parts(0, "tset"),
    ):
        with pytest.raises(InputError, match=split):
            call()
    with pytest.raises(InputError, match=r"^image -1: expected 0 or more$"):
        draw_bird_image(SMALL, "test", -1)
    with pytest.raises(InputError, match=r"^label 24: expected 0 to 23$"):
        draw_specimen(24, 40)
    with pytest.raises(InputError, match=r"^unknown box statistics 'coco': "):
        sample_boxes("coco", np.random.default_rng(0))
    assert everything_below(tmp_path) == []


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    images = open_birds(SMALL, "test", tmp_path)
    folder = tmp_path / "birds-cub" / f"test-{images.fingerprint}"
    (folder / "labels.npy").unlink()
    with pytest.raises(InputError, match="labels") as error:
        open_birds(SMALL, "test", tmp_path)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
