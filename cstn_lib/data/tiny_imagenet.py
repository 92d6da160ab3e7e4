"""Tiny ImageNet: small photographs with one box each, from a folder or straight from the zip.

A real counterpart, at the size of a laptop, of the paper's ILSVRC experiments (section IV-A). The
layout is that of the original archive, in full or with fewer classes:

    wnids.txt                    one class (WordNet id, WNID) a line; the line number is the label
    words.txt                    WNID, tab, names separated by commas; optional
    train/WNID/images/*.JPEG
    train/WNID/WNID_boxes.txt    file, x0, y0, x1, y1; tab-separated, inclusive pixels of 64 x 64
    val/images/*.JPEG
    val/val_annotations.txt      file, WNID, x0, y0, x1, y1

Three splits are made of its two labelled folders. ``test`` is the ``val`` folder: results are
reported on it, so nothing may be chosen on it. ``train`` and ``val`` share the ``train`` folder. A
tenth of each class is held back as ``val``, whose boxes may be used to choose hyper-parameters (the
part that Choe et al., "Evaluating Weakly Supervised Object Localization Methods Right", 2020, call
``train-fullsup``); the rest is ``train``, of which learning sees the labels alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from cstn_lib.data.images import ImageSet, open_image_set, write_image_set
from cstn_lib.errors import InputError, unknown_name

__all__ = ["SPLITS", "open_tiny_imagenet"]

SPLITS = ("train", "val", "test")

_NAME = "tiny-imagenet"
_FOLDER = "tiny-imagenet-200"  # the one folder inside the original archive
_SIDE = 64  # pixels; every image of the data set has this width and height
_HELD_BACK = 0.1  # of each class of the train folder: the val split
_BATCH = 256  # images decoded before they are written
_RECIPE = 1  # goes up when the same source would be turned into other arrays


def open_tiny_imagenet(
    root: Path, split: str, *, image_size: int, data_dir: Path, limit: int | None = None
) -> ImageSet:
    """One split of Tiny ImageNet as an `ImageSet`, decoded on first use and cached.

    The cache is ``data_dir/tiny-imagenet/SPLIT-HASH``. The hash covers the settings and the source:
    names and checksums of a zip's members, or names and sizes of a folder's images and the text of
    its annotations (an image replaced by another of the same name and size goes unnoticed). The
    fingerprint of the set covers what was decoded, so a folder and a zip of it have the same.

    Images come class after class in turns, so that any first part of a split is spread evenly over
    the classes; within a class their order is fixed by a hash of their names.

    Args:
        root: the zip, the folder with ``wnids.txt``, or a folder that holds it as
            ``tiny-imagenet-200``.
        split: ``"train"``, ``"val"`` (both from the train folder) or ``"test"`` (the val folder).
        image_size: side in pixels to which the images are resized, bilinear with antialiasing.
        data_dir: where the cache goes.
        limit: at most that many images of the split.

    Returns:
        Images (N, image_size, image_size, 3) uint8, one box ``xyxy`` in [0, 1] an image: an object
        that covers pixels x0 to x1 lies between x0 / 64 and (x1 + 1) / 64.

    Raises:
        InputError: the root, an annotation line or an image is not as expected. Every image must
            have exactly one line of annotation and every class an image; nothing is written then.
    """
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    for name, value in (("image_size", image_size), ("limit", limit)):
        if value is not None and value < 1:
            raise InputError(f"{name} {value}: expected 1 or more")

    with _open_source(Path(root), "val" if split == "test" else "train") as source:
        key = _digest([_RECIPE, image_size, limit, source.identity()])
        folder = Path(data_dir) / _NAME / f"{split}-{key}"
        if folder.is_dir():
            return open_image_set(folder)

        wnids = _read_wnids(source)
        by_class = _read_test(source, wnids) if split == "test" else _read_train(source, wnids)
        _check_complete(source, by_class)
        photos = _in_turns([_part(photos, split, source) for photos in by_class])[:limit]
        labels = [photo.label for photo in photos]
        class_names = _read_class_names(source, wnids)
        return write_image_set(
            folder,
            name=_NAME,
            split=split,
            image_size=(image_size, image_size),
            labels=np.array(labels),
            boxes=[photo.box() for photo in photos],
            class_names=class_names,
            fingerprint=_digest(
                [
                    _RECIPE,
                    image_size,
                    class_names,
                    [(photo.label, photo.pixels, source.checksum(photo.file)) for photo in photos],
                ]
            ),
            image_batches=_decode(source, photos, image_size, split),
        )


@dataclass(frozen=True)
class _Photo:
    """An image file of the source with its label and its box in inclusive pixels."""

    file: str
    label: int
    pixels: tuple[int, int, int, int]

    def box(self) -> np.ndarray:
        """(1, 4) ``xyxy`` in [0, 1]."""
        x0, y0, x1, y1 = self.pixels
        return np.array([[x0, y0, x1 + 1, y1 + 1]], dtype=np.float32) / _SIDE

    def rank(self) -> bytes:
        """A fixed shuffle: by name, so that it does not depend on the order of any list."""
        return hashlib.sha256(self.file.encode()).digest()


def _part(photos: list[_Photo], split: str, source: _Source) -> list[_Photo]:
    """The images of one class that belong to `split`, shuffled."""
    photos = sorted(photos, key=_Photo.rank)
    if split == "test":
        return photos
    if len(photos) < 2:
        raise InputError(
            f"{source.where(photos[0].file)}: the only image of its class, expected at least 2: "
            "one is held back as val"
        )
    held_back = max(1, round(_HELD_BACK * len(photos)))
    return photos[:held_back] if split == "val" else photos[held_back:]


def _in_turns(by_class: list[list[_Photo]]) -> list[_Photo]:
    """The first image of each class, then the second of each, and so on."""
    turns = [(turn, photo) for photos in by_class for turn, photo in enumerate(photos)]
    return [photo for _, photo in sorted(turns, key=lambda pair: (pair[0], pair[1].label))]


def _decode(
    source: _Source, photos: list[_Photo], image_size: int, split: str
) -> Iterator[np.ndarray]:
    """Batches (b, image_size, image_size, 3) uint8 in the order of `photos`."""
    with tqdm(total=len(photos), desc=f"decoding {_NAME} {split}", unit="image") as progress:
        for start in range(0, len(photos), _BATCH):
            batch = photos[start : start + _BATCH]
            yield np.stack([_decode_one(source, photo.file, image_size) for photo in batch])
            progress.update(len(batch))


def _decode_one(source: _Source, file: str, image_size: int) -> np.ndarray:
    """One image as (image_size, image_size, 3) uint8."""
    data = source.read(file)
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
            pixels = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{source.where(file)}: damaged, expected a whole JPEG") from error
    if (width, height) != (_SIDE, _SIDE):
        raise InputError(
            f"{source.where(file)}: {width} x {height} pixels, expected {_SIDE} x {_SIDE}"
        )
    return np.asarray(pixels.resize((image_size, image_size), Image.Resampling.BILINEAR))


# Annotations


def _read_wnids(source: _Source) -> dict[str, int]:
    """The label of every WNID."""
    labels: dict[str, int] = {}
    for number, line in _lines(source, "wnids.txt"):
        here = source.where("wnids.txt", number)
        if not re.fullmatch(r"n[0-9]{8}", line):
            raise InputError(f"{here}: {_quoted(line)}, expected a WNID such as n01443537")
        if line in labels:
            raise InputError(f"{here}: class {line} again, expected each class once")
        labels[line] = len(labels)
    if not labels:
        raise InputError(f"{source.where('wnids.txt')}: no line, expected one WNID a line")
    return labels


def _read_class_names(source: _Source, wnids: dict[str, int]) -> list[str]:
    """The first name of each class in words.txt; the WNID where it has none."""
    names = dict.fromkeys(wnids, "")
    if "words.txt" in source.files:
        for number, line in _lines(source, "words.txt"):
            wnid, tab, words = line.partition("\t")
            if not tab:
                raise InputError(
                    f"{source.where('words.txt', number)}: {_quoted(line)}, "
                    "expected WNID, tab, names"
                )
            if wnid in names:
                names[wnid] = words.partition(",")[0].strip()
    return [name or wnid for wnid, name in names.items()]


def _read_test(source: _Source, wnids: dict[str, int]) -> list[list[_Photo]]:
    """The images of the val folder, class by class."""
    by_class: list[list[_Photo]] = [[] for _ in wnids]
    annotations = "val/val_annotations.txt"
    for here, name, (wnid, *box) in _rows(source, annotations, "file, WNID, x0, y0, x1, y1"):
        if wnid not in wnids:
            raise InputError(f"{here}: class {_quoted(wnid)}, expected one of wnids.txt")
        photo = _Photo(f"val/images/{name}", wnids[wnid], _parse_box(here, box))
        _check_present(source, here, photo.file)
        by_class[photo.label].append(photo)
    for label, photos in enumerate(by_class):
        if not photos:
            wnid = list(wnids)[label]
            raise InputError(f"{source.where(annotations)}: no image of class {wnid} of wnids.txt")
    return by_class


def _read_train(source: _Source, wnids: dict[str, int]) -> list[list[_Photo]]:
    """The images of the train folder, class by class."""
    unknown = {photo.split("/")[1] for photo in source.photos()} - wnids.keys()
    if unknown:
        raise InputError(f"{source.where(f'train/{min(unknown)}')}: expected a class of wnids.txt")
    by_class: list[list[_Photo]] = []
    for wnid, label in wnids.items():
        boxes = f"train/{wnid}/{wnid}_boxes.txt"
        photos = []
        for here, name, box in _rows(source, boxes, "file, x0, y0, x1, y1"):
            photo = _Photo(f"train/{wnid}/images/{name}", label, _parse_box(here, box))
            _check_present(source, here, photo.file)
            photos.append(photo)
        if not photos:
            raise InputError(f"{source.where(boxes)}: no image of class {wnid} of wnids.txt")
        by_class.append(photos)
    return by_class


def _rows(source: _Source, annotations: str, columns: str) -> Iterator[tuple[str, str, list[str]]]:
    """Place, image name and further columns of each line of a tab-separated file."""
    first_line: dict[str, int] = {}
    for number, line in _lines(source, annotations):
        here = source.where(annotations, number)
        name, *values = line.split("\t")
        expected = columns.count(",") + 1
        if 1 + len(values) != expected:
            raise InputError(
                f"{here}: expected {expected} tab-separated columns ({columns}), "
                f"found {1 + len(values)}"
            )
        if name in first_line:
            raise InputError(
                f"{here}: image {_quoted(name)} again, expected once (it is on line "
                f"{first_line[name]})"
            )
        first_line[name] = number
        yield here, name, values


def _parse_box(here: str, values: list[str]) -> tuple[int, int, int, int]:
    for value in values:
        if not re.fullmatch(r"-?[0-9]{1,9}", value):
            raise InputError(f"{here}: {_quoted(value)}, expected a whole number of pixels")
    x0, y0, x1, y1 = map(int, values)
    shown = f"box {x0} {y0} {x1} {y1}"
    if min(x0, y0, x1, y1) < 0 or max(x0, y0, x1, y1) >= _SIDE:
        raise InputError(f"{here}: {shown} leaves the image, expected 0 to {_SIDE - 1}")
    if x0 > x1 or y0 > y1:
        raise InputError(f"{here}: {shown} is empty, expected x0 <= x1 and y0 <= y1")
    return x0, y0, x1, y1


def _check_present(source: _Source, here: str, file: str) -> None:
    if file not in source.files:
        raise InputError(f"{here}: no such image, expected {source.where(file)}")


def _check_complete(source: _Source, by_class: list[list[_Photo]]) -> None:
    annotated = {photo.file for photos in by_class for photo in photos}
    for file in sorted(source.photos() - annotated):
        raise InputError(f"{source.where(file)}: no box, expected a line in the annotations")


def _lines(source: _Source, file: str) -> Iterator[tuple[int, str]]:
    """Number, from 1, and text of the lines of a file."""
    if file not in source.files:
        raise InputError(f"{source.where(file)}: missing, expected as part of Tiny ImageNet")
    data = source.read(file)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{source.where(file, number)}: not UTF-8 text") from error
    if text.strip():
        lines = text.rstrip("\r\n").split("\n")
        yield from enumerate((line.rstrip("\r") for line in lines), start=1)


def _quoted(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


# The two kinds of source

_LAYOUT = {
    "train": r"words\.txt|wnids\.txt|train/[^/]+/(?:[^/]+_boxes\.txt|images/[^/.][^/]*\.JPEG)",
    "val": r"words\.txt|wnids\.txt|val/(?:val_annotations\.txt|images/[^/.][^/]*\.JPEG)",
}
_EXPECTED = f"expected wnids.txt, train and val in it or in its folder {_FOLDER}"


class _Source(ABC):
    """The files of one folder of the layout, ``train`` or ``val``, and of the lists beside it.

    Attributes:
        top: the folder that holds wnids.txt, for messages also inside a zip.
        files: what is known of each, by its name relative to `top`, with slashes.
    """

    top: Path
    files: Mapping[str, Any]

    @abstractmethod
    def read(self, file: str) -> bytes:
        """The content of a file."""

    @abstractmethod
    def checksum(self, file: str) -> int:
        """CRC-32 of the content of a file."""

    @abstractmethod
    def identity(self) -> list[tuple[str, int]]:
        """Names and numbers that change with the content; takes no reading of images."""

    def where(self, file: str, line: int | None = None) -> str:
        """A file, and a line of it, as messages name it."""
        return str(self.top / file) + (f", line {line}" if line else "")

    def photos(self) -> set[str]:
        return {file for file in self.files if not file.endswith(".txt")}


class _Folder(_Source):
    def __init__(self, root: Path, part: str) -> None:
        tops = [top for top in (root, root / _FOLDER) if os.path.isfile(top / "wnids.txt")]
        if not tops:
            raise InputError(f"{root}: not Tiny ImageNet, {_EXPECTED}")
        self.top = tops[0]
        inner = [part] if part == "val" else [f"train/{name}" for name in self._list("train")]
        folders = [".", *(f for name in inner for f in (name, f"{name}/images"))]
        self.files = {
            file: size
            for folder in folders
            for name, size in self._list(folder).items()
            if re.fullmatch(_LAYOUT[part], file := name if folder == "." else f"{folder}/{name}")
        }

    def _list(self, folder: str) -> dict[str, int]:
        """Names and sizes of the files and folders in a folder; none where it is not a folder."""
        try:
            with os.scandir(self.top / folder) as entries:
                # neither of the two is a link to nowhere, which has no size
                real = (entry for entry in entries if entry.is_file() or entry.is_dir())
                return {entry.name: entry.stat().st_size for entry in real}
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise InputError(f"{self.top / folder}: not readable ({error.strerror})") from error

    def read(self, file: str) -> bytes:
        try:
            return (self.top / file).read_bytes()
        except OSError as error:
            raise InputError(f"{self.where(file)}: not readable ({error.strerror})") from error

    def checksum(self, file: str) -> int:
        return zlib.crc32(self.read(file))

    def identity(self) -> list[tuple[str, int]]:
        return [
            (file, self.checksum(file) if file.endswith(".txt") else size)
            for file, size in sorted(self.files.items())
        ]


class _Zip(_Source):
    def __init__(self, path: Path, archive: zipfile.ZipFile, part: str) -> None:
        members = {member.filename: member for member in archive.infolist()}
        prefixes = [prefix for prefix in ("", f"{_FOLDER}/") if f"{prefix}wnids.txt" in members]
        if not prefixes:
            raise InputError(f"{path}: not Tiny ImageNet, {_EXPECTED}")
        self.top = path / prefixes[0]
        self._archive = archive
        layout = re.compile(re.escape(prefixes[0]) + f"({_LAYOUT[part]})")
        matches = ((layout.fullmatch(name), member) for name, member in members.items())
        self.files = {match.group(1): member for match, member in matches if match}

    def read(self, file: str) -> bytes:
        try:
            return self._archive.read(self.files[file])
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
            raise InputError(f"{self.where(file)}: damaged in the zip ({error})") from error

    def checksum(self, file: str) -> int:
        return self.files[file].CRC

    def identity(self) -> list[tuple[str, int]]:
        return [(file, member.CRC) for file, member in sorted(self.files.items())]


@contextmanager
def _open_source(root: Path, part: str) -> Iterator[_Source]:
    # os.path answers no, where pathlib raises, for a path that may not be looked at
    if os.path.isdir(root):
        yield _Folder(root, part)
    elif os.path.isfile(root):
        try:
            archive = zipfile.ZipFile(root)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"{root}: not a whole zip archive ({error}), {_EXPECTED}") from error
        with archive:
            yield _Zip(root, archive, part)
    else:
        raise InputError(
            f"{root}: missing or not readable, expected Tiny ImageNet as a folder or a zip"
        )
