"""The embedded data sets ``birds-cub`` and ``birds-ilsvrc``: drawn birds with exact boxes.

They stand in for CUB-200-2011 and ILSVRC (Section IV-A of the paper) where neither is at hand: the
boxes follow the statistics of the real annotations, the images are drawn. A class is told by the
combination of three parts at different places of the bird (4 heads x 3 wings x 2 tails = 24); body
colour, pose, direction, size and place are random. No single part tells the class, so that whoever
wants to know it has to look at the whole bird.

An image depends on (seed, split, index) and the options alone: not on the number of images, the
number of processes, or the images drawn before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from itertools import product, starmap
from math import erf
from pathlib import Path

import numpy as np

from cstn_lib.data.birds.drawing import (
    MARKS,
    Parts,
    Shape,
    bird_shapes,
    paint,
    plain_ground,
    random_background,
)
from cstn_lib.data.config import SPLITS, DataConfig
from cstn_lib.data.images import ImageSet, SplitLists, open_image_set, write_image_set
from cstn_lib.support.errors import InputError, unknown_name
from cstn_lib.support.progress import Progress

DRAWING_VERSION = 2
"""To be raised whenever a pixel or a box changes; splits drawn before are then not used."""
_COUNTS = {"train": 6000, "val": 600, "test": 1200, "pretrain": 6000}

_HEADS = ("hooded", "crested", "striped", "golden")
_CLASSES = tuple(starmap(Parts, product(_HEADS, ("barred", "patched", "azure"), ("forked", "fan"))))
_PRETRAIN_HEADS = ("collared", "browed", "bibbed", "plumed", "rosy")
_PRETRAIN_CLASSES = tuple(
    starmap(Parts, product(_PRETRAIN_HEADS, ("spotted", "streaked", "tipped"), ("wedge", "banded")))
)


def class_names(split: str = "test") -> tuple[str, ...]:
    """Names of the classes of a split, by label: ``"hooded-barred-forked"`` and so on."""
    return tuple("-".join(parts) for parts in _classes(split))


def class_parts(label: int, split: str = "test") -> Parts:
    """Head, wing and tail of a class.

    Raises:
        InputError: the split has no such label.
    """
    classes = _classes(split)
    if not 0 <= label < len(classes):
        raise InputError(f"label {label}: expected 0 to {len(classes) - 1}")
    return classes[label]


def _classes(split: str) -> tuple[Parts, ...]:
    if split not in SPLITS:
        raise unknown_name("split", split, SPLITS)
    return _PRETRAIN_CLASSES if split == "pretrain" else _CLASSES


# The data set


def open_birds(config: DataConfig, split: str, data_dir: Path) -> ImageSet:
    """Open a split, drawing it first where it is not there yet.

    It lies in ``data_dir/NAME/SPLIT-HASH``; the hash covers what the split depends on
    and the version of the drawing. Drawing shows its progress; an interrupted one leaves nothing
    behind.

    Returns:
        Images (N, image_size, image_size, 3) uint8 with labels and boxes; image i is
        ``draw_bird_image(config, split, i)``.

    Raises:
        InputError: unknown split, or a damaged folder.
    """
    names = class_names(split)
    fingerprint = _fingerprint(config, split)
    folder = data_dir / config.name / f"{split}-{fingerprint}"
    if folder.is_dir():
        return open_image_set(folder)
    count = getattr(config, split) or _COUNTS[split]
    boxes = [_boxes_of(config, split, index) for index in range(count)]
    lists = SplitLists(
        name=config.name,
        split=split,
        labels=np.arange(count) % len(names),
        boxes=np.concatenate(boxes),
        box_offsets=np.cumsum([0, *map(len, boxes)]),
        class_names=names,
        fingerprint=fingerprint,
    )
    with Progress(range(count), desc=f"drawing {config.name} {split}", unit="image") as bar:
        images = (draw_bird_image(config, split, index)[0] for index in bar)
        return write_image_set(folder, lists, (config.image_size, config.image_size), images)


def _fingerprint(config: DataConfig, split: str) -> str:
    content = {
        "boxes": config.name.removeprefix("birds-"),
        "split": split,
        "count": getattr(config, split) or _COUNTS[split],
        "image_size": config.image_size,
        "head_tell": 0.0 if split == "pretrain" else float(config.head_tell),
        "parts_tell": split == "pretrain" or config.parts_tell,
        "seed": config.drawing,
        "drawing": DRAWING_VERSION,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


# One image


def draw_bird_image(
    config: DataConfig, split: str, index: int, size: int | None = None
) -> tuple[np.ndarray, int, np.ndarray]:
    """One image at any resolution: the same scene, whatever `size`.

    Args:
        index: 0 or more; it need not be below the number of images of the split.
        size: side in pixels; `config.image_size` where not given.

    Returns:
        The image (size, size, 3) uint8, its label, and its (n, 4) float32 boxes, ``xyxy`` in
        [0, 1].

    Raises:
        InputError: unknown split, or a negative index.
    """
    classes = _classes(split)
    boxes = _boxes_of(config, split, index)
    rng = _generator(config, split, index, 1)
    label = index % len(classes)
    tells = rng.random() < config.head_tell and split != "pretrain"
    mark = MARKS[label] if tells else None
    parts = classes[label]
    if not config.parts_tell and split != "pretrain":
        parts = classes[_generator(config, split, index, 2).integers(len(classes))]
    background = random_background(rng)
    shapes: list[Shape] = []
    for box in boxes.astype(np.float64):
        width, height = box[2:] - box[:2]
        bird = bird_shapes(parts, rng, aspect=width / height, mark=mark)
        shapes += _put(bird, box)
    return paint(background, shapes, size or config.image_size), label, boxes


def draw_specimen(
    label: int, size: int, *, split: str = "test", head_tell: bool = False, seed: int = 0
) -> np.ndarray:
    """One bird of a class on paper, as on the plate of a field guide.

    Args:
        label: the class, by its label in `split`.
        size: side of the image in pixels.
        head_tell: whether it wears the mark of its class (see `DataConfig`).
        seed: another seed gives another pose and body.

    Returns:
        (size, size, 3) uint8.

    Raises:
        InputError: unknown split or label.
    """
    rng = np.random.default_rng([seed, label])
    parts = class_parts(label, split)
    mark = MARKS[label] if head_tell and split != "pretrain" else None
    shapes = bird_shapes(parts, rng, aspect=1.45, mark=mark, flip=False)
    box = np.array([0.06, 0.2, 0.94, 0.8])
    return paint(plain_ground(), _put(shapes, box), size)


def _generator(config: DataConfig, split: str, index: int, stream: int) -> np.random.Generator:
    """Every image has its own random numbers, and its boxes have their own beside the rest."""
    if index < 0:
        raise InputError(f"image {index}: expected 0 or more")
    return np.random.default_rng([config.drawing, SPLITS.index(split), index, stream])


def _boxes_of(config: DataConfig, split: str, index: int) -> np.ndarray:
    rng = _generator(config, split, index, 0)
    return sample_boxes(config.name.removeprefix("birds-"), rng).astype(np.float32)


def _put(shapes: list[Shape], box: np.ndarray) -> list[Shape]:
    corner, extent = box[:2], box[2:] - box[:2]
    return [Shape(shape.points * extent + corner, shape.colour) for shape in shapes]


# Box statistics

Table = Sequence[Sequence[float]]

# what each table means stands in the file, under "about"
_STATISTICS = json.loads((files(__package__) / "box_statistics.json").read_text(encoding="utf-8"))
_LEVELS = _STATISTICS.pop("levels")
del _STATISTICS["about"]

_LEAST_SIDE = 4 / 80  # fraction of the image: a bird on fewer than 4 of 80 pixels shows no parts
_ASPECT_LIMIT = 1.6  # of |log aspect|: a bird squeezed further is none any more
_LAYOUT_TRIES = 8


def sample_boxes(kind: str, rng: np.random.Generator) -> np.ndarray:
    """The boxes of one image; no side is shorter than a twentieth of the image.

    Args:
        kind: ``"cub"`` or ``"ilsvrc"``.

    Returns:
        (n, 4) float64 ``xyxy`` in [0, 1], far ones (small) first.

    Raises:
        InputError: unknown kind.
    """
    if kind not in _STATISTICS:
        raise unknown_name("box statistics", kind, _STATISTICS)
    statistics = _STATISTICS[kind]
    counts, areas, kinship = (statistics[name] for name in ("counts", "areas", "kinship"))
    count = 1 + int(rng.choice(len(counts), p=counts))
    table = areas[min(count, len(areas)) - 1]
    common = rng.normal()
    sizes = []
    for _ in range(count):
        normal = common * kinship**0.5 + rng.normal() * (1 - kinship) ** 0.5
        rank = 0.5 * (1 + erf(normal / 2**0.5))
        sizes.append(_sample_size(statistics["aspect"], table, rank, rng))
    sizes.sort(key=lambda size: size[0] * size[1])
    if count == 1:
        return _place(statistics["place"][0], sizes, rng)
    # of several arrangements, the one in which the birds hide each other least
    layouts = [_place(statistics["place"][1], sizes, rng) for _ in range(_LAYOUT_TRIES)]
    return min(layouts, key=_overlap)


def _sample_size(
    aspects: Table, areas: Sequence[float], rank: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Width and height of a box; `rank` in [0, 1] is its place in the distribution of areas."""
    area = max(float(np.interp(rank, _LEVELS, areas)), _LEAST_SIDE**2)
    mean, spread = _at(aspects, area)
    # width and height are at most 1 just when |log aspect| <= -log area
    limit = min(-np.log(area), np.log(area / _LEAST_SIDE**2), _ASPECT_LIMIT)
    aspect = rng.normal(mean, spread)
    while abs(aspect) > limit:
        aspect = rng.uniform(-limit, limit) if limit < 0.5 * spread else rng.normal(mean, spread)
    ratio = np.exp(aspect / 2)
    return area**0.5 * ratio, area**0.5 / ratio


def _place(
    rows: Table, sizes: Sequence[tuple[float, float]], rng: np.random.Generator
) -> np.ndarray:
    boxes = []
    for width, height in sizes:
        spread_x, mean_y, spread_y = _at(rows, width * height)
        x = _beta(0.5, spread_x, rng) * (1 - width)
        y = _beta(mean_y, spread_y, rng) * (1 - height)
        boxes.append((x, y, x + width, y + height))
    return np.clip(boxes, 0, 1)


def _at(rows: Table, area: float) -> list[float]:
    """The columns of a table of statistics, after its first, the area, at that area."""
    areas, *columns = zip(*rows, strict=True)
    return [np.interp(area, areas, column) for column in columns]


def _beta(mean: float, sd: float, rng: np.random.Generator) -> float:
    total = mean * (1 - mean) / sd**2 - 1
    return float(rng.beta(mean * total, (1 - mean) * total))


def _overlap(boxes: np.ndarray) -> float:
    """Sum over pairs of the intersection over the smaller area."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.diagonal(common)
    shares = common / np.minimum(area[:, None], area[None, :])
    return float(np.triu(shares, 1).sum())
