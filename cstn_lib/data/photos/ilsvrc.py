"""ILSVRC 2012, classification and localization: the ImageNet of the paper's section IV-A.

Nothing is downloaded (one has to register, see ``data/README.md``). Two layouts are read, that of
the competition's archive and a plain one:

    ILSVRC/Data/CLS-LOC/train/WNID/*.JPEG     or  train/WNID/*.JPEG
    ILSVRC/Data/CLS-LOC/val/*.JPEG            or  val/*.JPEG or val/WNID/*.JPEG
    LOC_val_solution.csv, or
    ILSVRC/Annotations/CLS-LOC/val/*.xml      or  Annotations/val/*.xml
    LOC_train_solution.csv, or
    ILSVRC/Annotations/CLS-LOC/train/WNID/*   or  Annotations/train/WNID/*.xml
    LOC_synset_mapping.txt                    names of the classes; optional

An XML file that says the size of its image must say the one that the photo has.

The label of a class is its place among the sorted WordNet ids (WNIDs). ``test`` is the validation
set of 50,000 images, on which the paper reports. Twenty images of each class (a tenth of a class of
fewer than 200), chosen by their names, are held back from the training folders; those of them that
have boxes (not every training image was annotated) are ``val``, where hyper-parameters may be
chosen; all others are ``train``. So ``train`` needs no box at all, and is the same whether the
boxes of ``val`` are there or not. The published protocol with ImageNetV2 as val is ``wsol-ilsvrc``
(`cstn_lib.data.photos.wsol_metadata`).

1.28 million names are listed once; after that a split is opened from its list. The list is made
anew when a folder or an annotation file changes, not when a photo is replaced in place.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from cstn_lib.data.photos.decoding import in_parallel
from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.order import train_or_val
from cstn_lib.data.photos.reading import PhotoList, PixelBoxes, Published, Reader, unit_photo_list
from cstn_lib.data.photos.sources import FolderSource
from cstn_lib.data.photos.text_table import TextTable, box_numbers
from cstn_lib.support.errors import InputError

__all__ = ["ILSVRC"]

HELD_BACK = 20  # images of each class that training never sees

_PHOTOS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", ".")
_BOXES = ("ILSVRC/Annotations/CLS-LOC", "Annotations/CLS-LOC", "Annotations")
_WNID = re.compile(r"n[0-9]{8}")
_WHAT = "ILSVRC"
_MAPPING = "LOC_synset_mapping.txt"


class ILSVRC(Reader):
    """The folder of either layout."""

    name = "ilsvrc"
    # 1,281,167 training images, less those held back
    published = Published(1000, {"train": 1_281_167 - 1000 * HELD_BACK, "test": 50_000})

    def __init__(self, root: Path) -> None:
        self.source = FolderSource(root)

    @classmethod
    @contextmanager
    def open(cls, root: Path) -> Iterator[ILSVRC]:
        reader = cls(root)
        if not os.path.isdir(root):
            raise InputError(f"{root}: missing or no folder, expected ILSVRC as a folder")
        if not any(reader._folder(part) for part in ("train", "val")):
            raise InputError(
                f"{root}: not ILSVRC, expected train and val, or ILSVRC/Data/CLS-LOC/train and val"
            )
        yield reader

    def identity(self, split: str) -> object:
        part = "val" if split == "test" else "train"
        lists = [file for file in (_solution(part), _MAPPING) if self.source.has(file)]
        folders = [folder for folder in (self._folder(part), self._annotations(part)) if folder]
        return [
            [(file, self.source.checksum(file)) for file in lists],
            [self.source.dates(folder, depth=1) for folder in folders],
        ]

    def lasting_name(self, file: str) -> str:
        return file.rpartition("/")[2]

    def photos(self, split: str, faults: Faults) -> PhotoList:
        return self._test(faults) if split == "test" else self._train_or_val(split, faults)

    def _train_or_val(self, split: str, faults: Faults) -> PhotoList:
        base = self._needed_folder("train")
        wnids = self._wnids()
        for name in sorted(
            {*self.source.folders(base), *self.source.names(base)}.difference(wnids)
        ):
            faults.oddity(
                "no class, passed over",
                f"{self.source.where(f'{base}/{name}')}: expected a folder named like n01440764",
            )
        files, labels = [], []
        for label, wnid in enumerate(wnids):
            names = self.source.photos(f"{base}/{wnid}", faults)
            if not names:
                faults.fault(
                    "class without image", f"{self.source.where(f'{base}/{wnid}')}: no image in it"
                )
            files += [f"{base}/{wnid}/{name}" for name in names]
            labels += [label] * len(names)
        found = np.array(labels, dtype=np.int64)
        short = [self.lasting_name(file) for file in files]
        rows = train_or_val(
            split, short, found, lambda row: self.source.where(files[row]), HELD_BACK
        )
        names = self._class_names(wnids, faults)
        if split == "train":
            offsets = np.zeros(len(rows) + 1, np.int64)
            chosen = [files[row] for row in rows]
            return PhotoList(self.source, chosen, found[rows], np.empty((0, 4)), offsets, names)
        boxes = self._boxes("train", [files[row] for row in rows], faults)
        rows = rows[[bool(boxes[_stem(files[row])]) for row in rows]]
        return self._with_boxes(
            split, [files[row] for row in rows], found[rows], boxes, wnids, faults
        )

    def _test(self, faults: Faults) -> PhotoList:
        base = self._needed_folder("val")
        inner = self.source.folders(base)
        files = [f"{base}/{name}" for name in self.source.photos(base, faults, folders_too=True)]
        for wnid in inner:
            files += [
                f"{base}/{wnid}/{name}" for name in self.source.photos(f"{base}/{wnid}", faults)
            ]
        boxes = self._boxes("val", files, faults)
        wnids = self._wnids() or sorted({box.wnid for found in boxes.values() for box in found})
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        kept, labels = [], []
        for file in files:
            found = boxes[_stem(file)]
            if not found:
                faults.fault("no box", f"{self.source.where(file)}: no box, expected one or more")
                continue
            wnid, folder = found[0].wnid, PurePosixPath(file).parent.name
            if wnid not in label_of or (folder in inner and folder != wnid):
                expected = folder if folder in inner else "one of the classes of train"
                faults.fault(
                    "unknown label", f"{found[0].where}: class {quoted(wnid)}, expected {expected}"
                )
                continue
            kept.append(file)
            labels.append(label_of[wnid])
        return self._with_boxes("test", kept, np.array(labels, np.int64), boxes, wnids, faults)

    def _with_boxes(
        self,
        split: str,
        files: Sequence[str],
        labels: np.ndarray,
        boxes: dict[str, list[_Box]],
        wnids: Sequence[str],
        faults: Faults,
    ) -> PhotoList:
        given: list[tuple[int, _Box]] = []
        sizes = np.zeros((len(files), 2), dtype=np.int64)
        for row, file in enumerate(files):
            wnid = wnids[labels[row]]
            for box in boxes[_stem(file)]:
                sizes[row] = box.size
                if box.wnid == wnid:
                    given.append((row, box))
                else:
                    faults.fault(
                        "unknown label", f"{box.where}: class {quoted(box.wnid)}, expected {wnid}"
                    )
        pixel_boxes = PixelBoxes(
            np.array([row for row, _ in given], dtype=np.int64),
            np.array([box.pixels for _, box in given], dtype=np.float64).reshape(-1, 4),
            lambda number: given[number][1].where,
        )
        return unit_photo_list(
            self.source,
            files,
            labels,
            self._class_names(wnids, faults),
            pixel_boxes,
            faults,
            title=f"sizes of {self.name} {split}",
            sizes=sizes,
        )

    # Classes

    def _wnids(self) -> list[str]:
        """The classes: folders of train, or lines of the mapping where train is not there."""
        base = self._folder("train")
        if base:
            return [name for name in self.source.folders(base) if _WNID.fullmatch(name)]
        return sorted(self._mapping(Faults()))

    def _class_names(self, wnids: Sequence[str], faults: Faults) -> list[str]:
        names = self._mapping(faults)
        return [names.get(wnid, wnid) for wnid in wnids]

    def _mapping(self, faults: Faults) -> dict[str, str]:
        names = {}
        lines = self.source.lines(_MAPPING, _WHAT) if self.source.has(_MAPPING) else ()
        for number, line in lines:
            wnid, _, words = line.partition(" ")
            if _WNID.fullmatch(wnid) and words:
                names[wnid] = words.partition(",")[0].strip()
            else:
                faults.fault(
                    "unreadable line",
                    f"{self.source.where(_MAPPING, number)}: {quoted(line)}, expected WNID and "
                    "names",
                )
        return names

    # Folders

    def _folder(self, part: str) -> str:
        """Where the photos of ``train`` or ``val`` are; empty where they are not."""
        return self._first(_PHOTOS, part)

    def _annotations(self, part: str) -> str:
        return self._first(_BOXES, part)

    def _first(self, bases: Sequence[str], part: str) -> str:
        folders = (f"{base}/{part}" for base in bases)
        found = (str(PurePosixPath(f)) for f in folders if os.path.isdir(self.source.top / f))
        return next(found, "")

    def _needed_folder(self, part: str) -> str:
        folder = self._folder(part)
        if not folder:
            raise InputError(f"{self.source.where(part)}: missing, expected the images of ILSVRC")
        return folder

    # Boxes

    def _boxes(self, part: str, files: Sequence[str], faults: Faults) -> dict[str, list[_Box]]:
        """The boxes of these photos by the stem of their names; an empty list where none."""
        solution, folder = _solution(part), self._annotations(part)
        if self.source.has(solution):
            found = self._read_solution(solution, {_stem(file) for file in files}, part, faults)
        elif folder:
            found = self._read_xml(folder, files, part, faults)
        else:
            raise InputError(
                f"{self.source.where(solution)}: missing, expected the boxes of {part} there or in "
                f"Annotations/{part}"
                + (" (wsol-ilsvrc has a val without them)" * (part == "train"))
            )
        return {_stem(file): found.get(_stem(file), []) for file in files}

    def _read_solution(
        self, file: str, wanted: set[str], part: str, faults: Faults
    ) -> dict[str, list[_Box]]:
        """ImageId,PredictionString; the latter is WNID x0 y0 x1 y1 once or more."""
        found: dict[str, list[_Box]] = {}
        table = TextTable(self.source, file, ("ImageId", "PredictionString"), ",", _WHAT)
        for number, (image, values) in table.below_header(faults):
            if image not in wanted and part == "train":
                continue
            here = table.where(number)
            tokens = values.split()
            if not tokens or len(tokens) % 5:
                shown = quoted(f"{image},{values}")
                faults.fault(
                    "unreadable line",
                    f"{here}: {shown}, expected ImageId,WNID x0 y0 x1 y1 once or more",
                )
            elif image not in wanted:
                faults.fault("missing image", f"{here}: no image {quoted(image)} in {part}")
            elif image in found:
                faults.fault("listed twice", f"{here}: image {quoted(image)} again, expected once")
            else:
                found[image] = self._tokens(file, number, tokens, faults)
        return found

    def _tokens(self, file: str, number: int, tokens: Sequence[str], faults: Faults) -> list[_Box]:
        here = self.source.where(file, number)
        boxes = []
        for start in range(0, len(tokens), 5):
            wnid, *values = tokens[start : start + 5]
            pixels = box_numbers(self.source, file, number, values, faults)
            if wnid != tokens[0]:
                faults.fault(
                    "unknown label", f"{here}: class {quoted(wnid)} beside {quoted(tokens[0])}"
                )
            elif pixels is not None:
                boxes.append(_Box(wnid, pixels, here))
        return boxes

    def _read_xml(
        self, folder: str, files: Sequence[str], part: str, faults: Faults
    ) -> dict[str, list[_Box]]:
        inner = self.source.folders(folder)
        where = {
            name.removesuffix(".xml"): f"{base}/{name}"
            for base in (folder, *(f"{folder}/{name}" for name in inner))
            for name in self.source.names(base)
            if name.endswith(".xml")
        }
        if part == "val":
            for stem in sorted(where.keys() - {_stem(file) for file in files}):
                place = self.source.where(where[stem])
                faults.fault("missing image", f"{place}: no image of that name in {part}")
        wanted = [where[stem] for stem in map(_stem, files) if stem in where]
        title = f"boxes of {self.name} {part}"
        found: dict[str, list[_Box]] = {}
        for file, boxes in zip(wanted, in_parallel(self._read_one_xml, wanted, title), strict=True):
            if isinstance(boxes, InputError):
                faults.fault("unreadable annotation", str(boxes))
            else:
                found[_stem(file)] = boxes
        return found

    def _read_one_xml(self, file: str) -> list[_Box] | InputError:
        try:
            root = ElementTree.fromstring(self.source.read(file))
            size = [root.findtext(f"size/{side}", "0").strip() for side in ("width", "height")]
            if not all(text.isdecimal() and len(text) < 10 for text in size):
                raise InputError(
                    f"{self.source.where(file)}: size {quoted(' '.join(size))}, expected width and "
                    "height in pixels"
                )
            boxes = []
            for item in root.iter("object"):
                ends = [item.findtext(f"bndbox/{end}", "") for end in _ENDS]
                pixels = box_numbers(self.source, file, None, ends, Faults())
                name, where = item.findtext("name", ""), self.source.where(file)
                boxes.append(_Box(name, pixels, where, (int(size[0]), int(size[1]))))
        except InputError as error:
            return error
        except ElementTree.ParseError as error:
            return InputError(f"{self.source.where(file)}: not whole XML ({error})")
        return boxes


_ENDS = ("xmin", "ymin", "xmax", "ymax")


class _Box(NamedTuple):
    """One box with its class, the place it was read from, and the size of its image where known."""

    wnid: str
    pixels: Sequence[float] | None
    where: str
    size: tuple[int, int] = (0, 0)


def _solution(part: str) -> str:
    return f"LOC_{part}_solution.csv"


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]
