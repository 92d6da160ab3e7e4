"""ILSVRC 2012, classification and localization: the ImageNet of the paper's section IV-A.

Nothing is downloaded (one has to register, see ``data/README.md``). Two layouts are read, that of
the competition's archive and a plain one:

    ILSVRC/Data/CLS-LOC/train/WNID/*.JPEG     or  train/WNID/*.JPEG
    ILSVRC/Data/CLS-LOC/val/*.JPEG            or  val/*.JPEG or val/WNID/*.JPEG
    ILSVRC/Annotations/CLS-LOC/val/*.xml      or  Annotations/val/*.xml
    ILSVRC/Annotations/CLS-LOC/train/WNID/*   or  Annotations/train/WNID/*.xml
    LOC_synset_mapping.txt                    names of the classes; optional

An XML file that says the size of its image must say the one that the photo has. The tables
``LOC_*_solution.csv``, which hold the same boxes, are not read.

The label of a class is its place among the sorted WordNet ids (WNIDs). ``test`` is the validation
set of 50,000 images, on which the paper reports. Twenty images of each class (a tenth of a class of
fewer than 200), chosen by their names, are held back from the training folders; those of them that
have boxes (not every training image was annotated) are ``val``, where hyper-parameters may be
chosen; all others are ``train``. So ``train`` needs no box at all, and is the same whether the
boxes of ``val`` are there or not.

1.28 million names are listed once; after that a split is opened from its list. The list is made
anew when a folder or an annotation file changes, not when a photo is replaced in place.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from cstn_lib.data.photos.decoding import in_parallel
from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.order import train_or_val
from cstn_lib.data.photos.photo_list import PhotoList
from cstn_lib.data.photos.reading import Photo, Reader, is_wnid
from cstn_lib.data.photos.sources import FolderSource
from cstn_lib.data.photos.text_table import box_numbers
from cstn_lib.support.errors import InputError

HELD_BACK = 20  # images of each class that training never sees

_PHOTOS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", ".")
_BOXES = ("ILSVRC/Annotations/CLS-LOC", "Annotations/CLS-LOC", "Annotations")
_MAPPING = "LOC_synset_mapping.txt"
_ENDS = ("xmin", "ymin", "xmax", "ymax")


class _Box(NamedTuple):
    """One box with its class, the file it was read from, and the size of its image where known."""

    wnid: str
    pixels: Sequence[float]
    file: str
    size: tuple[int, int]


class ILSVRC(Reader):
    """The folder of either layout."""

    name = "ilsvrc"
    what = "ILSVRC"
    source: FolderSource

    @classmethod
    @contextmanager
    def open(cls, root: Path, faults: Faults | None = None) -> Iterator[ILSVRC]:
        if not os.path.isdir(root):
            raise InputError(f"{root}: missing or no folder, expected ILSVRC as a folder")
        reader = cls(FolderSource(root, cls.what, faults))
        if not any(reader._folder(part) for part in ("train", "val")):
            raise InputError(
                f"{root}: not ILSVRC, expected train and val, or ILSVRC/Data/CLS-LOC/train and val"
            )
        yield reader

    def identity(self, split: str) -> object:
        part = "val" if split == "test" else "train"
        folders = [folder for folder in (self._folder(part), self._folder(part, _BOXES)) if folder]
        dates = [self.source.dates(folder, depth=1) for folder in folders]
        return [self.source.checksums([_MAPPING]), dates]

    def lasting_name(self, file: str) -> str:
        return file.rpartition("/")[2]

    def photos(self, split: str) -> PhotoList:
        return self._test() if split == "test" else self._train_or_val(split)

    def _train_or_val(self, split: str) -> PhotoList:
        base, source = self._needed_folder("train"), self.source
        wnids = self._wnids()
        for name in sorted({*source.folders(base), *source.names(base)}.difference(wnids)):
            message = "expected a folder named like n01440764"
            source.oddity("no class, passed over", message, f"{base}/{name}")
        folders = {f"{base}/{wnid}": label for label, wnid in enumerate(wnids)}
        files, labels = self.class_photos(folders)
        names = [self.lasting_name(file) for file in files]
        rows = train_or_val(split, names, labels, lambda row: source.where(files[row]), HELD_BACK)
        files, labels = [files[row] for row in rows], labels[rows]
        if split == "train":
            return PhotoList.without_boxes(source, files, labels, self._class_names(wnids))
        boxes = self._boxes("train", files)
        annotated = {f: label for f, label in zip(files, labels, strict=True) if boxes[f]}
        return self._with_boxes(split, annotated, boxes, wnids)

    def _test(self) -> PhotoList:
        base, source = self._needed_folder("val"), self.source
        files = [f"{base}/{name}" for name in source.photos(base, folders_too=True)]
        for wnid in source.folders(base):
            files += [f"{base}/{wnid}/{name}" for name in source.photos(f"{base}/{wnid}")]
        boxes = self._boxes("val", files)
        wnids = self._wnids() or sorted({box.wnid for found in boxes.values() for box in found})
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        kept = {}
        for file, found in boxes.items():
            if not found:
                source.fault("no box", "no box, expected one or more", file)
            elif found[0].wnid not in label_of:
                self._other_class(found[0], "one of the classes of train")
            else:
                kept[file] = label_of[found[0].wnid]
        return self._with_boxes("test", kept, boxes, wnids)

    def _with_boxes(
        self,
        split: str,
        label_of: Mapping[str, int],
        boxes: Mapping[str, Sequence[_Box]],
        wnids: Sequence[str],
    ) -> PhotoList:
        photos = []
        for file, label in label_of.items():
            own = []
            for box in boxes[file]:
                if box.wnid == wnids[label]:
                    own.append((box.pixels, self.source.where(box.file)))
                else:
                    self._other_class(box, wnids[label])
            photos.append(Photo(file, label, own, boxes[file][0].size))
        return self.photo_list(split, photos, self._class_names(wnids))

    def _other_class(self, box: _Box, expected: str) -> None:
        message = f"class {quoted(box.wnid)}, expected {expected}"
        self.source.fault("unknown label", message, box.file)

    # Classes

    def _wnids(self) -> list[str]:
        """The classes: folders of train, or lines of the mapping where train is not there."""
        base = self._folder("train")
        if base:
            return [name for name in self.source.folders(base) if is_wnid(name)]
        return sorted(self._names())

    def _class_names(self, wnids: Sequence[str]) -> list[str]:
        names = self._names()
        return [names.get(wnid, wnid) for wnid in wnids]

    def _names(self) -> dict[str, str]:
        return self.class_names(_MAPPING, " ", "WNID and names")

    # Folders

    def _folder(self, part: str, bases: Sequence[str] = _PHOTOS) -> str:
        """Where ``train`` or ``val`` is, by default that of the photos; empty where it is not."""
        folders = (f"{base}/{part}" for base in bases)
        found = (str(PurePosixPath(f)) for f in folders if os.path.isdir(self.source.top / f))
        return next(found, "")

    def _needed_folder(self, part: str) -> str:
        folder = self._folder(part)
        if not folder:
            raise InputError(f"{self.source.where(part)}: missing, expected the images of ILSVRC")
        return folder

    # Boxes

    def _boxes(self, part: str, files: Sequence[str]) -> dict[str, list[_Box]]:
        """The boxes of each of these photos; an empty list where it has none."""
        source, folder = self.source, self._folder(part, _BOXES)
        if not folder:
            where = source.where(f"Annotations/{part}")
            raise InputError(f"{where}: missing, expected the boxes of {part}")
        places = (folder, *(f"{folder}/{name}" for name in source.folders(folder)))
        listed = {
            _stem(name): f"{place}/{name}" for place in places for name in source.names(place)
        }
        photo_of = {_stem(file): file for file in files}
        if part == "val":
            for stem in sorted(listed.keys() - photo_of):
                source.fault("missing image", f"no image of that name in {part}", listed[stem])
        found = [stem for stem in photo_of if stem in listed]
        texts = in_parallel(
            lambda stem: source.read(listed[stem]), found, f"boxes of {self.name} {part}"
        )
        boxes: dict[str, list[_Box]] = {file: [] for file in files}
        for stem, text in zip(found, texts, strict=True):
            boxes[photo_of[stem]] = self._parse_xml(listed[stem], text)
        return boxes

    def _parse_xml(self, file: str, text: bytes) -> list[_Box]:
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            self.source.fault("unreadable annotation", f"not whole XML ({error})", file)
            return []
        size = [root.findtext(f"size/{side}", "0").strip() for side in ("width", "height")]
        if not all(text.isdecimal() and len(text) < 10 for text in size):
            message = f"size {quoted(' '.join(size))}, expected width and height in pixels"
            self.source.fault("unreadable annotation", message, file)
            return []
        boxes = []
        for item in root.iter("object"):
            ends = [item.findtext(f"bndbox/{end}", "") for end in _ENDS]
            if pixels := box_numbers(self.source, ends, file):
                name = item.findtext("name", "")
                boxes.append(_Box(name, pixels, file, (int(size[0]), int(size[1]))))
        return boxes


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]
