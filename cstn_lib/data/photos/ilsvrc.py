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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from cstn_lib.data.photos.decoding import in_parallel
from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.order import train_or_val
from cstn_lib.data.photos.photo_list import PhotoList
from cstn_lib.data.photos.reading import Photo, Published, Reader, is_wnid
from cstn_lib.data.photos.sources import FolderSource
from cstn_lib.data.photos.text_table import Line, box_numbers
from cstn_lib.support.errors import InputError

HELD_BACK = 20  # images of each class that training never sees

_PHOTOS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", ".")
_BOXES = ("ILSVRC/Annotations/CLS-LOC", "Annotations/CLS-LOC", "Annotations")
_MAPPING = "LOC_synset_mapping.txt"
_ENDS = ("xmin", "ymin", "xmax", "ymax")


class _Box(NamedTuple):
    """One box with its class, the place it was read from, and the size of its image where known."""

    wnid: str
    pixels: Sequence[float]
    where: str
    size: tuple[int, int] = (0, 0)


class ILSVRC(Reader):
    """The folder of either layout."""

    name = "ilsvrc"
    what = "ILSVRC"
    # 1,281,167 training images, less those held back
    published = Published(1000, {"train": 1_281_167 - 1000 * HELD_BACK, "test": 50_000})
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
        return [self.source.checksums([_solution(part), _MAPPING]), dates]

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
        annotated = {f: label for f, label in zip(files, labels, strict=True) if boxes[_stem(f)]}
        return self._with_boxes(split, annotated, boxes, wnids)

    def _test(self) -> PhotoList:
        base, source = self._needed_folder("val"), self.source
        inner = source.folders(base)
        files = [f"{base}/{name}" for name in source.photos(base, folders_too=True)]
        for wnid in inner:
            files += [f"{base}/{wnid}/{name}" for name in source.photos(f"{base}/{wnid}")]
        boxes = self._boxes("val", files)
        wnids = self._wnids() or sorted({box.wnid for found in boxes.values() for box in found})
        label_of = {wnid: label for label, wnid in enumerate(wnids)}
        kept = {}
        for file in files:
            found = boxes[_stem(file)]
            if not found:
                source.fault("no box", "no box, expected one or more", file)
                continue
            wnid, folder = found[0].wnid, PurePosixPath(file).parent.name
            if wnid not in label_of or (folder in inner and folder != wnid):
                expected = folder if folder in inner else "one of the classes of train"
                self._other_class(found[0], expected)
            else:
                kept[file] = label_of[wnid]
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
            found = boxes[_stem(file)]
            for box in found:
                if box.wnid != wnids[label]:
                    self._other_class(box, wnids[label])
            own = [(box.pixels, box.where) for box in found if box.wnid == wnids[label]]
            photos.append(Photo(file, label, own, found[0].size))
        return self.photo_list(split, photos, self._class_names(wnids))

    def _other_class(self, box: _Box, expected: str) -> None:
        message = f"{box.where}: class {quoted(box.wnid)}, expected {expected}"
        self.source.faults.fault("unknown label", message)

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
        """The boxes of these photos by the stem of their names; an empty list where none."""
        solution, folder = _solution(part), self._folder(part, _BOXES)
        stems = [_stem(file) for file in files]
        if self.source.has(solution):
            found = self._read_solution(solution, set(stems), part)
        elif folder:
            found = self._read_xml(folder, stems, part)
        else:
            raise InputError(
                f"{self.source.where(solution)}: missing, expected the boxes of {part} there or in "
                f"Annotations/{part}"
                + (" (wsol-ilsvrc has a val without them)" * (part == "train"))
            )
        return {stem: found.get(stem, []) for stem in stems}

    def _read_solution(self, file: str, wanted: set[str], part: str) -> dict[str, list[_Box]]:
        """ImageId,PredictionString; the latter is WNID x0 y0 x1 y1 once or more."""
        found: dict[str, list[_Box]] = {}
        for line in self.table(file, ("ImageId", "PredictionString"), ",").below_header():
            image, tokens = line.values[0], line.values[1].split()
            if image not in wanted and part == "train":
                continue
            if not tokens or len(tokens) % 5:
                message = "expected ImageId,WNID x0 y0 x1 y1 once or more"
                line.fault("unreadable line", f"{quoted(','.join(line.values))}, {message}")
            elif image not in wanted:
                line.fault("missing image", f"no image {quoted(image)} in {part}")
            elif image in found:
                line.fault("listed twice", f"image {quoted(image)} again, expected once")
            else:
                found[image] = _boxes_of(tokens, line)
        return found

    def _read_xml(self, folder: str, stems: Sequence[str], part: str) -> dict[str, list[_Box]]:
        source = self.source
        places = [folder, *(f"{folder}/{name}" for name in source.folders(folder))]
        file_of = {
            name.removesuffix(".xml"): f"{place}/{name}"
            for place in places
            for name in source.names(place)
            if name.endswith(".xml")
        }
        if part == "val":
            for stem in sorted(file_of.keys() - set(stems)):
                source.fault("missing image", f"no image of that name in {part}", file_of[stem])
        wanted = [stem for stem in stems if stem in file_of]
        files = [file_of[stem] for stem in wanted]
        texts = in_parallel(source.read, files, f"boxes of {self.name} {part}")
        return {
            stem: self._parse_xml(file_of[stem], text)
            for stem, text in zip(wanted, texts, strict=True)
        }

    def _parse_xml(self, file: str, text: bytes) -> list[_Box]:
        where = self.source.where(file)
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
                boxes.append(_Box(name, pixels, where, (int(size[0]), int(size[1]))))
        return boxes


def _boxes_of(tokens: Sequence[str], line: Line) -> list[_Box]:
    """Of the tokens WNID x0 y0 x1 y1, once or more."""
    boxes = []
    for start in range(0, len(tokens), 5):
        wnid, *values = tokens[start : start + 5]
        pixels = line.box(values)
        if wnid != tokens[0]:
            line.fault("unknown label", f"class {quoted(wnid)} beside {quoted(tokens[0])}")
        elif pixels:
            boxes.append(_Box(wnid, pixels, line.where))
    return boxes


def _solution(part: str) -> str:
    return f"LOC_{part}_solution.csv"


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]
