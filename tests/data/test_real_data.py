"""The readers of CUB, ILSVRC, the WSOL metadata and class folders, on miniatures of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import COLOURS, SPECIES, WNIDS, make_cub, make_folder, make_ilsvrc

from cstn_lib.data import DATASETS, READERS, DataConfig, ImageSet, open_split
from cstn_lib.data.images import SplitLists, write_photo_index
from cstn_lib.data.photos import reading
from cstn_lib.data.photos.decoding import PhotoArray
from cstn_lib.data.photos.wsol_metadata import read_wsol_metadata
from cstn_lib.support.errors import InputError

WSOL = Path(__file__).parents[3] / "shared" / "data" / "wsol-metadata"

LAYOUTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "cub": ("cub", make_cub),
    "ilsvrc": ("ilsvrc", make_ilsvrc),
    "ilsvrc, plain": ("ilsvrc", lambda root: make_ilsvrc(root, plain=True)),
    "folder": ("folder", make_folder),
}
layouts = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setattr("cstn_lib.data.project_folder", lambda name, chosen=None: folder)
    return folder


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A miniature of every layout; to be read only."""
    return {
        layout: make(tmp_path_factory.mktemp("layout")) for layout, (_, make) in LAYOUTS.items()
    }


def open_it(layout: str, roots: dict[str, Path], split: str, **options: object) -> ImageSet:
    name = LAYOUTS[layout][0]
    return open_split(DataConfig(name, image_size=64, **options), split, roots[layout])


def test_every_reader_has_its_name():
    assert {name: reader.name for name, reader in READERS.items()} == {n: n for n in READERS}
    assert {"cub", "ilsvrc", "tiny-imagenet", "folder"} < set(DATASETS)


@layouts
def test_splits_do_not_overlap_and_their_boxes_are_the_objects(layout, roots, data_dir):
    seen: dict[str, set[bytes]] = {}
    for split in ("train", "val", "test"):
        images = open_it(layout, roots, split)
        assert images.images.shape == (len(images), 64, 64, 3)
        assert (images.name, images.split) == (LAYOUTS[layout][0], split)
        assert images.num_classes == 3
        assert images.boxes.dtype == np.float32 and len(images.box_offsets) == len(images) + 1
        for index, label in enumerate(images.labels):
            boxes = images.boxes_of(index)
            assert len(boxes) or split == "train"
            reddish = coloured(images.images[index], label)
            assert reddish.any()
            if len(boxes):
                np.testing.assert_allclose(hull(reddish), hull_of(boxes), atol=1.6 / 64)
        seen[split] = {image.tobytes() for image in images.images}
        assert len(seen[split]) == len(images)
    assert not seen["train"] & seen["val"]
    assert not (seen["train"] | seen["val"]) & seen["test"]


def coloured(image: np.ndarray, label: int) -> np.ndarray:
    """(H, W) where the object of that class is."""
    return np.abs(image.astype(int) - COLOURS[label]).max(axis=2) < 70


def hull(mask: np.ndarray) -> np.ndarray:
    y, x = np.nonzero(mask)
    return np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / len(mask)


def hull_of(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)])


@layouts
def test_images_come_in_turns_and_a_limit_keeps_the_first(layout, roots, data_dir):
    everything = open_it(layout, roots, "test")
    assert everything.labels.tolist() == [0, 1, 2] * 4
    few = open_it(layout, roots, "test", test=5)
    np.testing.assert_array_equal(few.images, everything.images[:5])
    np.testing.assert_array_equal(few.boxes, everything.boxes[: everything.box_offsets[5]])
    assert few.fingerprint != everything.fingerprint


@layouts
def test_the_second_opening_decodes_nothing(layout, roots, data_dir, monkeypatch):
    first = open_it(layout, roots, "val")
    monkeypatch.setattr(reading, "decode_photo", lambda *_: pytest.fail("decoded again"))
    second = open_it(layout, roots, "val")
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.images, first.images)


