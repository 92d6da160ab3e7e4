"""Every fault of a data set ends in one line that names the file and what to do; nothing is lost.

Each row of `FAULTS` damages a miniature. Opening the split must then raise one line that begins
with the damaged file, leave the source as it was and write nothing; a check must find the fault and
go on.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from full_disk import NoSpace
from miniatures import WNIDS, make_cub, make_folder, make_ilsvrc, xml_of
from PIL import Image

from cstn_lib.data import READERS, DataConfig, open_split
from cstn_lib.data import images as images_module
from cstn_lib.data.photos import reading
from cstn_lib.data.photos.check import check
from cstn_lib.support.errors import InputError

MAKERS: dict[str, Callable[[Path], Path]] = {
    "cub": make_cub,
    "ilsvrc": make_ilsvrc,
    "folder": make_folder,
}

Edit = Callable[[Path], None]
"""Damages the file that it is given."""


class Fault(NamedTuple):
    """A split of a layout, the file that is damaged, how, and what the line must say after it."""

    layout: str
    split: str
    file: str
    edit: Edit
    message: str
    named: str | None = None  # the file that is named, where it is another one


def gone(path: Path) -> None:
    path.unlink()


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def holds(content: bytes | str) -> Edit:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda path: path.write_bytes(data)


def swap(old: str, new: str) -> Edit:
    """Put `new` in the place of the first `old`."""

    def edit(path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return edit


def line(number: int, new: str | None) -> Edit:
    """Replace a line, counted from 1; None takes it away."""

    def edit(path: Path) -> None:
        lines = path.read_text(encoding="utf-8").split("\n")
        lines[number - 1 : number] = [] if new is None else [new]
        path.write_text("\n".join(lines), encoding="utf-8")

    return edit


def repeated(number: int) -> Edit:
    """The line comes again at the end."""

    def edit(path: Path) -> None:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
        path.write_text("\n".join([*lines, lines[number - 1], ""]), encoding="utf-8")

    return edit


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def emptied(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()


def floats(path: Path) -> None:
    with Image.open(path) as image:
        size = image.size
    Image.new("F", size).save(path, "TIFF")


BIRD = "001.Black_footed_Albatross/Black_footed_Albatross_0012_13.jpg"  # of test, number 13
FISH = "ILSVRC/Data/CLS-LOC/val/ILSVRC2012_val_00000001.JPEG"
FISH_XML = "ILSVRC/Annotations/CLS-LOC/val/ILSVRC2012_val_00000001.xml"
ANT = "test/ant/test-ant-0.jpg"

FAULTS: dict[str, Fault] = {
    # files that are not there or not what they seem
    "list missing": Fault("cub", "test", "classes.txt", gone, "missing, expected as part of CUB"),
    "boxes missing": Fault("cub", "test", "bounding_boxes.txt", gone, "missing"),
    "photo missing": Fault(
        "cub",
        "test",
        f"images/{BIRD}",
        gone,
        f"no such image, expected ROOT/images/{BIRD}",
        "images.txt, line 13",
    ),
    "photo is a folder": Fault(
        "cub", "test", f"images/{BIRD}", folder_instead, "no such image", "images.txt, line 13"
    ),
    "photo truncated": Fault("cub", "test", f"images/{BIRD}", halved, "damaged, expected a whole"),
    "photo empty": Fault("cub", "test", f"images/{BIRD}", holds(b""), "damaged, expected a whole"),
    "photo is a page": Fault(
        "cub", "test", f"images/{BIRD}", holds("<html>404</html>"), "damaged, expected a whole"
    ),
    "photo of floats": Fault("cub", "test", f"images/{BIRD}", floats, "no known range"),
    "list not UTF-8": Fault(
        "cub", "test", "images.txt", holds(b"1 a\n2 \xff"), "line 2: not UTF-8"
    ),
    "list empty": Fault(
        "cub",
        "test",
        "classes.txt",
        holds(""),
        "class '001.Black_footed_Albatross', expected one of",
        "images.txt, line 1",
    ),
    # lines
    "column missing": Fault(
        "cub",
        "test",
        "bounding_boxes.txt",
        line(13, "13 1.0 2.0 3.0"),
        "line 13: expected 5 space-separated columns (image number, x, y, width, height), found 4",
    ),
    "blank line": Fault("cub", "test", "images.txt", line(2, ""), "line 2: expected 2 space-"),
    "tabs for spaces": Fault(
        "cub", "test", "train_test_split.txt", line(3, "3\t1"), "line 3: expected 2 space-"
    ),
    "columns swapped": Fault(
        "cub",
        "test",
        "images.txt",
        line(1, "001.Black/a.jpg 1"),
        "line 1: '001.Black/a.jpg', expected the image number",
    ),
    "label columns swapped": Fault(
        "cub", "test", "train_test_split.txt", line(20, "2 20"), "line 20: image number '2' again"
    ),
    "line twice": Fault(
        "cub", "test", "train_test_split.txt", repeated(5), "line 49: image number '5' again"
    ),
    "image listed twice": Fault(
        "cub", "test", "images.txt", repeated(1), "line 49: image number '1' again"
    ),
    "not a number": Fault(
        "cub",
        "test",
        "bounding_boxes.txt",
        line(13, "13 1.0 two 3.0 4.0"),
        "line 13: 'two', expected a number of pixels",
    ),
    "not finite": Fault(
        "cub", "test", "bounding_boxes.txt", line(13, "13 1.0 nan 3.0 4.0"), "line 13: 'nan'"
    ),
    "path outside": Fault(
        "cub",
        "test",
        "images.txt",
        line(1, "1 ../../secret.jpg"),
        "no such image, expected ROOT/images/../../secret.jpg",
    ),
    # boxes
    "box of zero width": Fault(
        "cub",
        "test",
        "bounding_boxes.txt",
        line(13, "13 5.0 5.0 0.0 20.0"),
        "line 13: box 5 5 5 25 covers nothing",
    ),
    "box of negative height": Fault(
        "cub",
        "test",
        "bounding_boxes.txt",
        line(13, "13 5.0 25.0 9.0 -20.0"),
        "line 13: box 5 25 14 5 covers nothing",
    ),
    "box wholly outside": Fault(
        "cub",
        "test",
        "bounding_boxes.txt",
        line(13, "13 900.0 5.0 10.0 20.0"),
        "line 13: box 900 5 910 25 covers nothing",
    ),
    "box line missing": Fault(
        "cub", "test", "bounding_boxes.txt", line(13, None), "no line of image 13"
    ),
    # labels and splits
    "class that is not listed": Fault(
        "cub",
        "test",
        "classes.txt",
        line(1, "1 001.Other"),
        "class '001.Black_footed_Albatross', expected one of classes.txt",
        "images.txt, line 1",
    ),
    "unknown image": Fault(
        "cub",
        "test",
        "images.txt",
        line(48, None),
        "image 48, expected one of images.txt",
        "train_test_split.txt, line 48",
    ),
    "part neither 0 nor 1": Fault(
        "cub", "test", "train_test_split.txt", line(13, "13 2"), "line 13: '2', expected 1 for"
    ),
    "class without images": Fault(
        "cub",
        "train",
        "classes.txt",
        lambda path: path.write_text(path.read_text() + "4 004.X\n"),
        "line 4: no training image of class 004.X",
    ),
    # ILSVRC
    "val folder missing": Fault(
        "ilsvrc",
        "test",
        "ILSVRC/Data/CLS-LOC/val",
        shutil.rmtree,
        "missing, expected the images",
        "val",
    ),
    "val boxes missing": Fault(
        "ilsvrc",
        "test",
        "ILSVRC/Annotations/CLS-LOC/val",
        shutil.rmtree,
        "missing, expected the boxes",
        "Annotations/val",
    ),
    "class of no folder": Fault(
        "ilsvrc",
        "test",
        FISH_XML,
        holds(xml_of("n09999999", [(1, 2, 30, 40)])),
        "class 'n09999999', expected one of the classes of train",
    ),
    "val photo without boxes": Fault("ilsvrc", "test", FISH_XML, gone, "no box", FISH),
    "val photo truncated": Fault("ilsvrc", "test", FISH, halved, "damaged, expected a whole"),
    "class folder empty": Fault(
        "ilsvrc", "train", f"ILSVRC/Data/CLS-LOC/train/{WNIDS[1]}", emptied, "no image in it"
    ),
    "class of another folder": Fault(
        "ilsvrc",
        "val",
        f"ILSVRC/Annotations/CLS-LOC/train/{WNIDS[2]}/{WNIDS[2]}_6.xml",
        swap(WNIDS[2], WNIDS[1]),
        f"class '{WNIDS[1]}', expected {WNIDS[2]}",
    ),
    "XML of another class": Fault(
        "ilsvrc",
        "test",
        FISH_XML,
        holds(
            xml_of(WNIDS[0], [(1, 1, 9, 9)]).replace(
                "</ann", xml_of(WNIDS[1], [(1, 1, 9, 9)]) + "</ann"
            )
        ),
        f"class '{WNIDS[1]}', expected {WNIDS[0]}",
    ),
    "bad mapping": Fault(
        "ilsvrc", "test", "LOC_synset_mapping.txt", line(2, "tench"), "line 2: 'tench', expected"
    ),
    "XML cut off": Fault("ilsvrc", "test", FISH_XML, halved, "not whole XML"),
    "XML without corner": Fault(
        "ilsvrc", "test", FISH_XML, swap("<xmin>", "<left>"), "not whole XML"
    ),
    "XML box empty": Fault(
        "ilsvrc",
        "test",
        FISH_XML,
        holds(xml_of(WNIDS[0], [(9, 9, 9, 20)])),
        "box 9 9 9 20 covers nothing",
    ),
    "XML of another size": Fault(
        "ilsvrc",
        "test",
        FISH_XML,
        holds(xml_of(WNIDS[0], [(1, 1, 9, 9)], (35, 33))),
        "pixels, expected 35 x 33 as in the annotations",
        FISH,
    ),
    "XML of no size": Fault(
        "ilsvrc",
        "test",
        FISH_XML,
        holds(xml_of(WNIDS[0], [(1, 1, 9, 9)], (-1, 33))),
        "size '-1 33', expected width and height",
    ),
    "XML without number": Fault(
        "ilsvrc",
        "test",
        FISH_XML,
        holds("<a><object><name>n01440764</name></object></a>"),
        "'', expected a number of pixels",
    ),
    "XML without photo": Fault(
        "ilsvrc", "test", FISH, gone, "no image of that name in val", FISH_XML
    ),
    # one's own folders
    "table without header": Fault(
        "folder", "test", "boxes.csv", line(1, None), "expected the header image,x0,y0,x1,y1"
    ),
    "table of other columns": Fault(
        "folder", "test", "boxes.csv", line(1, "image,x,y,w,h"), "line 1: 'image,x,y,w,h', expected"
    ),
    "photo without box": Fault(
        "folder",
        "test",
        "boxes.csv",
        swap(f"{ANT},", "val/x.jpg,"),
        "no box, expected a line of it in boxes.csv",
        ANT,
    ),
    "box of a photo that is not there": Fault(
        "folder", "test", ANT, gone, f"no such image, expected ROOT/{ANT}", "boxes.csv, line 20"
    ),
    "box of no split": Fault(
        "folder",
        "test",
        "boxes.csv",
        swap(f"{ANT},", f"elsewhere/{ANT},"),
        "expected a path from train, val or test",
    ),
    "class that train lacks": Fault(
        "folder",
        "val",
        "train/cat",
        shutil.rmtree,
        "class 'cat', expected one of train",
        "val/cat",
    ),
    "class without photos": Fault("folder", "train", "train/cat", emptied, "no image in it"),
    "split missing": Fault("folder", "val", "val", shutil.rmtree, "no class in it, expected val/"),
    "photo damaged": Fault("folder", "train", "train/ant/train-ant-0.jpg", halved, "damaged"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("whole")) for name, make in MAKERS.items()}


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setattr("cstn_lib.data.project_folder", lambda name, chosen=None: folder)
    return folder


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refusal(name: str, split: str, root: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_split(DataConfig(name, image_size=32), split, root)
    message = str(caught.value)
    assert message.count("\n") == 0
    return message


def test_the_table_is_long_enough():
    assert len(FAULTS) >= 30


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_fault(fault: Fault, whole: dict[str, Path], tmp_path: Path, data_dir: Path):
    root = Path(shutil.copytree(whole[fault.layout], tmp_path / "root"))
    fault.edit(root / fault.file)
    before = tree(root)
    name = fault.layout.partition(" ")[0]

    message = refusal(name, fault.split, root)
    assert message.startswith(f"{root / (fault.named or fault.file)}")
    assert fault.message.replace("ROOT", str(root)) in message
    assert tree(root) == before
    assert [path for path in data_dir.rglob("*") if path.name not in (name, ".cstn-lock")] == []

    report = check(READERS[name], root, deep=True)
    assert not report.ok
    assert message in str(report)
    assert tree(root) == before


# Roots


@pytest.mark.parametrize("name", READERS)
def test_roots_that_are_not_the_data_set(name: str, tmp_path: Path, data_dir: Path):
    absent, empty, text = (tmp_path / part for part in ("absent", "empty", "text.zip"))
    empty.mkdir()
    text.write_text("hello")
    for root in (absent, empty, text):
        message = refusal(name, "test", root)
        assert message.startswith(str(root)) and "expected" in message
    assert not data_dir.exists()


@pytest.mark.parametrize("name", READERS)
def test_no_root_and_no_such_split(name: str, data_dir: Path):
    assert "give data_root" in refusal(name, "test", "")
    root = Path("anywhere")
    assert "unknown split 'dev'" in refusal(name, "dev", root)
    with pytest.raises(InputError, match="test = 0: expected a positive number"):
        open_split(DataConfig(name, test=0), "test", root)


# The disk


def test_full_disk_while_decoding(whole, data_dir: Path, monkeypatch):
    real_open = open
    full = {"open": lambda *args: NoSpace(real_open(*args), 20_000)}
    with monkeypatch.context() as patch:
        patch.setattr(images_module, "open", full["open"], raising=False)
        message = refusal("cub", "test", whole["cub"])
    assert "No space left on device" in message and "free some space and start again" in message
    images = open_split(DataConfig("cub", image_size=32), "test", whole["cub"])
    assert len(images) == 12
    assert [path.name for path in (data_dir / "cub").glob("[!.]*")] == [f"test-{_key(data_dir)}"]


def _key(data_dir: Path) -> str:
    return next((data_dir / "cub").glob("test-*")).name.removeprefix("test-")


def test_too_little_space_is_known_before(whole, data_dir: Path, monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    message = refusal("cub", "test", whole["cub"])
    assert "0.0 GB free" in message and str(data_dir) in message


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_no_rights_to_write(whole, data_dir: Path, monkeypatch, code: int):
    """The superuser may write anywhere, so the system's answer is made up."""

    def refuses(self: Path, *_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "mkdir", refuses)
    message = refusal("cub", "test", whole["cub"])
    assert message.startswith(str(data_dir)) and "choose a folder that you may write to" in message
    assert not data_dir.exists()


