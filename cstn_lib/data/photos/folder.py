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

from collections.abc import Sequence

from cstn_lib.data.photos.faults import quoted
from cstn_lib.data.photos.photo_list import PhotoList
from cstn_lib.data.photos.reading import SPLITS, Photo, Reader
from cstn_lib.data.photos.sources import inner_path
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
        classes = [f"{split}/{name}" for name in self.source.folders(split)]
        return [
            self.source.checksum(_TABLE) if self.source.has(_TABLE) else None,
            self.source.folders("train"),
            [(name, sorted(self.source.files(name).items())) for name in classes],
        ]

    def photos(self, split: str) -> PhotoList:
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
        files, labels = self.class_photos(folders)
        boxes = self._boxes(split, files)
        for file, found in boxes.items():
            if split != "train" and not found:
                source.fault("no box", f"no box, expected a line of it in {_TABLE}", file)
        photos = [
            Photo(file, label, boxes[file]) for file, label in zip(files, labels, strict=True)
        ]
        return self.photo_list(split, photos, classes, as_shown=True)

    def _boxes(
        self, split: str, files: Sequence[str]
    ) -> dict[str, list[tuple[Sequence[float], str]]]:
        """By photo, the boxes in pixels with the place of each."""
        boxes: dict[str, list[tuple[Sequence[float], str]]] = {file: [] for file in files}
        needed = split != "train" or self.source.has(_TABLE)
        for line in self.table(_TABLE, _COLUMNS, ",").below_header() if needed else ():
            image = inner_path(line.values[0].strip())
            if not image.startswith(f"{split}/"):
                if image.partition("/")[0] not in SPLITS:
                    message = f"{quoted(image)}, expected a path from train, val or test"
                    line.fault("unknown image", message)
                continue
            box = line.box(line.values[1:])
            if image not in boxes:
                line.fault("missing image", self.source.why_missing(image))
            elif box:
                boxes[image].append((box, line.where))
        return boxes
