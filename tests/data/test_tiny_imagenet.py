"""The Tiny ImageNet reader on miniature copies of the layout, faulty ones, and the real subset."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cstn_lib.data.images import ImageSet
from cstn_lib.data.photos.reading import SPLITS, open_photos
from cstn_lib.data.photos.tiny_imagenet import TinyImageNet
from cstn_lib.support.errors import InputError

SUBSET = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet-200-subset20.zip"

# the order of wnids.txt, which is not the alphabetical one
WNIDS = ["n03000003", "n01000001", "n02000002"]
TRAIN_IMAGES, TEST_IMAGES = 20, 4  # a class
Layout = dict[str, bytes]

VAL = "val/val_annotations.txt"
BOXES = "train/n01000001/n01000001_boxes.txt"
PHOTO = "train/n01000001/images/n01000001_7.JPEG"
TEST_PHOTO = "val/images/val_4.JPEG"


# A miniature layout: the colour of each image says which one it is


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def plain(red: int, green: int, blue: int) -> bytes:
    return jpeg(Image.new("RGB", (64, 64), (red, green, blue)))


def pixel_box(index: int) -> tuple[int, int, int, int]:
    return index, 2 * index, 63 - index, 63


def make_layout() -> Layout:
    files = {
        "wnids.txt": "\n".join(WNIDS).encode(),
        "words.txt": b"n01000001\tgoldfish, Carassius\nn03000003\tbroom\nn09999999\tother\n",
    }
    rows = []
    for label, wnid in enumerate(WNIDS):
        boxes = []
        for index in range(TRAIN_IMAGES):
            name = f"{wnid}_{index}.JPEG"
            files[f"train/{wnid}/images/{name}"] = plain(40 + 80 * label, 20 + 10 * index, 0)
            boxes.append("\t".join(map(str, (name, *pixel_box(index)))))
        files[f"train/{wnid}/{wnid}_boxes.txt"] = "\n".join(boxes).encode() + b"\n"
        for index in range(TEST_IMAGES):
            name = f"val_{3 * index + label}.JPEG"
            files[f"val/images/{name}"] = plain(40 + 80 * label, 20 + 10 * index, 255)
            rows.append("\t".join(map(str, (name, wnid, *pixel_box(index)))))
    files["val/val_annotations.txt"] = "\n".join(rows).encode() + b"\n"
    return files


LAYOUT = make_layout()


def write_folder(files: Layout, top: Path) -> Path:
    for name, data in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(data)
    return top


def write_zip(files: Layout, path: Path, prefix: str = "tiny-imagenet-200/") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(prefix + name, data)
    return path


SOURCES: dict[str, Callable[[Layout, Path], Path]] = {
    "folder": lambda files, tmp: write_folder(files, tmp / "photos"),
    "outer folder": lambda files, tmp: (
        write_folder(files, tmp / "outer" / "tiny-imagenet-200").parent
    ),
    "zip": lambda files, tmp: write_zip(files, tmp / "tiny.zip"),
    "flat zip": lambda files, tmp: write_zip(files, tmp / "flat.zip", prefix=""),
}


def open_split(
    root: Path, split: str, tmp: Path, image_size: int = 64, limit: int | None = None
) -> ImageSet:
    return open_photos(
        TinyImageNet, root, split, image_size=image_size, data_dir=tmp / "data", limit=limit
    )


def identities(images: ImageSet) -> list[tuple[int, int]]:
    """Label and index of each image, read off its colour."""
    colours = np.asarray(images.images, dtype=float).mean(axis=(1, 2))
    return [(round((red - 40) / 80), round((green - 20) / 10)) for red, green, _ in colours]


# What a reader gets


@pytest.mark.parametrize("kind", SOURCES)
def test_splits_are_whole_balanced_and_disjoint(kind: str, tmp_path: Path) -> None:
    root = SOURCES[kind](LAYOUT, tmp_path)
    seen = {}
    for split in SPLITS:
        images = open_split(root, split, tmp_path, image_size=40)
        assert (images.name, images.split) == ("tiny-imagenet", split)
        assert images.image_size == (40, 40)
        assert images.class_names == ("broom", "goldfish", "n02000002")
        seen[split] = identities(images)
        assert [label for label, _ in seen[split]] == images.labels.tolist()
        for row, (_, index) in enumerate(seen[split]):
            x0, y0, x1, y1 = pixel_box(index)
            expected = np.array([[x0, y0, x1 + 1, y1 + 1]]) / 64
            np.testing.assert_array_equal(images.boxes_of(row), expected)
        blue = images.images[..., 2].mean()
        assert blue > 250 if split == "test" else blue < 5

    def whole(count: int) -> set[tuple[int, int]]:
        return {(label, index) for label in range(len(WNIDS)) for index in range(count)}

    assert not set(seen["train"]) & set(seen["val"])
    assert sorted(seen["train"] + seen["val"]) == sorted(whole(TRAIN_IMAGES))
    assert sorted(seen["test"]) == sorted(whole(TEST_IMAGES))
    assert np.bincount([label for label, _ in seen["val"]]).tolist() == [2, 2, 2]


@pytest.mark.parametrize("split", SPLITS)
def test_folder_and_zip_give_the_same_set(split: str, tmp_path: Path) -> None:
    one, other = (
        open_split(SOURCES[kind](LAYOUT, tmp_path), split, tmp_path) for kind in ("folder", "zip")
    )
    assert one.fingerprint == other.fingerprint
    for part in ("images", "labels", "boxes", "box_offsets"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))


def test_split_does_not_depend_on_the_order_of_lines(tmp_path: Path) -> None:
    backwards = {
        name: b"\n".join(reversed(data.splitlines())) if name in (VAL, BOXES) else data
        for name, data in LAYOUT.items()
    }
    for split in SPLITS:
        one = open_split(write_zip(LAYOUT, tmp_path / "one.zip"), split, tmp_path)
        other = open_split(write_zip(backwards, tmp_path / "other.zip"), split, tmp_path)
        assert one.fingerprint == other.fingerprint


def test_limit_is_spread_over_the_classes_and_keeps_the_order(tmp_path: Path) -> None:
    root = SOURCES["zip"](LAYOUT, tmp_path)
    everything = identities(open_split(root, "train", tmp_path))
    for limit in (1, 3, 7):
        limited = open_split(root, "train", tmp_path, limit=limit)
        assert identities(limited) == everything[:limit]
        counts = np.bincount(limited.labels, minlength=len(WNIDS))
        assert counts.max() - counts.min() <= 1
        assert limited.num_classes == len(WNIDS)
    assert len(open_split(root, "test", tmp_path, limit=1000)) == len(WNIDS) * TEST_IMAGES


def test_boxes_are_inclusive_pixels(tmp_path: Path) -> None:
    rows = {
        "val_0.JPEG\tn03000003": (0, 0, 63, 63),
        "val_1.JPEG\tn01000001": (5, 6, 5, 6),
        "val_2.JPEG\tn02000002": (63, 0, 63, 31),
    }
    files = {
        "wnids.txt": "\r\n".join(WNIDS).encode(),
        VAL: "\r\n".join("\t".join(map(str, (row, *box))) for row, box in rows.items()).encode(),
        **{f"val/images/val_{index}.JPEG": plain(0, 0, 0) for index in range(3)},
    }
    root = write_folder(files, tmp_path / "photos")
    boxes = open_split(root, "test", tmp_path).boxes * 64
    assert boxes.tolist() == [[0, 0, 64, 64], [5, 6, 6, 7], [63, 0, 64, 32]]


def test_grey_images_become_rgb_and_small_ones_are_averaged(tmp_path: Path) -> None:
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    photo = jpeg(Image.fromarray(stripes))
    files = {n: photo if n.startswith("val/images") else d for n, d in LAYOUT.items()}
    images = open_split(write_folder(files, tmp_path / "r"), "test", tmp_path, image_size=16)
    assert images.images.shape == (12, 16, 16, 3)
    inside = images.images[:, 2:-2, 2:-2].astype(int)
    assert np.abs(inside - 128).max() < 10


# The cache


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_second_opening_decodes_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = SOURCES[kind](LAYOUT, tmp_path)
    first = open_split(root, "val", tmp_path)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("decoded again"))
    second = open_split(root, "val", tmp_path)
    assert second.fingerprint == first.fingerprint
    np.testing.assert_array_equal(second.images, first.images)


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    "change",
    [
        ("train/n01000001/n01000001_boxes.txt", lambda d: d.replace(b"\t63\n", b"\t62\n", 20)),
        ("words.txt", lambda d: d.replace(b"broom", b"besom")),
        ("wnids.txt", lambda d: b"\n".join(sorted(d.splitlines()))),
        ("train/n01000001/images/n01000001_0.JPEG", lambda _: plain(9, 99, 199)),
    ],
    ids=["boxes", "words", "wnids", "image"],
)
def test_changed_source_is_read_again(
    kind: str, change: tuple[str, Callable[[bytes], bytes]], tmp_path: Path
) -> None:
    name, edit = change
    before = [open_split(SOURCES[kind](LAYOUT, tmp_path), s, tmp_path) for s in ("train", "val")]
    assert edit(LAYOUT[name]) != LAYOUT[name]
    changed = SOURCES[kind]({**LAYOUT, name: edit(LAYOUT[name])}, tmp_path)
    after = [open_split(changed, s, tmp_path) for s in ("train", "val")]
    assert [s.fingerprint for s in before] != [s.fingerprint for s in after]


def test_image_size_is_part_of_the_identity(tmp_path: Path) -> None:
    root = SOURCES["zip"](LAYOUT, tmp_path)
    small, large = (open_split(root, "val", tmp_path, image_size=size) for size in (32, 48))
    assert small.fingerprint != large.fingerprint
    assert open_split(root, "val", tmp_path, image_size=32).image_size == (32, 32)


# Faults: split, file, its new content (None: gone), what the one line must say


def line(number: int, new: str) -> Callable[[bytes], bytes]:
    """Replace one line, counted from 1."""

    def edit(data: bytes) -> bytes:
        lines = data.decode().splitlines()
        lines[number - 1] = new
        return "\n".join(lines).encode()

    return edit


def gone(_: bytes) -> None:
    return None


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


FAULTS = {
    "test column missing": (
        "test",
        VAL,
        line(2, "val_3.JPEG\tn03000003\t0\t0\t9"),
        f"{VAL}, line 2: expected 6 tab-separated columns",
    ),
    "train column too many": (
        "train",
        BOXES,
        line(3, "n01000001_2.JPEG\t0\t0\t9\t9\t9"),
        f"{BOXES}, line 3: expected 5 tab-separated columns",
    ),
    "spaces for tabs": (
        "val",
        BOXES,
        line(1, "n01000001_0.JPEG 0 0 9 9"),
        f"{BOXES}, line 1: expected 5 tab-separated columns",
    ),
    "blank line": (
        "val",
        BOXES,
        line(4, ""),
        f"{BOXES}, line 4: expected 5 tab-separated columns (file, x0, y0, x1, y1), found 1",
    ),
    "not a number": (
        "test",
        VAL,
        line(1, "val_0.JPEG\tn03000003\t0\tone\t9\t9"),
        f"{VAL}, line 1: 'one', expected a number",
    ),
    "empty number": (
        "train",
        BOXES,
        line(1, "n01000001_0.JPEG\t\t0\t9\t9"),
        f"{BOXES}, line 1: '', expected a number",
    ),
    "inverted box": (
        "train",
        BOXES,
        line(1, "n01000001_0.JPEG\t9\t0\t8\t9"),
        f"{BOXES}, line 1: box 9 0 9 10 covers nothing",
    ),
    "inverted box in y": (
        "test",
        VAL,
        line(1, "val_0.JPEG\tn03000003\t0\t9\t9\t0"),
        f"{VAL}, line 1: box 0 9 10 1 covers nothing",
    ),
    "unknown class": (
        "test",
        VAL,
        line(6, "val_4.JPEG\tn09999999\t0\t0\t9\t9"),
        f"{VAL}, line 6: class 'n09999999', expected one of wnids.txt",
    ),
    "train folder of no class": (
        "train",
        "wnids.txt",
        lambda d: d.replace(b"n01000001\n", b""),
        "train/n01000001: expected a class of wnids.txt",
    ),
    "test image missing": ("test", TEST_PHOTO, gone, f"{VAL}, line 6: no such image, expected"),
    "train image missing": ("train", PHOTO, gone, f"{BOXES}, line 8: no such image, expected"),
    "test image without box": (
        "test",
        "val/images/val_99.JPEG",
        lambda _: plain(1, 1, 1),
        "val/images/val_99.JPEG: no box",
    ),
    "train image without box": (
        "train",
        "train/n01000001/images/new.JPEG",
        lambda _: plain(1, 1, 1),
        "images/new.JPEG: no box",
    ),
    "test line twice": (
        "test",
        VAL,
        lambda d: d + d.splitlines()[0],
        f"{VAL}, line 13: file 'val_0.JPEG' again, expected once (it is on line 1)",
    ),
    "train line twice": (
        "val",
        BOXES,
        lambda d: d + d.splitlines()[2],
        f"{BOXES}, line 21: file 'n01000001_2.JPEG' again",
    ),
    "test class without images": (
        "test",
        "wnids.txt",
        lambda d: d + b"\nn04000004",
        f"{VAL}: no image of class n04000004",
    ),
    "train class without images": (
        "val",
        BOXES,
        lambda _: b"",
        f"{BOXES}: no image of class n01000001",
    ),
    "train class without folder": (
        "train",
        "wnids.txt",
        lambda d: d + b"\nn04000004",
        "n04000004_boxes.txt: missing",
    ),
    "no test annotations": ("test", VAL, gone, f"{VAL}: missing"),
    "no box file": ("train", BOXES, gone, f"{BOXES}: missing"),
    "odd class id": (
        "test",
        "wnids.txt",
        line(2, "../../x"),
        "wnids.txt, line 2: '../../x', expected a WNID",
    ),
    "class twice": (
        "test",
        "wnids.txt",
        lambda d: d + b"\nn01000001",
        "wnids.txt, line 4: class n01000001 again",
    ),
    "no classes": ("val", "wnids.txt", lambda _: b"\n", "wnids.txt: no line"),
    "words without tab": (
        "val",
        "words.txt",
        line(2, "n03000003 broom"),
        "words.txt, line 2: 'n03000003 broom', expected WNID, tab, names",
    ),
    "not text": (
        "val",
        BOXES,
        lambda d: d.replace(b"n01000001_1.", b"\xff\xfe", 1),
        f"{BOXES}, line 2: not UTF-8",
    ),
    "truncated test image": (
        "test",
        TEST_PHOTO,
        halved,
        f"{TEST_PHOTO}: damaged, expected a whole JPEG, PNG",
    ),
    "empty image": ("test", TEST_PHOTO, lambda _: b"", f"{TEST_PHOTO}: damaged"),
    "text for an image": ("test", TEST_PHOTO, lambda _: b"<html>", f"{TEST_PHOTO}: damaged"),
    "image of another size": (
        "test",
        TEST_PHOTO,
        lambda _: jpeg(Image.new("RGB", (80, 64))),
        f"{TEST_PHOTO}: 80 x 64 pixels, expected 64 x 64",
    ),
}


def refusal(root: Path, split: str, tmp: Path, **arguments: int) -> str:
    """The message of the `InputError`, once it is one line and nothing was left behind."""
    with pytest.raises(InputError) as caught:
        open_split(root, split, tmp, **arguments)
    message = str(caught.value)
    assert message.count("\n") == 0
    written = (tmp / "data").rglob("*")
    assert [path for path in written if path.name not in ("tiny-imagenet", ".cstn-lock")] == []
    return message


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(("split", "name", "edit", "expected"), FAULTS.values(), ids=FAULTS)
def test_faults_are_refused(
    kind: str,
    split: str,
    name: str,
    edit: Callable[[bytes], bytes | None],
    expected: str,
    tmp_path: Path,
) -> None:
    files = dict(LAYOUT)
    new = edit(files.pop(name, b""))
    if new is not None:
        files[name] = new
    root = SOURCES[kind](files, tmp_path)
    message = refusal(root, split, tmp_path)
    assert message.startswith(str(root))
    assert expected in message


def test_truncated_train_image_is_refused_whichever_split_it_is_in(tmp_path: Path) -> None:
    files = {
        n: halved(d) if n.startswith("train/n01000001/images") else d for n, d in LAYOUT.items()
    }
    root = SOURCES["folder"](files, tmp_path)
    for split in ("train", "val"):
        assert "damaged, expected a whole JPEG, PNG" in refusal(root, split, tmp_path)


def test_class_of_one_train_image_cannot_be_split(tmp_path: Path) -> None:
    files = {n: d for n, d in LAYOUT.items() if not re.search(r"n01000001_([1-9]|1\d)\.JPEG", n)}
    files[BOXES] = files[BOXES].splitlines()[0]
    message = refusal(SOURCES["zip"](files, tmp_path), "train", tmp_path)
    assert "n01000001_0.JPEG: the only image of its class, expected at least 2" in message


def test_files_of_other_programs_are_passed_over(tmp_path: Path) -> None:
    clutter = (".DS_Store", "val/images/._val_0.JPEG", "train/.DS_Store", "val/images/Thumbs.db")
    root = SOURCES["folder"]({**LAYOUT, **dict.fromkeys(clutter, b"clutter")}, tmp_path)
    (root / "val" / "images" / "link.JPEG").symlink_to("nowhere")
    assert len(open_split(root, "test", tmp_path)) == len(WNIDS) * TEST_IMAGES
    assert len(open_split(root, "val", tmp_path)) == len(WNIDS) * 2


def test_roots_that_are_not_tiny_imagenet(tmp_path: Path) -> None:
    absent = tmp_path / "absent.zip"
    assert refusal(absent, "test", tmp_path).startswith(f"{absent}: missing")

    empty = tmp_path / "empty"
    empty.mkdir()
    assert refusal(empty, "test", tmp_path).startswith(f"{empty}: not Tiny ImageNet")

    other = write_zip({"readme.txt": b"something else"}, tmp_path / "other.zip")
    assert refusal(other, "test", tmp_path).startswith(f"{other}: not Tiny ImageNet")

    text = tmp_path / "text.zip"
    text.write_text("<html>not found</html>")
    assert refusal(text, "test", tmp_path).startswith(f"{text}: not a whole zip archive")

    cut = write_zip(LAYOUT, tmp_path / "cut.zip")
    cut.write_bytes(halved(cut.read_bytes()))
    assert refusal(cut, "test", tmp_path).startswith(f"{cut}: not a whole zip archive")


def test_damaged_member_of_a_zip(tmp_path: Path) -> None:
    root = tmp_path / "stored.zip"
    with zipfile.ZipFile(root, "w", zipfile.ZIP_STORED) as archive:
        for name, data in LAYOUT.items():
            archive.writestr(name, data)
    data = root.read_bytes()
    start = data.index(LAYOUT[TEST_PHOTO]) + 300
    root.write_bytes(data[:start] + bytes(4 * [data[start] ^ 1]) + data[start + 4 :])
    assert f"{TEST_PHOTO}: damaged in the zip" in refusal(root, "test", tmp_path)


def test_arguments(tmp_path: Path) -> None:
    root = SOURCES["zip"](LAYOUT, tmp_path)
    assert "unknown split 'dev': expected one of" in refusal(root, "dev", tmp_path)


# The real photographs


def test_real_subset(tmp_path: Path) -> None:
    if not SUBSET.is_file():
        pytest.skip(f"{SUBSET.name} absent")
    counts = {"train": 450, "val": 50, "test": 50}
    names = set()
    for split, count in counts.items():
        images = open_split(SUBSET, split, tmp_path, image_size=16)
        assert np.bincount(images.labels).tolist() == [count] * 20
        assert len(images.boxes) == len(images) == 20 * count
        assert images.boxes.min() == 0
        assert images.boxes.max() == 1
        assert (images.boxes[:, 2:] > images.boxes[:, :2]).all()
        assert images.images.std() > 30
        names.add(images.class_names)
    assert len(names) == 1
    assert {"goldfish", "school bus", "pizza"} < set(names.pop())