@layouts
def test_a_large_split_is_decoded_on_the_fly(layout, roots, data_dir, monkeypatch):
    stored = {split: open_it(layout, roots, split) for split in ("train", "test")}
    monkeypatch.setattr(reading, "STORED_AT_MOST", 0)
    monkeypatch.setattr(reading, "_RECIPE", 99)  # as if for the first time
    for split, expected in stored.items():
        images = open_it(layout, roots, split)
        assert isinstance(images.images, PhotoArray)
        assert (len(images), images.image_size) == (len(expected), (64, 64))
        assert images.fingerprint != expected.fingerprint
        for part in ("labels", "boxes", "box_offsets"):
            np.testing.assert_array_equal(getattr(images, part), getattr(expected, part))
        np.testing.assert_array_equal(np.asarray(images.images), expected.images)
        for rows in ([5, 0, 5], np.array([True] + [False] * (len(images) - 1)), slice(1, 4), -1):
            np.testing.assert_array_equal(images.images[rows], expected.images[rows])
        batch, labels = images.__getitems__([3, 1])
        assert batch.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(batch, expected.__getitems__([3, 1])[0])
        assert labels.tolist() == expected.labels[[3, 1]].tolist()
        assert images[2][0].shape == (3, 64, 64)


def test_loader_processes_decode_too(roots, data_dir, monkeypatch):
    monkeypatch.setattr(reading, "STORED_AT_MOST", 0)
    images = open_it("cub", roots, "test")
    images[0]  # the threads of this process are there and must not be asked for in another
    loader = torch.utils.data.DataLoader(
        images, 5, num_workers=1, collate_fn=lambda batch: batch, timeout=60
    )
    batches = [batch for batch, _ in loader]
    np.testing.assert_array_equal(torch.cat(batches).permute(0, 2, 3, 1), np.asarray(images.images))


def test_names_of_classes(roots, data_dir):
    species = tuple(name.partition(".")[2] for name in SPECIES)
    assert open_it("cub", roots, "test").class_names == species
    assert open_it("ilsvrc", roots, "test").class_names[1] == "fish number 1"
    assert open_it("folder", roots, "test").class_names == ("ant", "bee", "cat")


def test_cub_splits(roots, data_dir):
    counts = {split: len(open_it("cub", roots, split)) for split in ("train", "val", "test")}
    assert counts == {"train": 33, "val": 3, "test": 12}


def test_every_layout_of_ilsvrc_gives_the_same(roots, data_dir):
    kinds = [layout for layout in LAYOUTS if layout.startswith("ilsvrc")]
    for split in ("train", "val", "test"):
        sets = [open_it(kind, roots, split) for kind in kinds]
        assert len({images.fingerprint for images in sets}) == 1
    assert [len(images.boxes) for images in sets] == [18] * len(kinds)


def test_ilsvrc_train_needs_no_boxes_and_is_the_same_without(tmp_path, roots, data_dir):
    root = make_ilsvrc(tmp_path)
    shutil.rmtree(root / "ILSVRC/Annotations/CLS-LOC/train")
    config = DataConfig("ilsvrc", image_size=64)
    assert open_split(config, "train", root).fingerprint == (
        open_it("ilsvrc", roots, "train").fingerprint
    )
    with pytest.raises(InputError, match="Annotations/train: missing"):
        open_split(config, "val", root)


def test_ilsvrc_test_without_train(tmp_path, roots, data_dir):
    root = make_ilsvrc(tmp_path)
    shutil.rmtree(root / "ILSVRC/Data/CLS-LOC/train")
    expected = open_it("ilsvrc", roots, "test").fingerprint
    assert open_split(DataConfig("ilsvrc", image_size=64), "test", root).fingerprint == expected
    (root / "LOC_synset_mapping.txt").unlink()
    images = open_split(DataConfig("ilsvrc", image_size=64), "test", root)
    assert images.class_names == WNIDS


