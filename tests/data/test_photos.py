"""Photos of every kind become 8-bit RGB squares, and their boxes follow them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from miniatures import write
from PIL import Image, ImageOps

from cstn_lib.data.photos.decoding import (
    PhotoArray,
    decode_photo,
    in_parallel,
    read_headers,
)
from cstn_lib.data.photos.faults import Faults
from cstn_lib.data.photos.folder import Folder
from cstn_lib.data.photos.order import balanced_order
from cstn_lib.data.photos.photo_list import Photo, measured, turn_upright, unit_boxes
from cstn_lib.data.photos.sources import FolderSource, inner_path, is_leftover, is_photo, is_safe
from cstn_lib.support.errors import InputError

ORIENTATION = 0x0112


def save(path: Path, image: Image.Image, kind: str, **options: object) -> Path:
    image.save(path, kind, **options)
    return path


def decoded(path: Path, side: int = 16) -> np.ndarray:
    return decode_photo(FolderSource(path.parent), path.name, side)


def mean(path: Path) -> list[int]:
    return decoded(path).reshape(-1, 3).mean(axis=0).round().astype(int).tolist()


def plain(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (20, 30), colour)


# Kinds of files


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (plain("RGB", (200, 100, 50)), "PNG", (200, 100, 50)),
        (plain("RGB", (200, 100, 50)), "BMP", (200, 100, 50)),
        (plain("RGB", (200, 100, 50)), "WEBP", (200, 100, 50)),
        (plain("RGB", (200, 100, 50)), "GIF", (200, 100, 50)),
        (plain("RGB", (200, 100, 50)), "TIFF", (200, 100, 50)),
        (plain("RGB", (200, 100, 50)), "JPEG", (200, 100, 50)),
        (plain("L", 90), "JPEG", (90, 90, 90)),
        (plain("1", 1), "PNG", (255, 255, 255)),
        (plain("CMYK", (0, 255, 255, 0)), "JPEG", (254, 0, 0)),
        (plain("I;16", 200 << 8), "PNG", (200, 200, 200)),
        (plain("I;16", 200 << 8), "TIFF", (200, 200, 200)),
        (plain("I", 200 << 8), "TIFF", (200, 200, 200)),
        (plain("RGBA", (200, 100, 50, 255)), "PNG", (200, 100, 50)),
        (plain("RGBA", (200, 100, 50, 0)), "PNG", (255, 255, 255)),
        (plain("LA", (0, 51)), "PNG", (204, 204, 204)),
        (plain("RGB", (200, 100, 50)).quantize(4), "PNG", (200, 100, 50)),
    ],
)
def test_kinds(tmp_path: Path, image, kind, expected):
    path = save(tmp_path / "photo.jpg", image, kind)  # whatever its name says
    np.testing.assert_allclose(mean(path), expected, atol=4)
    assert decoded(path).dtype == np.uint8


def test_a_palette_with_a_transparent_colour(tmp_path: Path):
    image = plain("RGB", (10, 20, 30)).quantize(2)
    path = save(tmp_path / "p.png", image, "PNG", transparency=image.getpixel((0, 0)))
    assert mean(path) == [255, 255, 255]


def test_jpegs_with_a_second_picture_inside(tmp_path: Path):
    first, second = plain("RGB", (200, 0, 0)), plain("RGB", (0, 0, 200))
    path = save(tmp_path / "p.jpg", first, "MPO", save_all=True, append_images=[second])
    np.testing.assert_allclose(mean(path), (200, 0, 0), atol=4)


@pytest.mark.parametrize("size", [(1, 1), (500, 1), (1, 500), (3, 700)])
def test_images_of_a_pixels_height(tmp_path: Path, size):
    path = save(tmp_path / "p.png", Image.new("RGB", size, (9, 99, 199)), "PNG")
    assert decoded(path, 32).shape == (32, 32, 3)
    assert mean(path) == [9, 99, 199]


def test_resizing_squashes_and_averages(tmp_path: Path):
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, ::2] = 255
    path = save(tmp_path / "p.png", Image.fromarray(pixels), "PNG")
    assert np.abs(decoded(path)[:, 1:-1].astype(int) - 128).max() < 10


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_damaged_exif_part_does_no_harm(tmp_path: Path):
    data = io.BytesIO()
    plain("RGB", (9, 99, 199)).save(data, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\xff")
    write(tmp_path / "p.jpg", data.getvalue())
    np.testing.assert_allclose(mean(tmp_path / "p.jpg"), (9, 99, 199), atol=4)


def test_names_of_photos():
    assert is_photo("a.JPEG") and is_photo("b.png") and is_photo("x.Tif") and is_photo("c.jfif")
    assert not is_photo("a.heic") and not is_photo("a.txt") and not is_photo("jpg")


def test_leftovers_of_systems_and_programs():
    hidden = (".git", ".DS_Store", "._a.jpg", ".ipynb_checkpoints", ".@__thumb")
    made = ("@eaDir", "__MACOSX", "#recycle", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN")
    assert all(map(is_leftover, hidden + made))
    assert not any(map(is_leftover, ("cat", "@home", "#1", "$10_$20", "n01440764", "a.jpg", "_")))


def test_paths_of_archives_and_tables():
    for written in ("train\\cat\\1.jpg", "./train/./cat//1.jpg", ".\\train/cat\\1.jpg"):
        assert inner_path(written) == "train/cat/1.jpg"
    for wicked in ("..\\a", "./../a", "/a", "\\a", "C:\\a", "a/../../b", "a\0b"):
        assert not is_safe(inner_path(wicked))


def test_a_photo_too_large_to_be_read_unasked(tmp_path: Path, monkeypatch):
    path = save(tmp_path / "large.png", plain("RGB", (9, 99, 199)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 299)
    with pytest.raises(InputError, match=r"large\.png: too large .*600 pixels.* limit of 598 "):
        decoded(path)
    faults = Faults(stop=False)
    read_headers(FolderSource(tmp_path, faults=faults), [path.name])
    assert "CSTN_MAX_PIXELS" in faults.first["unreadable image"]
    monkeypatch.setenv("CSTN_MAX_PIXELS", "many")
    with pytest.raises(InputError, match="CSTN_MAX_PIXELS=many: expected a number of pixels"):
        decoded(path)
    monkeypatch.setenv("CSTN_MAX_PIXELS", "1200")
    assert mean(path) == [9, 99, 199]


# Orientation: a photo in which the object's place is known


def turned_photo(
    folder: Path, orientation: int, box: tuple[int, int, int, int], kind: str = "PNG"
) -> Path:
    """A photo whose stored raster, 90 x 60, has a red object at `box`."""
    pixels = np.full((60, 90, 3), 128, np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = (255, 0, 0)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    name = f"{orientation}.{kind.lower()}"
    options = {"lossless": True} if kind == "WEBP" else {}
    return save(folder / name, Image.fromarray(pixels), kind, exif=exif, **options)


def red_hull(image: np.ndarray) -> list[float]:
    y, x = np.nonzero((image[..., 0] > 190) & (image[..., 1] < 64))
    return [v / len(image) for v in (x.min(), y.min(), x.max() + 1, y.max() + 1)]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])  # Pillow itself turns the last
@pytest.mark.parametrize("as_shown", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_their_photo(tmp_path: Path, orientation, as_shown, kind):
    stored = (6, 12, 36, 24)
    path = turned_photo(tmp_path, orientation, stored, kind)
    source = FolderSource(tmp_path)
    pixels = stored
    if as_shown:
        with Image.open(turned_photo(tmp_path, orientation, stored)) as image:
            shown = ImageOps.exif_transpose(image)
        y, x = np.nonzero(np.asarray(shown)[..., 1] == 0)
        pixels = [x.min(), y.min(), x.max() + 1, y.max() + 1]
    given_photo = Photo(path.name, 0, [pixels], ["here"])
    (photo,) = measured(source, [given_photo], "", as_shown=as_shown)
    expected = red_hull(decode_photo(source, path.name, 180))
    np.testing.assert_allclose(photo.boxes[0], expected, atol=1.01 / 180)
    as_png = turned_photo(tmp_path, orientation, stored)
    np.testing.assert_array_equal(decoded(path), decoded(as_png))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sizes_of_the_annotations_tell_which_raster_they_mean(tmp_path: Path, kind):
    path = turned_photo(tmp_path, 6, (6, 12, 36, 24), kind)
    expected = red_hull(decode_photo(FolderSource(tmp_path), path.name, 180))
    for size, pixels in (((90, 60), (6, 12, 36, 24)), ((60, 90), (36, 6, 48, 36))):
        given_photo = Photo(path.name, 0, [pixels], ["here"], size)
        (photo,) = measured(FolderSource(tmp_path), [given_photo], "")
        np.testing.assert_allclose(photo.boxes[0], expected, atol=1.01 / 180)


corners = st.floats(0, 1).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(corners, corners, corners, corners), min_size=1, max_size=5))
def test_turning_by_hand(values):
    raw = np.array(values)
    boxes = np.concatenate(
        [np.minimum(raw[:, :2], raw[:, 2:]), np.maximum(raw[:, :2], raw[:, 2:])], 1
    )
    x0, y0, x1, y1 = boxes.T
    by_hand = {
        1: (x0, y0, x1, y1),
        2: (1 - x1, y0, 1 - x0, y1),
        3: (1 - x1, 1 - y1, 1 - x0, 1 - y0),
        4: (x0, 1 - y1, x1, 1 - y0),
        5: (y0, x0, y1, x1),
        6: (1 - y1, x0, 1 - y0, x1),
        7: (1 - y1, 1 - x1, 1 - y0, 1 - x0),
        8: (y0, 1 - x1, y1, 1 - x0),
    }
    for orientation, expected in by_hand.items():
        turned = [turn_upright(box, orientation) for box in boxes]
        np.testing.assert_allclose(turned, np.stack(expected, axis=1), atol=1e-12)


# Clipping


def test_boxes_become_fractions_and_are_clipped(tmp_path: Path):
    findings = Faults(stop=False)
    source = FolderSource(tmp_path, faults=findings)

    def of(*boxes: tuple[int, ...]) -> list[list[float]] | None:
        return unit_boxes(source, Photo("a", 0, boxes, list(map(str, boxes))), (100, 50))

    found = of((0, 0, 100, 50), (-10, 5, 20, 60))
    np.testing.assert_allclose(found, [(0, 0, 1, 1), (0, 0.1, 0.2, 1)])
    for empty in ((90, 10, 80, 20), (100, 0, 120, 50), (5, 5, 5, 9)):
        assert of((0, 0, 9, 9), empty) is None
    assert findings.counts == {"box without area": 3, "box partly outside, clipped": 1}


def test_clipped_boxes_are_counted_and_reported(tmp_path: Path):
    save(tmp_path / "a.png", plain("RGB", 0), "PNG")
    pixels = [(-5, 0, 10, 10), (0, 0, 20, 30), (2, 2, 21, 30)]
    photo = Photo("a.png", 0, pixels, [f"b.csv, line {row}" for row in range(3)])
    faults = Faults()
    (found,) = measured(FolderSource(tmp_path, faults=faults), [photo], "")
    assert faults.counts == {"box partly outside, clipped": 2}
    assert faults.first["box partly outside, clipped"] == (
        "b.csv, line 0: box -5 0 10 10 leaves its image of 20 x 30 pixels"
    )
    with pytest.warns(UserWarning, match="clipped: 2, the first is b.csv, line 0"):
        faults.warn()
    assert np.min(found.boxes) == 0 and np.max(found.boxes) == 1


# Faults that are counted leave the rest usable


def test_what_is_left_after_faults(tmp_path: Path):
    for name in "abcd":
        save(tmp_path / f"{name}.png", plain("RGB", 0), "PNG")
    (tmp_path / "a.png").write_bytes(b"no")
    (tmp_path / "c.png").unlink()
    boxes = [[(1, 0, 11, 9)], [(5, 5, 5, 5), (3, 0, 13, 9)], [(4, 0, 14, 9)]]
    boxes.append([(0, 0, 10, 9), (5, 0, 15, 9)])
    photos = [
        Photo(f"{name}.png", label, own, list(map(str, own)))
        for label, (name, own) in enumerate(zip("abcd", boxes, strict=True))
    ]
    findings = Faults(stop=False)
    (found,) = measured(FolderSource(tmp_path, faults=findings), photos, "")
    assert dict(findings.counts) == {
        "unreadable image": 1,
        "missing image": 1,
        "box without area": 1,
    }
    assert not findings.clean
    assert (found.file, found.label) == ("d.png", 3)
    np.testing.assert_allclose(np.array(found.boxes)[:, 0] * 20, [0, 5])


def test_headers(tmp_path: Path):
    files = [turned_photo(tmp_path, 6, (1, 1, 2, 2), kind).name for kind in ("PNG", "TIFF")]
    assert read_headers(FolderSource(tmp_path), files).tolist() == [[90, 60, 6]] * 2
    with pytest.raises(InputError, match=r"absent\.png: missing"):
        read_headers(FolderSource(tmp_path), ["absent.png"])


# Order


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_order_against_a_loop(classes):
    labels = np.array(classes)
    files = [f"{label}/{row}.jpg" for row, label in enumerate(classes)]
    order = balanced_order(files, labels)
    assert sorted(order) == list(range(len(files)))
    turn = np.array(
        [(labels[order[:place]] == labels[row]).sum() for place, row in enumerate(order)]
    )
    keys = list(zip(turn.tolist(), labels[order].tolist(), strict=True))
    assert keys == sorted(keys)
    backwards = balanced_order(files[::-1], labels[::-1])
    assert [files[row] for row in order] == [files[::-1][row] for row in backwards]


def test_train_and_val_share_out_a_folder():
    def shared_out(split: str, labels: list[int]) -> list[int]:
        photos = [Photo(str(row), label) for row, label in enumerate(labels)]
        reader = Folder(FolderSource(Path("top")))
        return [int(photo.file) for photo in reader.train_or_val(split, photos, most=20)]

    labels = [0] * 2 + [1] * 30 + [2] * 300
    train, val = (shared_out(split, labels) for split in ("train", "val"))
    assert sorted([*train, *val]) == list(range(len(labels)))
    assert np.bincount(np.array(labels)[val]).tolist() == [1, 3, 20]
    order = balanced_order([str(row) for row in range(len(labels))], labels)
    first = [next(row for row in order if labels[row] == label) for label in range(3)]
    assert set(first) <= set(val), "its first ones in the order of the class"
    with pytest.raises(InputError, match=r"^top/4: the only image of its class"):
        shared_out("val", [0, 0, 1, 1, 2])


# Arrays that decode


def test_photo_array(tmp_path: Path):
    for number in range(4):
        save(tmp_path / f"ö{number}.png", plain("RGB", (number, 0, 0)), "PNG")
    files = np.array([f"ö{number}.png".encode() for number in range(4)])
    photos = PhotoArray(tmp_path, files, 8)
    assert photos.shape == (4, 8, 8, 3) and len(photos) == 4 and photos.ndim == 4
    assert photos[2].shape == (8, 8, 3) and photos[np.int64(2)][0, 0, 0] == 2
    assert photos[[3, 0]][:, 0, 0, 0].tolist() == [3, 0]
    assert photos[:0].shape == (0, 8, 8, 3)
    assert np.asarray(photos).shape == photos.shape
    photos[1][:] = 7  # a copy, as of an array that is mapped copy-on-write


def test_in_parallel_keeps_the_order_and_uses_threads():
    threads = set()

    def work(item: int) -> int:
        threads.add(threading.get_ident())
        return item * item

    assert list(in_parallel(work, range(1000))) == [i * i for i in range(1000)]
    assert threading.get_ident() not in threads


def test_errors_come_through():
    def work(item: int) -> int:
        raise InputError("this one")

    with pytest.raises(InputError, match="this one"):
        list(in_parallel(work, [1, 2]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_are_made_anew_in_a_forked_process():
    code = (
        "import os; from cstn_lib.data.photos.decoding import in_parallel as p;"
        "assert list(p(abs, [-1])) == [1]; pid = os.fork();"
        "assert list(p(abs, [-2])) == [2]; pid or os._exit(7);"
        "assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60, check=False)
    assert done.returncode == 0
