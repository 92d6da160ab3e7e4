"""Imagenette: who is val and test, whose boxes, and what is wrong with a copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from miniatures import jpeg, write
from PIL import Image
from typer.testing import CliRunner

from cstn_lib.cli import app
from cstn_lib.data import DataConfig, ImageSet, open_split
from cstn_lib.data.photos import imagenette
from cstn_lib.data.photos.check import check
from cstn_lib.data.photos.download import ARCHIVES
from cstn_lib.data.photos.imagenette import CLASSES, Imagenette
from cstn_lib.support.errors import InputError

SHARED = Path(__file__).parents[3] / "shared" / "data"
SUBSET = SHARED / "imagenette2-224-subset.zip"
ANNOTATED = imagenette._annotated()
TRAINING = 3  # photos of each class


def coloured(number: int) -> Image.Image:
    """Squashed to a square, in a colour of its own."""
    return Image.new("RGB", (12, 12), (number % 25 * 10, number // 25 * 10, 60))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All photos with boxes, most in train as in the archives, and others; to be read only."""
    top = tmp_path_factory.mktemp("imagenette") / "imagenette2-320"
    for number, (name, photo) in enumerate(ANNOTATED.items()):
        part, wnid = "train" if number % 4 else "val", list(CLASSES)[photo.label]
        write(top / part / wnid / name, jpeg(coloured(number)))
    for label, wnid in enumerate(CLASSES):
        for i in range(TRAINING):
            photo = jpeg(Image.new("RGB", (16, 12), (label * 20, i, 255)))
            write(top / ("val" if i == 1 else "train") / wnid / f"{wnid}_{i}.JPEG", photo)
    return top


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """The same to be changed."""
    return Path(shutil.copytree(whole, tmp_path / whole.name))


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    monkeypatch.setattr("cstn_lib.data.project_folder", lambda name, chosen=None: folder)
    return folder


def opened(root: Path, split: str, **counts: int) -> ImageSet:
    return open_split(DataConfig("imagenette", image_size=12, **counts), split, root)


def refusal(root: Path, split: str) -> str:
    with pytest.raises(InputError) as caught:
        opened(root, split)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The table of boxes


def test_the_table_has_every_box_inside_its_image():
    assert len(ANNOTATED) == 500
    assert sum(len(photo.boxes) for photo in ANNOTATED.values()) == 813
    assert np.bincount([photo.label for photo in ANNOTATED.values()]).tolist() == [50] * 10
    for photo in ANNOTATED.values():
        for x0, y0, x1, y1 in photo.boxes:
            assert 0 <= x0 < x1 <= photo.size[0] and 0 <= y0 < y1 <= photo.size[1]


def test_the_table_is_what_its_source_says():
    """The first lines of the table tell how it was made; this makes it again."""
    if not (SHARED / "wsol-metadata").is_dir():
        pytest.skip("wsol-metadata absent")

    def lines(name: str) -> list[tuple[str, list[int]]]:
        text = (SHARED / f"wsol-metadata/ILSVRC/test/{name}.txt").read_text().splitlines()
        rows = [line.split(",") for line in text]
        return [(row[0].rpartition("/")[2], [int(value) for value in row[1:]]) for row in rows]

    numbers = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # of the classes among the thousand
    sizes = dict(lines("image_sizes"))
    expected = {
        name: (numbers.index(number), tuple(sizes[name]), [])
        for name, (number,) in lines("class_labels")
        if number in numbers
    }
    for name, box in lines("localization"):
        if name in expected:
            expected[name][2].append(box)
    found = {name: (photo.label, photo.size, photo.boxes) for name, photo in ANNOTATED.items()}
    assert found == expected


# Splits


def test_splits(whole: Path):
    sets = {split: opened(whole, split) for split in ("train", "val", "test")}
    assert {split: len(images) for split, images in sets.items()} == {
        "train": 30,
        "val": 200,
        "test": 300,
    }
    assert sets["val"].class_names == tuple(CLASSES.values())
    assert sets["val"].class_names[:2] == ("tench", "English springer")
    for split, each in (("train", TRAINING), ("val", 20), ("test", 30)):
        assert np.bincount(sets[split].labels).tolist() == [each] * 10
    assert len(sets["train"].boxes) == 0
    assert len(sets["val"].boxes) + len(sets["test"].boxes) == 813
    assert (sets["train"].images[..., 2] > 200).all(), "whichever folder they lie in"
    assert (sets["test"].images[..., 2] < 200).all()
    pixels = {split: {image.tobytes() for image in images.images} for split, images in sets.items()}
    assert not pixels["val"] & pixels["test"]


def test_boxes_are_fractions_of_the_original(whole: Path):
    """The colour of a photo tells which one it is."""
    images = opened(whole, "test")
    photos = [photo for photo in ANNOTATED.values()]
    for row in range(len(images)):
        red, green, _ = np.round(images.images[row].mean(axis=(0, 1)) / 10).astype(int)
        photo = photos[25 * green + red]
        expected = np.array(photo.boxes) / np.tile(photo.size, 2)
        np.testing.assert_allclose(images.boxes_of(row), expected, atol=1e-6)


def test_where_a_validation_image_lies_changes_nothing(copy: Path):
    before = {split: opened(copy, split) for split in ("train", "val", "test")}
    for path in sorted((copy / "train").rglob("ILSVRC*")):
        shutil.move(path, copy / "val" / path.parent.name)
    archive = Path(shutil.make_archive(str(copy.parent / "all"), "zip", copy.parent, copy.name))
    for root in (copy, copy.parent, archive):
        for split, images in before.items():
            after = opened(root, split)
            assert after.fingerprint == images.fingerprint
            np.testing.assert_array_equal(after.images, images.images)


