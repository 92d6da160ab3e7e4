"""The layouts of the real data sets in miniature, with real JPEGs made on the spot.

Each photo is grey noise with one bright rectangle an object, in the colour of its class, so that a
test can find the boxes in the pixels. Sizes and boxes differ from photo to photo; everything
follows from the file's name.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n01443537", "n02084071")
SPECIES = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))

Box = tuple[int, int, int, int]


def photo_of(name: str, label: int, objects: int = 1) -> tuple[Image.Image, list[Box]]:
    """The photo of that name and its boxes, in pixels as edges."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    width, height = (int(side) for side in random.integers(60, 120, 2))
    pixels = random.integers(90, 130, (height, width, 1)).repeat(3, axis=2).astype(np.uint8)
    boxes = []
    for part in range(objects):  # side by side: they do not overlap
        left, right = part * width // objects, (part + 1) * width // objects
        x0 = left + int(random.integers(0, 6))
        x1 = right - int(random.integers(0, 6))
        y0, y1 = int(random.integers(0, height // 3)), height - int(random.integers(0, height // 3))
        pixels[y0:y1, x0:x1] = COLOURS[label]
        boxes.append((x0, y0, x1, y1))
    return Image.fromarray(pixels), boxes


def jpeg(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=95)
    return data.getvalue()


def write(path: Path, content: bytes | str | Sequence[str]) -> None:
    """A file and the folders above it; texts a line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, (bytes, str)):
        content = "".join(f"{line}\n" for line in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_photo(path: Path, label: int, objects: int = 1) -> list[Box]:
    image, boxes = photo_of(path.name, label, objects)
    write(path, jpeg(image))
    return boxes


def make_cub(root: Path, train: int = 12, test: int = 4) -> Path:
    """``CUB_200_2011`` with three species and so many photos of each."""
    top = root / "CUB_200_2011"
    lists: dict[str, list[str]] = {
        "images.txt": [],
        "image_class_labels.txt": [],
        "train_test_split.txt": [],
        "bounding_boxes.txt": [],
    }
    number = 0
    for label, species in enumerate(SPECIES):
        for index in range(train + test):
            number += 1
            path = f"{species}/{species.partition('.')[2]}_{index:04}_{number}.jpg"
            ((x0, y0, x1, y1),) = write_photo(top / "images" / path, label)
            lists["images.txt"].append(f"{number} {path}")
            lists["image_class_labels.txt"].append(f"{number} {label + 1}")
            lists["train_test_split.txt"].append(f"{number} {int(index < train)}")
            lists["bounding_boxes.txt"].append(f"{number} {x0}.0 {y0}.0 {x1 - x0}.0 {y1 - y0}.0")
    write(top / "classes.txt", [f"{i} {name}" for i, name in enumerate(SPECIES, start=1)])
    for name, lines in lists.items():
        write(top / name, lines)
    return top


def xml_of(wnid: str, boxes: Sequence[Box], size: tuple[int, int] | None = None) -> str:
    objects = "".join(
        f"<object><name>{wnid}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox></object>"
        for x0, y0, x1, y1 in boxes
    )
    sides = f"<width>{size[0]}</width><height>{size[1]}</height>" if size else ""
    return f"<annotation><size>{sides}</size>{objects}</annotation>\n"


def make_ilsvrc(root: Path, train: int = 12, test: int = 4, *, plain: bool = False) -> Path:
    """ILSVRC 2012 with three classes and so many photos of each.

    Every other photo has two boxes; of train, every fourth has none.

    Args:
        plain: the folders ``train`` and ``val``, the latter with class folders, instead of the
            archive's.
    """
    top = root / "imagenet"
    photos = top if plain else top / "ILSVRC/Data/CLS-LOC"
    notes = top / ("Annotations" if plain else "ILSVRC/Annotations/CLS-LOC")
    names = [f"{wnid} fish number {i}, other name" for i, wnid in enumerate(WNIDS)]
    write(top / "LOC_synset_mapping.txt", names)
    for label, wnid in enumerate(WNIDS):
        for index in range(train + test):
            part = "train" if index < train else "val"
            number = len(WNIDS) * (index - train) + label + 1
            stem = f"{wnid}_{index}" if part == "train" else f"ILSVRC2012_val_{number:08}"
            inner = f"{wnid}/" if part == "train" or plain else ""
            path = photos / part / f"{inner}{stem}.JPEG"
            boxes = write_photo(path, label, objects=1 + index % 2)
            if part == "train" and index % 4 == 3:
                continue
            folder = f"{wnid}/" if part == "train" else ""
            with Image.open(path) as opened:
                size = opened.size
            write(notes / part / f"{folder}{stem}.xml", xml_of(wnid, boxes, size))
    return top


def make_folder(root: Path, count: int = 4, classes: Sequence[str] = ("ant", "bee", "cat")) -> Path:
    """Class folders, up to three, with so many photos in each split, and the table of boxes."""
    top = root / "mine"
    lines = ["image,x0,y0,x1,y1"]
    for split in ("train", "val", "test"):
        for label, name in enumerate(classes):
            for index in range(count):
                image = f"{split}/{name}/{split}-{name}-{index}.jpg"
                boxes = write_photo(top / image, label, objects=1 + index % 2)
                if split != "train":
                    lines += [f"{image},{','.join(map(str, box))}" for box in boxes]
    write(top / "boxes.csv", lines)
    return top
