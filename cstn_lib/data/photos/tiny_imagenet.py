"""Tiny ImageNet: small photographs with one box each, from a folder or straight from the zip.

A real counterpart, at the size of a laptop, of the paper's ILSVRC experiments (section IV-A). The
layout is that of the original archive, in full or with fewer classes:

    wnids.txt                    one class (WordNet id, WNID) per line; the line number is the label
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

from collections.abc import Iterator, Mapping

from cstn_lib.data.photos.faults import quoted
from cstn_lib.data.photos.photo_list import Photo, measured
from cstn_lib.data.photos.reading import Reader, is_wnid
from cstn_lib.data.photos.text_table import Line, keyed, table_lines, text_lines
from cstn_lib.support.errors import InputError

_WNIDS, _WORDS, _VAL = "wnids.txt", "words.txt", "val/val_annotations.txt"
_ENDS = ("x0", "y0", "x1", "y1")
_SIDE = 64  # pixels; every image of the data set has this width and height


class TinyImageNet(Reader):
    """The folder ``tiny-imagenet-200``, one that holds it, or a zip of it."""

    name = "tiny-imagenet"
    what = "Tiny ImageNet"
    marker = _WNIDS
    inner = ("tiny-imagenet-200",)

    def identity(self, split: str) -> object:
        annotations = [_VAL] if split == "test" else map(_box_file, self.source.folders("train"))
        lists = self.source.checksums([_WORDS, _WNIDS, *annotations])
        return [lists, self.source.marks(self._folders(split))]

    def photos(self, split: str) -> tuple[list[Photo], list[str]]:
        """The photos, one box each.

        An object that covers pixels x0 to x1 lies between x0 / 64 and (x1 + 1) / 64. Every image
        must have exactly one line of annotation, and every class an image.
        """
        source = self.source
        wnids = self._wnids()
        there = {file for folder in self._folders(split) for file in source.photos(folder)}
        found: list[Photo] = []
        annotated, present = set(), set()
        for file, wnid, line in self._lines(split, wnids):
            annotated.add(file)
            present.add(wnid)
            box = line.numbers()
            if wnid not in wnids:
                line.fault("unknown label", f"class {quoted(wnid)}, expected one of wnids.txt")
            elif file not in there:
                line.fault("missing image", source.why_missing(file))
            elif box:
                x0, y0, x1, y1 = box
                ends, size = (x0, y0, x1 + 1, y1 + 1), (_SIDE, _SIDE)
                found.append(Photo(file, wnids[wnid], [ends], [line.where], size))
        for wnid in wnids:
            if wnid not in present:
                message = f"no image of class {wnid} of wnids.txt"
                file = _VAL if split == "test" else _box_file(wnid)
                source.fault("class without image", message, file)
        for file in sorted(there - annotated):
            source.fault("no box", "no box, expected a line in the annotations", file)
        if split != "test":
            found = self.train_or_val(split, found)
        names = self.class_names(_WORDS, "\t", "WNID, tab, names")
        found = measured(source, found, f"sizes of {self.name} {split}")
        return found, [names.get(wnid) or wnid for wnid in wnids]

    # Annotations

    def _wnids(self) -> dict[str, int]:
        """The label of every WNID."""
        labels: dict[str, int] = {}
        for line in text_lines(self.source, _WNIDS):
            (wnid,) = line.values
            if not is_wnid(wnid):
                message = f"{quoted(wnid)}, expected a WNID such as n01443537"
                line.fault("unreadable line", message)
            elif wnid in labels:
                line.fault("listed twice", f"class {wnid} again, expected each class once")
            else:
                labels[wnid] = len(labels)
        if not labels:
            where = self.source.where(_WNIDS)
            raise InputError(f"{where}: no line, expected one WNID per line")
        return labels

    def _lines(self, split: str, wnids: Mapping[str, int]) -> Iterator[tuple[str, str, Line]]:
        """File, WNID and line of each image."""
        if split == "test":
            lines = table_lines(self.source, _VAL, ("file", "WNID", *_ENDS), "\t")
            for name, line in keyed("file", lines).items():
                yield f"val/images/{name}", line.values[1], line
            return
        for wnid in self.source.folders("train"):
            if wnid not in wnids and self.source.photos(f"train/{wnid}/images"):
                message = "expected a class of wnids.txt"
                self.source.fault("unknown label", message, f"train/{wnid}")
        for wnid in wnids:
            lines = table_lines(self.source, _box_file(wnid), ("file", *_ENDS), "\t")
            for name, line in keyed("file", lines).items():
                yield f"train/{wnid}/images/{name}", wnid, line

    def _folders(self, split: str) -> list[str]:
        if split == "test":
            return ["val/images"]
        return [f"train/{wnid}/images" for wnid in self.source.folders("train")]


def _box_file(wnid: str) -> str:
    return f"train/{wnid}/{wnid}_boxes.txt"