def test_changed_annotations_are_read_again(tmp_path, data_dir):
    root = make_cub(tmp_path)
    config = DataConfig("cub", image_size=32)
    before = open_split(config, "test", root)
    table = root / "bounding_boxes.txt"
    table.write_text(table.read_text().replace(".0\n", ".5\n"), encoding="utf-8")
    after = open_split(config, "test", root)
    assert after.fingerprint != before.fingerprint


def test_a_zip_and_the_folder_above_are_read_too(tmp_path, roots, data_dir):
    for name, make in (("cub", make_cub), ("folder", make_folder)):
        root = make(tmp_path / name)
        archive = shutil.make_archive(str(tmp_path / root.name), "zip", root.parent, root.name)
        config = DataConfig(name, image_size=64)
        expected = open_it(name, roots, "test").fingerprint
        for place in (root, root.parent, Path(archive)):
            if place == root.parent and name == "folder":
                continue
            assert open_split(config, "test", place).fingerprint == expected


def test_a_folder_without_boxes_can_be_learned_from(tmp_path, data_dir):
    root = make_folder(tmp_path)
    (root / "boxes.csv").unlink()
    assert len(open_split(DataConfig("folder", image_size=32), "train", root)) == 12
    with pytest.raises(InputError, match=r"boxes\.csv: missing"):
        open_split(DataConfig("folder", image_size=32), "test", root)


# The published metadata


@pytest.fixture
def wsol_metadata() -> Path:
    if not WSOL.is_dir():
        pytest.skip(f"{WSOL.name} absent")
    return WSOL


@pytest.mark.parametrize(
    ("dataset", "split", "images", "boxes", "quantiles"),
    [
        ("CUB", "train", 5994, 5994, None),
        ("CUB", "val", 1000, 1000, None),
        ("CUB", "test", 5794, 5794, (0.11, 0.20, 0.31, 0.45, 0.68)),
        ("ILSVRC", "test", 50_000, 80_477, (0.007, 0.05, 0.21, 0.51, 0.90)),
    ],
)
def test_published_metadata(wsol_metadata, dataset, split, images, boxes, quantiles):
    found = read_wsol_metadata(wsol_metadata, dataset, split)
    assert (len(found.files), len(found.boxes)) == (images, boxes)
    assert len(found.box_offsets) - 1 == images
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert found.boxes.min() >= 0 and found.boxes.max() <= 1 and sides.min() > 0
    if quantiles:
        areas = np.quantile(sides.prod(axis=1), (0.05, 0.25, 0.5, 0.75, 0.95))
        np.testing.assert_allclose(areas, quantiles, atol=0.006)
    if dataset == "ILSVRC":
        assert (np.diff(found.box_offsets) == 1).sum() == 38_285


# 1.28 million images


def test_an_index_of_a_million_is_opened_in_seconds_with_little_memory(tmp_path: Path):
    count = 1_281_167
    files = [f"train/n{i % 1000:08}/n{i % 1000:08}_{i}.JPEG" for i in range(count)]
    labels = np.arange(count) % 1000
    none = np.empty((0, 4)), np.zeros(count + 1, np.int64)
    lists = SplitLists("ilsvrc", "train", labels, *none, [str(i) for i in range(1000)], "f")
    write_photo_index(tmp_path / "index", lists, 320, tmp_path, files)
    code = (
        "import resource, sys, time; from pathlib import Path;"
        "from cstn_lib.data.images import open_image_set;"
        "m = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024;"
        "before, t = m(), time.perf_counter();"
        "s = open_image_set(Path(sys.argv[1]));"
        "assert len(s) == 1281167 and s.image_size == (320, 320) and s.labels[-1] == 166;"
        "assert s.images.files[-1].endswith(b'_1281166.JPEG');"
        "print(time.perf_counter() - t, m() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "index")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    seconds, megabytes = map(float, done.stdout.split())
    assert seconds < 5
    assert megabytes < 200
