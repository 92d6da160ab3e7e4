"""`ImageSet`: its files, its batches, and what happens to damaged ones."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cstn_lib.data.images import ImageSet, SplitLists, open_image_set, write_image_set
from cstn_lib.support.errors import InputError

COUNT, SIZE = 5, (6, 8)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (COUNT, *SIZE, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1])
BOXES = [RANDOM.random((n, 4)) for n in (1, 0, 2, 1, 0)]


LISTS = SplitLists(
    name="sketches",
    split="val",
    labels=LABELS,
    boxes=np.concatenate(BOXES),
    box_offsets=np.cumsum([0, *map(len, BOXES)]),
    class_names=["äpple", "bird", "cup"],
    fingerprint="0123abcd",
)


def write(folder: Path, images: Iterable[np.ndarray] = IMAGES) -> ImageSet:
    return write_image_set(folder, LISTS, SIZE, images)


def test_round_trip(tmp_path: Path):
    written = write(tmp_path / "deep" / "val")
    for images in (written, open_image_set(tmp_path / "deep" / "val")):
        assert (images.name, images.split, images.fingerprint) == ("sketches", "val", "0123abcd")
        assert images.class_names == ("äpple", "bird", "cup")
        assert (len(images), images.num_classes, images.image_size) == (COUNT, 3, SIZE)
        np.testing.assert_array_equal(images.images, IMAGES)
        np.testing.assert_array_equal(images.labels, LABELS)
        assert images.images.dtype == np.uint8
        assert images.labels.dtype == np.int64
        assert images.boxes.dtype == np.float32
        for index, boxes in enumerate(BOXES):
            np.testing.assert_array_equal(images.boxes_of(index), boxes.astype(np.float32))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["val"]


def test_an_image_set_without_any_box(tmp_path: Path):
    none = {"boxes": np.empty((0, 4)), "box_offsets": np.zeros(COUNT + 1)}
    images = write_image_set(tmp_path / "set", replace(LISTS, **none), SIZE, IMAGES)
    assert [images.boxes_of(i).shape for i in range(COUNT)] == [(0, 4)] * COUNT


def test_images_stay_on_disk_and_writing_to_them_leaves_the_file(tmp_path: Path):
    images = write(tmp_path / "set")
    assert isinstance(images.images, np.memmap)
    before = (tmp_path / "set" / "images.npy").read_bytes()
    images.images[0] = 7
    del images
    assert (tmp_path / "set" / "images.npy").read_bytes() == before


@pytest.mark.parametrize("indices", [[3], [4, 0, 3, 0]])
def test_a_batch(tmp_path: Path, indices):
    images, labels = write(tmp_path / "set").__getitems__(indices)
    assert images.shape == (len(indices), 3, *SIZE)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == LABELS[indices].tolist()
    assert labels.dtype == torch.int64
    for image, index in zip(images, indices, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0), IMAGES[index])


def test_a_batch_is_a_copy(tmp_path: Path):
    """The engine mirrors images in place."""
    data = write(tmp_path / "set")
    images, labels = data.__getitems__([0, 1])
    images.zero_()
    labels.fill_(-1)
    np.testing.assert_array_equal(data.images, IMAGES)
    np.testing.assert_array_equal(data.labels, LABELS)


def test_single_items(tmp_path: Path):
    data = write(tmp_path / "set")
    image, label = data[2]
    assert image.shape == (3, *SIZE)
    assert label.shape == ()
    assert label.item() == LABELS[2]
    np.testing.assert_array_equal(image.permute(1, 2, 0), IMAGES[2])


def test_a_spawned_process_opens_the_file_again(tmp_path: Path):
    """A loader's worker is given the set by pickle: its pixels stay where they are."""
    data = write(tmp_path / "set")
    packed = pickle.dumps(data)
    assert data.images.tobytes() not in packed
    again = pickle.loads(packed)
    assert isinstance(again.images, np.memmap)
    np.testing.assert_array_equal(again.images, IMAGES)
    np.testing.assert_array_equal(again.labels, LABELS)
    again.__getitems__([0])[0].zero_()
    np.testing.assert_array_equal(again.images, IMAGES)


def test_some_of_the_images_are_pickled_as_they_are(tmp_path: Path):
    data = write(tmp_path / "set")
    some = replace(data, images=data.images[1:3], labels=data.labels[1:3])
    again = pickle.loads(pickle.dumps(some))
    np.testing.assert_array_equal(again.images, IMAGES[1:3])


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
def test_interrupted_writing_leaves_nothing(tmp_path: Path, error):
    def images() -> Iterator[np.ndarray]:
        yield IMAGES[0]
        raise error

    with pytest.raises(type(error)):
        write(tmp_path / "set", images())
    assert list(tmp_path.iterdir()) == []


def test_too_few_images_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="4 rows were made, expected 5"):
        write(tmp_path / "set", IMAGES[:4])
    assert list(tmp_path.iterdir()) == []


FILES = ("images.npy", "labels.npy", "boxes.npy", "box_offsets.npy", "meta.json")


def assert_unreadable(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_image_set(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message


def test_the_files_are_these(tmp_path: Path):
    write(tmp_path / "set")
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted(FILES)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "noise"])
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file(tmp_path: Path, file, damage):
    folder = tmp_path / "set"
    write(folder)
    path = folder / file
    raw = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        content = {"empty": b"", "cut off": raw[:-3], "noise": b"\x80\x05\x93" + raw[3:]}
        path.write_bytes(content[damage])
    assert_unreadable(folder)


def test_a_folder_that_is_not_there(tmp_path: Path):
    assert_unreadable(tmp_path / "absent")


@pytest.mark.parametrize("part", ["name", "split", "class_names", "fingerprint"])
def test_meta_without_a_part(tmp_path: Path, part):
    folder = tmp_path / "set"
    write(folder)
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    del meta[part]
    (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    assert_unreadable(folder)


@pytest.mark.parametrize("content", ["[]", "null", "3"])
def test_meta_that_is_no_object(tmp_path: Path, content):
    folder = tmp_path / "set"
    write(folder)
    (folder / "meta.json").write_text(content, encoding="utf-8")
    assert_unreadable(folder)


def test_an_array_of_another_length(tmp_path: Path):
    """As when a file of another split was copied in."""
    folder = tmp_path / "set"
    write(folder)
    np.save(folder / "labels.npy", LABELS[:3])
    assert_unreadable(folder)
