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

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.file_names import is_photo
from cstn_lib.data.photos.order import train_or_val
from cstn_lib.data.photos.reading import PhotoList, Published, Reader
from cstn_lib.data.photos.sources import Source, open_source
from cstn_lib.data.photos.text_table import TextTable
from cstn_lib.support.errors import InputError

__all__ = ["TinyImageNet"]

_WHAT = "Tiny ImageNet"
_VAL = "val/val_annotations.txt"
_SIDE = 64  # pixels; every image of the data set has this width and height


class TinyImageNet(Reader):
    """The folder ``tiny-imagenet-200``, one that holds it, or a zip of it."""

    name = "tiny-imagenet"
    published = Published(200, {"train+val": 100_000, "test": 10_000})

    def __init__(self, source: Source) -> None:
        self.source = source

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[TinyImageNet]:
        with open_source(root, what=_WHAT, marker="wnids.txt", inner="tiny-imagenet-200") as source:
            yield cls(source)

    def identity(self, split: str) -> object:
        source = self.source
        names = [name for name in ("words.txt", "wnids.txt") if source.has(name)]
        names += (
            [_VAL] if split == "test" else [_box_file(wnid) for wnid in source.folders("train")]
        )
        lists = [(name, source.checksum(name)) for name in names if source.has(name)]
        photos = [(folder, self._photos(folder)) for folder in self._folders(split)]
        return [lists, [(folder, sorted(found.items())) for folder, found in photos]]

    def photos(self, split: str, faults: Faults) -> PhotoList:
        """The photos, one box each.

        An object that covers pixels x0 to x1 lies between x0 / 64 and (x1 + 1) / 64. Every image
        must have exactly one line of annotation, and every class an image.
        """
        source = self.source
        wnids = self._wnids(faults)
        there = {
            f"{folder}/{name}"
            for folder in self._folders(split)
            for name in source.photos(folder, faults)
        }
        read = self._test if split == "test" else self._train
        files, labels, pixels = [], [], []
        annotated = set()
        for here, file, label, values in read(wnids, faults):
            annotated.add(file)
            box = _parse_box(here, values, faults)
            if file not in there:
                faults.fault("missing image", f"{here}: {source.why_missing(file)}")
            elif box is not None:
                files.append(file)
                labels.append(label)
                pixels.append(box)
        for file in sorted(there - annotated):
            faults.fault(
                "no box", f"{source.where(file)}: no box, expected a line in the annotations"
            )
        found = np.array(labels, dtype=np.int64)
        x0, y0, x1, y1 = np.array(pixels, dtype=np.float32).reshape(-1, 4).T
        photos = PhotoList(
            source,
            files,
            found,
            np.stack([x0, y0, x1 + 1, y1 + 1], axis=1) / _SIDE,
            np.arange(len(files) + 1),
            self._class_names(wnids, faults),
            only_size=(_SIDE, _SIDE),
        )
        if split == "test":
            return photos
        return photos.take(train_or_val(split, files, found, lambda row: source.where(files[row])))

    # Annotations

    def _wnids(self, faults: Faults) -> dict[str, int]:
        """The label of every WNID."""
        source = self.source
        labels: dict[str, int] = {}
        for number, line in source.lines("wnids.txt", _WHAT):
            here = source.where("wnids.txt", number)
            if not re.fullmatch(r"n[0-9]{8}", line):
                faults.fault(
                    "unreadable line", f"{here}: {quoted(line)}, expected a WNID such as n01443537"
                )
            elif line in labels:
                faults.fault(
                    "listed twice", f"{here}: class {line} again, expected each class once"
                )
            else:
                labels[line] = len(labels)
        if not labels:
            raise InputError(f"{source.where('wnids.txt')}: no line, expected one WNID a line")
        return labels

    def _class_names(self, wnids: dict[str, int], faults: Faults) -> list[str]:
        """The first name of each class in words.txt; the WNID where it has none."""
        names = dict.fromkeys(wnids, "")
        words_file = "words.txt"
        lines = self.source.lines(words_file, _WHAT) if self.source.has(words_file) else ()
        for number, line in lines:
            wnid, tab, words = line.partition("\t")
            if not tab:
                faults.fault(
                    "unreadable line",
                    f"{self.source.where(words_file, number)}: {quoted(line)}, expected WNID, tab, "
                    "names",
                )
            elif wnid in names:
                names[wnid] = words.partition(",")[0].strip()
        return [name or wnid for wnid, name in names.items()]

    def _test(self, wnids: dict[str, int], faults: Faults) -> Iterator[_Row]:
        columns = ("file", "WNID", "x0", "y0", "x1", "y1")
        seen = set()
        for here, name, (wnid, *box) in self._rows(_VAL, columns, faults):
            if wnid in wnids:
                seen.add(wnid)
                yield here, f"val/images/{name}", wnids[wnid], box
            else:
                faults.fault(
                    "unknown label", f"{here}: class {quoted(wnid)}, expected one of wnids.txt"
                )
        for wnid in wnids:
            if wnid not in seen:
                self._no_image(_VAL, wnid, faults)

    def _train(self, wnids: dict[str, int], faults: Faults) -> Iterator[_Row]:
        for wnid in self.source.folders("train"):
            if wnid not in wnids and self._photos(f"train/{wnid}/images"):
                where = self.source.where(f"train/{wnid}")
                faults.fault("unknown label", f"{where}: expected a class of wnids.txt")
        for wnid, label in wnids.items():
            seen = False
            columns = ("file", "x0", "y0", "x1", "y1")
            for here, name, box in self._rows(_box_file(wnid), columns, faults):
                seen = True
                yield here, f"train/{wnid}/images/{name}", label, box
            if not seen:
                self._no_image(_box_file(wnid), wnid, faults)

    def _no_image(self, file: str, wnid: str, faults: Faults) -> None:
        where = self.source.where(file)
        faults.fault("class without image", f"{where}: no image of class {wnid} of wnids.txt")

    def _rows(
        self, file: str, columns: tuple[str, ...], faults: Faults
    ) -> Iterator[tuple[str, str, list[str]]]:
        """Place, image name and further columns of each line."""
        table = TextTable(self.source, file, columns, "\t", _WHAT)
        for name, (number, values) in table.keyed(faults).items():
            yield table.where(number), name, values

    # Photos

    def _folders(self, split: str) -> list[str]:
        if split == "test":
            return ["val/images"]
        return [f"train/{wnid}/images" for wnid in self.source.folders("train")]

    def _photos(self, folder: str) -> dict[str, int]:
        return {name: tag for name, tag in self.source.files(folder).items() if is_photo(name)}


_Row = tuple[str, str, int, list[str]]
"""Place, file, label and the texts of a box."""


def _box_file(wnid: str) -> str:
    return f"train/{wnid}/{wnid}_boxes.txt"


def _parse_box(here: str, values: list[str], faults: Faults) -> tuple[int, ...] | None:
    for value in values:
        if not re.fullmatch(r"-?[0-9]{1,9}", value):
            faults.fault(
                "unreadable line", f"{here}: {quoted(value)}, expected a whole number of pixels"
            )
            return None
    x0, y0, x1, y1 = map(int, values)
    shown = f"box {x0} {y0} {x1} {y1}"
    if min(x0, y0, x1, y1) < 0 or max(x0, y0, x1, y1) >= _SIDE:
        faults.fault("box outside", f"{here}: {shown} leaves the image, expected 0 to {_SIDE - 1}")
        return None
    if x0 > x1 or y0 > y1:
        faults.fault(
            "box without area", f"{here}: {shown} is empty, expected x0 <= x1 and y0 <= y1"
        )
        return None
    return x0, y0, x1, y1
