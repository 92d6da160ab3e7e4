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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.etree import ElementTree

from cstn_lib.data.photos.decoding import in_parallel
from cstn_lib.data.photos.faults import Faults, quoted
from cstn_lib.data.photos.photo_list import Photo, measured
from cstn_lib.data.photos.reading import Reader, is_wnid
from cstn_lib.data.photos.sources import FolderSource
from cstn_lib.data.photos.text_table import Line
from cstn_lib.support.errors import InputError

HELD_BACK = 20  # images of each class that training never sees

_PHOTOS = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", ".")
_BOXES = ("ILSVRC/Annotations/CLS-LOC", "Annotations/CLS-LOC", "Annotations")
_MAPPING = "LOC_synset_mapping.txt"
_ENDS = ("xmin", "ymin", "xmax", "ymax")


class _Note(NamedTuple):
    """An XML file: the size of its image, and class and box, in pixels, of each object."""

    file: str = ""
    size: tuple[int, int] = (0, 0)
    objects: Sequence[tuple[str, Sequence[float]]] = ()


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

    def photos(self, split: str) -> tuple[list[Photo], list[str]]:
        part, names = "val" if split == "test" else "train", self._names()
        base = self._folder(part)
        if not base:
            where = self.source.where(part)
            raise InputError(f"{where}: missing, expected the images of ILSVRC")
        if train := self._folder("train"):
            wnids = [name for name in self.source.folders(train) if is_wnid(name)]
        else:
            wnids = sorted(names)
        if split == "test":
            folders = [f"{base}/{name}" for name in self.source.folders(base)]
            files = self.source.photos(base, folders_too=True)
            files += [file for folder in folders for file in self.source.photos(folder)]
            photos = [Photo(file, -1) for file in files]  # its boxes tell the class
        else:
            photos = self._train_or_val(split, base, wnids)
        if split != "train":
            notes = self._notes(part, [photo.file for photo in photos])
            if not wnids:
                wnids = sorted({wnid for note in notes for wnid, _ in note.objects})
            photos = self._with_boxes(split, photos, notes, wnids)
            photos = measured(self.source, photos, f"sizes of {self.name} {split}")
        return photos, [names.get(wnid, wnid) for wnid in wnids]

    def _train_or_val(self, split: str, base: str, wnids: Sequence[str]) -> list[Photo]:
        for name in sorted(
            {*self.source.folders(base), *self.source.names(base)}.difference(wnids)
        ):
            message = "expected a folder named like n01440764"
            self.source.oddity("no class, passed over", message, f"{base}/{name}")
        folders = {f"{base}/{wnid}": label for label, wnid in enumerate(wnids)}
        return self.train_or_val(split, self.class_photos(folders), HELD_BACK)

    def _with_boxes(
        self, split: str, photos: Sequence[Photo], notes: Sequence[_Note], wnids: Sequence[str]
    ) -> list[Photo]:
        """Those that have boxes, with their boxes in pixels."""
        found, label_of = [], {wnid: label for label, wnid in enumerate(wnids)}

        def other_class(file: str, wnid: str, expected: str) -> None:
            message = f"class {quoted(wnid)}, expected {expected}"
            self.source.fault("unknown label", message, file)

        for photo, (file, size, objects) in zip(photos, notes, strict=True):
            if not objects:
                if split == "test":
                    self.source.fault("no box", "no box, expected one or more", photo.file)
                continue
            own = objects[0][0] if split == "test" else wnids[photo.label]
            if own not in label_of:
                other_class(file, own, "one of the classes of train")
                continue
            boxes = []
            for wnid, box in objects:
                if wnid == own:
                    boxes.append(box)
                else:
                    other_class(file, wnid, own)
            places = [self.source.where(file)] * len(boxes)
            found.append(Photo(photo.file, label_of[own], boxes, places, size))
        return found

    def _names(self) -> dict[str, str]:
        return self.class_names(_MAPPING, " ", "WNID and names")

    def _folder(self, part: str, bases: Sequence[str] = _PHOTOS) -> str:
        """Where ``train`` or ``val`` is, by default that of the photos; empty where it is not."""
        folders = (str(PurePosixPath(base, part)) for base in bases)
        return next((folder for folder in folders if self.source.has(f"{folder}/")), "")

    # Boxes

    def _notes(self, part: str, files: Sequence[str]) -> list[_Note]:
        """The annotations of each of these photos; without any object where it has none."""
        source, folder = self.source, self._folder(part, _BOXES)
        if not folder:
            where = source.where(f"Annotations/{part}")
            raise InputError(f"{where}: missing, expected the boxes of {part}")
        places = (folder, *(f"{folder}/{name}" for name in source.folders(folder)))
        listed = {
            _stem(name): f"{place}/{name}" for place in places for name in source.names(place)
        }
        if part == "val":
            for stem in sorted(listed.keys() - map(_stem, files)):
                source.fault("missing image", f"no image of that name in {part}", listed[stem])
        xml = [listed.get(_stem(file), "") for file in files]
        texts = in_parallel(
            lambda file: file and source.read(file), xml, f"boxes of {self.name} {part}"
        )
        return [
            self._parse(file, text) if file else _Note()
            for file, text in zip(xml, texts, strict=True)
        ]

    def _parse(self, file: str, text: bytes) -> _Note:
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            self.source.fault("unreadable annotation", f"not whole XML ({error})", file)
            return _Note()
        size = [root.findtext(f"size/{side}", "0").strip() for side in ("width", "height")]
        if not all(text.isdecimal() and len(text) < 10 for text in size):
            message = f"size {quoted(' '.join(size))}, expected width and height in pixels"
            self.source.fault("unreadable annotation", message, file)
            return _Note()
        objects = []
        for item in root.iter("object"):
            ends = [item.findtext(f"bndbox/{end}", "") for end in _ENDS]
            if box := Line(self.source, file, None, ends).numbers():
                objects.append((item.findtext("name", ""), box))
        return _Note(file, (int(size[0]), int(size[1])), objects)


def _stem(file: str) -> str:
    return file.rpartition("/")[2].rpartition(".")[0]