def test_a_file_in_the_place_of_the_data_folder(whole, data_dir: Path):
    data_dir.write_text("a note")
    assert str(data_dir) in refusal("cub", "test", whole["cub"])
    assert data_dir.read_text() == "a note"


@pytest.mark.skipif(sys.platform != "linux", reason="uses a memory disk")
def test_a_disk_that_is_really_full(whole, tmp_path: Path):
    """As above on a disk of 64 kB, where this system lets one be made."""
    code = (
        "from pathlib import Path; import sys, cstn_lib.data as d;"
        "d.project_folder = lambda name: Path(sys.argv[2]);"
        "d.open_split(d.DataConfig('cub', image_size=64), 'test', sys.argv[1])"
    )
    place = tmp_path / "disk"
    place.mkdir()
    script = f'mount -t tmpfs -o size=64k none {place} && exec "$@"'
    command = [sys.executable, "-c", code, str(whole["cub"]), str(place)]
    done = (
        subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, "sh", *command],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        if shutil.which("unshare")
        else None
    )
    if done is None or (done.returncode and "InputError" not in done.stderr):
        pytest.skip("no memory disk can be made here")
    assert done.stderr.splitlines()[-1].startswith("cstn_lib.support.errors.InputError: ")
    assert "GB free" in done.stderr or "No space left" in done.stderr


# On the fly


def test_a_photo_that_is_damaged_later(whole, tmp_path: Path, data_dir: Path, monkeypatch):
    monkeypatch.setattr(reading, "STORED_AT_MOST", 0)
    root = Path(shutil.copytree(whole["folder"], tmp_path / "root"))
    images = open_split(DataConfig("folder", image_size=32), "test", root)
    halved(root / ANT)
    with pytest.raises(InputError, match=r"test-ant-0\.jpg: damaged"):
        images.__getitems__(list(range(len(images))))
    (root / ANT).unlink()
    with pytest.raises(InputError, match=r"test-ant-0\.jpg: missing"):
        images.images[:]