def test_some_classes_come_first_in_turns(whole: Path):
    few = opened(whole, "test", test=13)
    assert few.labels.tolist() == [*range(10), 0, 1, 2]


# Sizes


def resave(path: Path, size: tuple[int, int], **options: object) -> None:
    Image.new("RGB", size, "gray").save(path, "JPEG", **options)


def find(root: Path, name: str) -> Path:
    return next(root.rglob(name))


@pytest.mark.parametrize("scale", [1.0, 0.64, 0.3333])
def test_smaller_copies_of_the_same_shape_are_taken(copy: Path, scale: float):
    for name, photo in list(ANNOTATED.items())[:60]:
        size = tuple(max(1, int(side * scale)) for side in photo.size)
        resave(find(copy, name), size)
    assert check(Imagenette, copy).ok


def test_a_photo_of_another_shape_is_a_fault(copy: Path):
    for name, photo in ANNOTATED.items():
        width, height = photo.size
        path = find(copy, name)
        if width > 1.2 * height:
            resave(path, (height, width))
            message = f"{path}: {height} x {width} pixels, expected {width} x {height} as in the"
            break
    messages = []
    for split in ("val", "test"):
        try:
            opened(copy, split)
        except InputError as error:
            messages.append(str(error))
    (found,) = messages
    assert found.startswith(message)


def test_a_photo_that_is_shown_turned(copy: Path):
    """Its boxes are those of the photo as shown, as its shape tells."""
    name = next(name for name, photo in ANNOTATED.items() if photo.size == (500, 375))
    plain = {split: opened(copy, split).boxes for split in ("val", "test")}
    exif = Image.Exif()
    exif[0x0112] = 6
    resave(find(copy, name), (375, 500), exif=exif)
    for split, boxes in plain.items():
        np.testing.assert_array_equal(opened(copy, split).boxes, boxes)


# What is wrong


def test_no_validation_images(copy: Path):
    for path in list(copy.rglob("ILSVRC*")):
        path.unlink()
    for split in ("val", "test"):
        message = refusal(copy, split)
        assert message.startswith(f"{copy}: no validation image of ILSVRC in train or val")
        assert "500" in message
    assert len(opened(copy, "train")) == 30


NAME, FIRST = next(iter(ANNOTATED.items()))
WNID = list(CLASSES)[FIRST.label]


def remove(root: Path) -> None:
    find(root, NAME).unlink()


def move_to_another_class(root: Path) -> None:
    other = next(wnid for wnid in CLASSES if wnid != WNID)
    shutil.move(find(root, NAME), root / "val" / other)


def add_an_unknown_one(root: Path) -> None:
    write(root / "train" / WNID / "ILSVRC2012_val_00000001.JPEG", jpeg(coloured(0)))


def add_twice(root: Path) -> None:
    other = "val" if find(root, NAME).parts[-3] == "train" else "train"
    shutil.copy(find(root, NAME), root / other / WNID)


def add_a_class(root: Path) -> None:
    write(root / "train" / "n00000001" / "n00000001_1.JPEG", jpeg(coloured(0)))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (remove, "missing image", f"val/{WNID}: no {NAME}"),
        (move_to_another_class, "unknown label", f"{NAME}: an image of {WNID}, expected"),
        (add_an_unknown_one, "no box", "ILSVRC2012_val_00000001.JPEG: no box of it in imagenette"),
        (add_twice, "listed twice", f"{NAME}: again, expected once"),
        (add_a_class, "unknown label", "train/n00000001: no class of Imagenette, expected one of"),
    ],
)
def test_faults(copy: Path, change: Callable[[Path], None], kind: str, words: str):
    change(copy)
    assert words in refusal(copy, "val")
    report = check(Imagenette, copy)
    assert not report.ok
    assert report.findings.counts[kind] == 1 and words in report.findings.first[kind]


def test_a_truncated_photo(copy: Path):
    path = copy / "train" / WNID / f"{WNID}_0.JPEG"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    write(path, jpeg(Image.fromarray(noise))[:-2000])
    message = refusal(copy, "train")
    assert message.startswith(f"{path}: damaged") and "truncated" in message
    assert check(Imagenette, copy, deep=True).findings.counts["truncated image"] == 1


def test_a_class_without_training_images(copy: Path):
    for path in list(copy.rglob("n01440764_*")):
        path.unlink()
    assert refusal(copy, "train").startswith(f"{copy}/train: no training image of n01440764")


def test_something_else(tmp_path: Path):
    (tmp_path / "other").mkdir()
    assert "not Imagenette, expected train/ in it" in refusal(tmp_path / "other", "train")
    with pytest.raises(InputError, match="needs its folder or archive: give data_root"):
        open_split(DataConfig("imagenette"), "train")


# The command, and the real photos


def test_the_check(whole: Path):
    result = CliRunner().invoke(app, ["data", "check", "imagenette", "--root", str(whole)])
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["train", "30", "10", "0"] in rows
    boxes = [row[3] for row in rows if row[:1] in (["val"], ["test"])]
    assert sum(map(int, boxes)) == 813
    assert "0 faults, 0 oddities" in result.stdout


def test_what_is_downloaded():
    archive = ARCHIVES["imagenette"]
    assert archive.file == "imagenette2-320.tgz" and archive.folder in Imagenette.inner


def test_the_real_photos():
    if not SUBSET.is_file():
        pytest.skip(f"{SUBSET.name} absent")
    images = opened(SUBSET, "val")
    assert (len(images), len(images.boxes)) == (200, 343)
    assert len(opened(SUBSET, "train", train=50)) == 50
