"""One's own photos: class folders, and a table of boxes for the splits that are evaluated.

    train/CLASS/*                  photos to learn from: at least two classes
    val/CLASS/*  test/CLASS/*      photos of the same classes, with boxes
    boxes.csv                      image,x0,y0,x1,y1

The table starts with that header. ``image`` is the path below the root (``test/cat/1.jpg``); x0 and
y0 are where the box begins and x1 and y1 where it ends, in pixels of the image as it is shown: the
box around all of an image of 640 x 480 is 0,0,640,480. An image may have several lines. Labels
follow the sorted names of the folders of ``train``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cstn_lib.data.photos.faults import quoted
from cstn_lib.data.photos.photo_list import Photo, measured
from cstn_lib.data.photos.reading import SPLITS, Reader
from cstn_lib.data.photos.sources import inner_path
from cstn_lib.data.photos.text_table import Line, table_lines
from cstn_lib.support.errors import InputError

_TABLE = "boxes.csv"
_COLUMNS = ("image", "x0", "y0", "x1", "y1")


class Folder(Reader):
    """The folder with ``train``, or a zip of it."""

    name = "folder"
    what = "a folder of photos"
    marker = "train/"
    published = False

    def identity(self, split: str) -> object:
        source = self.source
        table = source.checksum(_TABLE) if source.has(_TABLE) else None
        classes = [f"{split}/{name}" for name in source.folders(split)]
        return [table, source.folders("train"), source.marks(classes)]

    def photos(self, split: str) -> tuple[list[Photo], list[str]]:
        source = self.source
        classes, names = source.folders("train"), source.folders(split)
        if len(classes) < 2:
            raise InputError(
                f"{source.where('train')}: {len(classes)} folders, expected one for each of at "
                "least two classes"
            )
        expected = f"expected {split}/CLASS with photos"
        if not names:
            raise InputError(f"{source.where(split)}: no class in it, {expected}")
        for name in source.names(split):
            source.oddity("file outside the classes, passed over", expected, f"{split}/{name}")
        for name in sorted(set(names).difference(classes)):
            message = f"class {quoted(name)}, expected one of train"
            source.fault("unknown label", message, f"{split}/{name}")
        folders = {f"{split}/{name}": label for label, name in enumerate(classes) if name in names}
        photos = self._with_boxes(split, self.class_photos(folders))
        for photo in photos:
            if split != "train" and not photo.boxes:
                source.fault("no box", f"no box, expected a line of it in {_TABLE}", photo.file)
        return measured(source, photos, f"sizes of {self.name} {split}", as_shown=True), classes

    def _with_boxes(self, split: str, photos: Sequence[Photo]) -> list[Photo]:
        """Those photos with the boxes of the table, in pixels."""
        found = {photo.file: photo._replace(boxes=[], places=[]) for photo in photos}
        for line in self._lines() if split != "train" or self.source.has(_TABLE) else ():
            image = inner_path(line.values[0].strip())
            if not image.startswith(f"{split}/"):
                if image.partition("/")[0] not in SPLITS:
                    message = f"{quoted(image)}, expected a path from train, val or test"
                    line.fault("unknown image", message)
                continue
            box = line.numbers()
            if image not in found:
                line.fault("missing image", self.source.why_missing(image))
            elif box:
                found[image].boxes.append(box)
                found[image].places.append(line.where)
        return list(found.values())

    def _lines(self) -> Iterator[Line]:
        """The lines of the table below its header."""
        lines = table_lines(self.source, _TABLE, _COLUMNS, ",")
        header = next(lines, Line(self.source, _TABLE, 1, []))
        if [name.strip() for name in header.values] != list(_COLUMNS):
            raise InputError(
                f"{header.where}: {quoted(','.join(header.values))}, expected the header "
                f"{','.join(_COLUMNS)}"
            )
        return lines
