"""CUB-200-2011: birds of 200 species, one box per image, as distributed.

The fine-grained data set of the paper's experiments (section IV-A). The layout is that of the
archive:

    images.txt                 image number, path below images/
    classes.txt                class number, name
    train_test_split.txt       image number, 1 for training or 0 for test
    bounding_boxes.txt         image number, x, y, width, height; pixels, with decimals
    images/NNN.Class_name/*.jpg

The class of an image is the folder that it lies in; so says ``image_class_labels.txt``, too.

``test`` is the official test part. ``train`` and ``val`` share the official training part: a tenth
of each class is held back as ``val`` (`cstn_lib.data.photos.order`), whose boxes may be used to
choose hyper-parameters; the rest is ``train``, of which learning sees the labels alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from cstn_lib.data.photos.faults import quoted
from cstn_lib.data.photos.photo_list import Photo, measured
from cstn_lib.data.photos.reading import Reader
from cstn_lib.data.photos.text_table import Line, keyed, table_lines

_PARTS, _BOXES = "train_test_split.txt", "bounding_boxes.txt"
_COLUMNS = {
    "images.txt": ("image number", "path"),
    "classes.txt": ("class number", "name"),
    _PARTS: ("image number", "1 or 0"),
    _BOXES: ("image number", "x", "y", "width", "height"),
}


class CUB(Reader):
    """The folder ``CUB_200_2011``, one that holds it, or a zip of it."""

    name = "cub"
    what = "CUB-200-2011"
    marker = "images.txt"
    inner = ("CUB_200_2011",)

    def identity(self, split: str) -> object:
        return [self.source.checksums(_COLUMNS), self.source.marks(self._folders())]

    def photos(self, split: str) -> tuple[list[Photo], list[str]]:
        source = self.source
        classes = self._lines("classes.txt")
        names = dict.fromkeys(line.values[1] for line in classes.values())
        label_of = {name: label for label, name in enumerate(names)}
        images = self._lines("images.txt")
        parts, boxes = self._lines(_PARTS, images), self._lines(_BOXES, images)
        there = {file for folder in self._folders() for file in source.photos(folder)}
        found, flag_of = [], "0" if split == "test" else "1"
        for number, image in images.items():
            file = f"images/{image.values[1]}"
            name = image.values[1].rpartition("/")[0]
            absent = [list_ for list_, of in ((_PARTS, parts), (_BOXES, boxes)) if number not in of]
            if file not in there:
                image.fault("missing image", source.why_missing(file))
            elif name not in label_of:
                image.fault("unknown label", f"class {quoted(name)}, expected one of classes.txt")
            elif absent:
                message = f"no line of image {number}, expected one for each image of images.txt"
                source.fault("not annotated", message, absent[0])
            elif (flag := parts[number].values[1]) not in ("0", "1"):
                message = f"{quoted(flag)}, expected 1 for training or 0 for test"
                parts[number].fault("unreadable line", message)
            elif (box := boxes[number].numbers()) and flag == flag_of:
                x, y, width, height = box
                ends = x, y, x + width, y + height
                found.append(Photo(file, label_of[name], [ends], [boxes[number].where]))

        present = {photo.label for photo in found}
        for line in classes.values():
            if label_of[line.values[1]] not in present:
                part = "test" if split == "test" else "training"
                line.fault("class without image", f"no {part} image of class {line.values[1]}")
        if split != "test":
            found = self.train_or_val(split, found)
        found = measured(source, found, f"sizes of {self.name} {split}")
        return found, [name.partition(".")[2] or name for name in label_of]

    def _folders(self) -> list[str]:
        return [f"images/{name}" for name in self.source.folders("images")]

    def _lines(self, file: str, images: Mapping[str, Line] | None = None) -> dict[str, Line]:
        """The lines of a list by their number; of `images` alone, where they are given."""
        kept, columns = {}, _COLUMNS[file]
        lines = keyed(columns[0], table_lines(self.source, file, columns, " "))
        for number, line in lines.items():
            if not (number.isascii() and number.isdigit()):
                line.fault("unreadable line", f"{quoted(number)}, expected the {columns[0]}")
            elif images is not None and number not in images:
                line.fault("unknown image", f"image {number}, expected one of images.txt")
            else:
                kept[number] = line
        return kept
