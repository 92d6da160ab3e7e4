"""What people's folders, archives and tables really look like: read as meant, or named in a line.

Each case stands for its kind and is tried with every reader that it can meet.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from miniatures import make_cub, make_folder, make_ilsvrc, write
from PIL import Image

from cstn_lib.data import READERS, DataConfig, open_split
from cstn_lib.data.photos.check import Report, check
from cstn_lib.support.errors import InputError


def make_tiny(root: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(root / "tiny")
    return root / "tiny"


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "cub": make_cub,
    "ilsvrc": make_ilsvrc,
    "ilsvrc plain": lambda root: make_ilsvrc(root, plain=True),
    "folder": make_folder,
}


@pytest.fixture(params=[*LAYOUTS, "tiny-imagenet"])
def layout(request, tmp_path: Path, tiny_imagenet_zip: Path) -> tuple[str, Path]:
    """The name of a reader and a miniature of a layout of it."""
    name = request.param.partition(" ")[0]
    if name == "tiny-imagenet":
        return name, make_tiny(tmp_path, tiny_imagenet_zip)
    return name, LAYOUTS[request.param](tmp_path)


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setattr("cstn_lib.data.project_folder", lambda name, chosen=None: folder)
    return folder


def fingerprints(name: str, root: Path) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = ("train", "val", "test")
        return [open_split(DataConfig(name, image_size=32), s, root).fingerprint for s in splits]


def found(name: str, root: Path) -> Report:
    report = check(READERS[name], root)
    assert report.ok, report
    return report


# What systems and programs leave behind


def litter(folder: Path, photo: Path) -> None:
    """Hidden and machine-made files, and folders with photos in them."""
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".git", "#recycle"):
        (folder / name / "images").mkdir(parents=True)
        shutil.copy(photo, folder / name / photo.name)
        shutil.copy(photo, folder / name / "images" / photo.name)
    for name in (".DS_Store", f"._{photo.name}", "Thumbs.db", "desktop.ini", "._a.xml", "._a.txt"):
        write(folder / name, b"\0\5\26\7")


def test_leftovers_change_nothing_and_are_counted(layout):
    name, root = layout
    expected = fingerprints(name, root)
    photo = next(path for path in sorted(root.rglob("*.[jJ]*")) if path.is_file())
    for folder in [root, *sorted(path for path in root.rglob("*") if path.is_dir())]:
        litter(folder, photo)
    assert fingerprints(name, root) == expected
    counts = found(name, root).findings.counts
    kind = "hidden or made by a machine, passed over"
    assert counts[kind] > 5
    assert set(counts) <= {kind, "photo in two splits"}


def test_leftovers_in_a_zip(tmp_path: Path):
    root = make_folder(tmp_path)
    expected = fingerprints("folder", root)
    for split in ("train", "val", "test"):
        litter(root / split, root / "train/ant/train-ant-0.jpg")
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", root)
    assert fingerprints("folder", Path(archive)) == expected
    (first,) = found("folder", Path(archive)).findings.first.values()
    assert first == f"{archive}/test/#recycle"


# Text files


def test_a_byte_order_mark_is_no_text(layout):
    name, root = layout
    expected = fingerprints(name, root)
    texts = [path for path in root.rglob("*") if path.suffix in (".txt", ".csv", ".xml")]
    for path in texts:
        path.write_bytes("\ufeff".encode() + path.read_bytes())
    assert texts and fingerprints(name, root) == expected


def test_lines_are_counted_from_the_mark_on(tmp_path: Path):
    root = make_cub(tmp_path)
    (root / "images.txt").write_bytes(b"\xef\xbb\xbf1 a\n\xff")
    with pytest.raises(InputError, match=r"images\.txt, line 2: not UTF-8"):
        open_split(DataConfig("cub", image_size=32), "test", root)


@pytest.mark.parametrize("name", ["folder", "tiny-imagenet"])
def test_quoted_tables(name, tmp_path: Path, tiny_imagenet_zip: Path):
    """As spreadsheets write them, with a byte-order mark before the first quote."""
    tiny = name == "tiny-imagenet"
    root = make_tiny(tmp_path, tiny_imagenet_zip) if tiny else LAYOUTS[name](tmp_path)
    expected = fingerprints(name, root)
    separator = "\t" if tiny else ","
    for path in root.rglob("*_boxes.txt" if tiny else "*.[ct][sx][vt]"):
        if separator in (text := path.read_text()):
            with path.open("w", encoding="utf-8-sig", newline="") as file:
                rows = csv.reader(text.splitlines(), delimiter=separator)
                csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
            assert path.read_bytes().startswith(b'\xef\xbb\xbf"')
    assert fingerprints(name, root) == expected


# Archives


@pytest.mark.parametrize(
    ("renamed", "inside"),
    [
        (lambda name: name.replace("/", "\\"), False),
        (lambda name: f"./{name}", False),
        (lambda name: f".\\{name}".replace("/", "\\"), True),
    ],
)
def test_names_of_members(renamed, inside, tmp_path: Path):
    root = make_folder(tmp_path)
    archive = tmp_path / "mine.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root.parent if inside else root))
            if path.is_file():
                packed.write(path, renamed(name))
            else:
                packed.writestr(zipfile.ZipInfo(renamed(f"{name}/")), "")
    assert fingerprints("folder", archive) == fingerprints("folder", root)
    found("folder", archive)


def test_paths_in_the_table_may_have_backslashes(tmp_path: Path):
    root = make_folder(tmp_path)
    expected = fingerprints("folder", root)
    table = root / "boxes.csv"
    table.write_text(table.read_text().replace("/", "\\").replace("test\\", ".\\test\\"))
    assert fingerprints("folder", root) == expected


# Photos that are not read


def test_photos_of_other_kinds_and_places_are_counted(layout):
    name, root = layout
    photos = [path for path in root.rglob("*.[jJ][pP]*") if "val" not in path.parts]
    folder = next(path.parent for path in sorted(photos) if "test" not in path.parts)
    for kind in ("heic", "CR2", "txt"):
        write(folder / f"another.{kind}", b"no")
    write(folder / "deeper/photo.jpg", b"no")
    findings = found(name, root).findings
    kind = "not a kind of photo that is read, passed over"
    assert findings.counts[kind] == 3
    assert findings.first[kind].startswith(f"{folder}/another.CR2: expected .jpg, .jpeg, ")
    assert findings.counts["folder inside a class, passed over"] == 1
    with pytest.warns(UserWarning, match="passed over") as said:
        open_split(DataConfig(name, image_size=32), "train", root)
    assert any("passed over: 3, the first is" in str(warning.message) for warning in said)


def test_photos_beside_the_classes_are_counted(tmp_path: Path):
    folder, fish = make_folder(tmp_path), make_ilsvrc(tmp_path)
    train = fish / "ILSVRC/Data/CLS-LOC/train"
    for place in (folder / "train/alone.jpg", train / "n01440764 (copy)/alone.JPEG"):
        write(place, b"no")
    said = found("folder", folder).findings.first["file outside the classes, passed over"]
    assert said == f"{folder}/train/alone.jpg: expected train/CLASS with photos"
    said = found("ilsvrc", fish).findings.first["no class, passed over"]
    assert said == f"{train}/n01440764 (copy): expected a folder named like n01440764"


def test_jfif_is_jpeg(tmp_path: Path):
    root = make_folder(tmp_path)
    photo = root / "train/ant/train-ant-0.jpg"
    photo.rename(photo.with_suffix(".jfif"))
    assert len(open_split(DataConfig("folder", image_size=32), "train", root)) == 12


@pytest.mark.parametrize("name", ["cub", "folder", "tiny-imagenet"])
@pytest.mark.parametrize(
    ("moved", "said"),
    [
        (lambda path: path.with_suffix(".heic"), "is of a kind that is not read, expected .jpg"),
        (lambda path: path.parent / "sub" / path.name, "is hidden or in no class's folder"),
        (lambda path: path.with_name("none.jpg"), "no such image, expected "),
    ],
)
def test_why_a_photo_of_the_table_is_missing(name, moved, said, tmp_path, tiny_imagenet_zip):
    tiny = name == "tiny-imagenet"
    root = make_tiny(tmp_path, tiny_imagenet_zip) if tiny else LAYOUTS[name](tmp_path)
    folder = {"cub": "images", "folder": "test", "tiny-imagenet": "val/images"}[name]
    photo = sorted((root / folder).rglob("*.[jJ]*"))[-1]
    target = moved(photo)
    target.parent.mkdir(exist_ok=True)
    photo.rename(target)
    for path in [*root.rglob("*.csv"), *root.rglob("*.txt")]:
        if target.stem != "none":
            old, new = (str(p.relative_to(root / folder)) for p in (photo, target))
            path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError) as caught:
        open_split(DataConfig(name, image_size=32), "test", root)
    assert said in str(caught.value) and str(caught.value).count("\n") == 0


# Names


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all names are text")
@pytest.mark.parametrize("kind", ["photo", "class"])
def test_a_name_that_is_no_utf_8(kind, tmp_path: Path):
    root = make_folder(tmp_path)
    place = os.fsencode(root / {"photo": "train/ant/train-ant-0.jpg", "class": "train/ant"}[kind])
    os.rename(place, place + b"\xe9.jpg")
    report = check(READERS["folder"], root)
    message = report.findings.first["split not readable"]
    assert not report.ok
    assert r"\udce9.jpg: its name is no UTF-8, expected one that is; rename it" in message
    message.encode()  # a notebook's file is UTF-8
    with pytest.raises(InputError, match="its name is no UTF-8"):
        open_split(DataConfig("folder", image_size=32), "train", root)


@pytest.mark.parametrize("place", ["\N{CAT FACE} photos", "{1}", "a}b", "$10_$20", "ö"])
def test_names_that_are_unusual(place, tmp_path: Path):
    root = make_folder(tmp_path)
    expected = fingerprints("folder", root)
    for split in ("train", "val", "test"):
        (root / split / "ant").rename(root / split / place)
    table = root / "boxes.csv"
    table.write_text(table.read_text().replace("/ant/", f"/{place}/"), encoding="utf-8")
    moved = root.rename(tmp_path / place)
    images = open_split(DataConfig("folder", image_size=32), "test", moved)
    assert place in images.class_names
    assert images.fingerprint not in expected


# Orientation, from a folder on


def test_a_tiff_of_a_scanner_is_turned_once(tmp_path: Path):
    """The object and its box, 3 to 7 tenths, lie in the same place whatever the tag says."""
    root = make_folder(tmp_path)
    expected = open_split(DataConfig("folder", image_size=40), "test", root)
    lines = (root / "boxes.csv").read_text()
    for path in sorted((root / "test").rglob("*.jpg")):
        with Image.open(path) as photo:
            upright = photo.convert("RGB")
        exif = Image.Exif()
        exif[0x0112] = 6
        upright.transpose(Image.Transpose.ROTATE_90).save(path.with_suffix(".tif"), exif=exif)
        path.unlink()
    (root / "boxes.csv").write_text(lines.replace(".jpg", ".tif"))
    images = open_split(DataConfig("folder", image_size=40), "test", root)
    pairs = {}
    for data in (expected, images):
        for row in range(len(data)):
            key = data.labels[row], data.boxes_of(row).tobytes()
            pairs.setdefault(key, []).append(data.images[row])
    assert all(len(both) == 2 and (both[0] == both[1]).all() for both in pairs.values())
