"""The painter of the embedded birds: one bird, one cluttered background, one image.

Everything is a filled polygon in the unit square, so a scene can be painted at any resolution and
the tight box of a bird is known exactly: it is the hull of the bird's polygons. A bird is drawn in
its own frame (facing right, y down, about four units long), put into a pose, and mapped onto its
box. Its colours, outlines and patterns are tables in ``look.json``. The parts that tell the class
are spread over the whole bird: head, wing and tail.

The embedded data replace photographs in the paper's experiments (Section IV-A) where a reader has
none at hand.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import product
from math import cos, pi, sin
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]


class Parts(NamedTuple):
    """What a class is made of: one value per part."""

    head: str
    wing: str
    tail: str


class Shape(NamedTuple):
    """A filled polygon: (n, 2) vertices, x right and y down, and its colour."""

    points: np.ndarray
    colour: Colour


class Background(NamedTuple):
    """What is painted behind the birds, independent of the resolution.

    Attributes:
        octaves: uint8 grids (k, l, 3) of noise, coarse to fine; their channels drive the place in
            the palette, the brightness, and the light that also falls on the birds.
        palette: (256, 3) uint8, the colours from one end of the noise to the other.
        clutter: branches, leaves, berries and grass.
        contrast: how far the light departs from 1.
    """

    octaves: tuple[np.ndarray, ...]
    palette: np.ndarray
    clutter: list[Shape]
    contrast: float


def _look() -> dict[str, Any]:
    """The tables of ``look.json``, with colours and profiles in the places of their names."""
    tables = json.loads((files(__package__) / "look.json").read_text(encoding="utf-8"))
    named = {name: tuple(value) for name, value in tables.pop("colours").items()}
    named |= tables.pop("profiles")

    def resolved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: resolved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [resolved(inner) for inner in value]
        return named.get(value, value) if isinstance(value, str) else value

    return named | resolved(tables)


_LOOK = _look()
BLACK, WHITE, CREAM = (_LOOK[name] for name in ("black", "white", "cream"))

# Two lobes on the crown, front and rear: 6 x 4 pairs, one for each experiment class.
MARKS: tuple[tuple[Colour, Colour], ...] = tuple(product(*_LOOK["marks"]))

# Back and belly of the body: a nuisance, drawn at random.
BODIES = tuple((tuple(back), tuple(belly)) for back, belly in _LOOK["bodies"])

# Outlines


@lru_cache(maxsize=64)
def _spline_basis(controls: int, samples: int) -> np.ndarray:
    """(controls * samples, controls) weights of a closed Catmull-Rom spline."""
    t = np.arange(samples) / samples
    weights = (
        -t / 2 + t**2 - t**3 / 2,
        1 - 2.5 * t**2 + 1.5 * t**3,
        t / 2 + 2 * t**2 - 1.5 * t**3,
        -(t**2) / 2 + t**3 / 2,
    )
    neighbours = (np.roll(np.eye(controls), offset, axis=1) for offset in (-1, 0, 1, 2))
    return sum(map(np.kron, neighbours, (weight[:, None] for weight in weights)))


def _smooth(controls: Sequence[tuple[float, float]] | np.ndarray, samples: int = 4) -> np.ndarray:
    """A smooth closed outline through the control points."""
    return _spline_basis(len(controls), samples) @ np.asarray(controls)


_CIRCLE = np.stack([np.cos(np.arange(14) * pi / 7), np.sin(np.arange(14) * pi / 7)], axis=1)


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    return _CIRCLE * radius + (x, y)


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    """Turn clockwise on the screen (y points down) about the origin by `angle` radians."""
    c, s = cos(angle), sin(angle)
    return points @ np.array([[c, s], [-s, c]])


class _Blade:
    """A long part (wing, tail feather) with its own coordinates.

    `band(a, b, low, high)` is the piece between the fractions a and b of its length and low and
    high of its local half width, so a pattern stays inside its part whatever the pose.
    """

    def __init__(
        self,
        base: Sequence[float] | np.ndarray,
        angle: float,
        length: float,
        width: float,
        profile: tuple[float, ...],
        bend: float = 0.0,
    ) -> None:
        self.base = np.asarray(base)
        c, s = cos(angle), sin(angle)
        self.axes = np.array([[c * length, s * length], [-s * width / 2, c * width / 2]])
        self.profile = np.asarray(profile)
        self.stations = np.linspace(0, 1, len(profile))
        self.bend = bend

    def place(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Points at the fractions u of the length and v of the local half width."""
        across = v * np.interp(u, self.stations, self.profile) + self.bend * u * (1 - u)
        return self.base + np.stack([u, across], axis=1) @ self.axes

    def band(
        self, a: float = 0.0, b: float = 1.0, low: float = -1.0, high: float = 1.0, count: int = 9
    ) -> np.ndarray:
        u = np.linspace(a, b, count)
        return self.place(np.concatenate([u, u[::-1]]), np.repeat([low, high], count))


# The bird

# Outlines of a bird that faces right, in its own frame
_BODY, _BELLY, _HEAD, _BEAK, _LEG, _HIPS = map(np.array, _LOOK["outlines"].values())
_BELLY_CENTRE = np.array((0.18, 0.32))

# What the values of a part look like, as ``look.json`` has it. A band is a colour, its shade, and
# the arguments of `_Blade.band`; a patch is a colour, its shade, and the control points of its
# outline.
_Band = _Patch = tuple[Colour, float, Sequence]
_FLIGHT_FEATHERS = [(0.45, 0.93, low, low + 0.07, 5) for low in (-0.82, -0.3, 0.22)]
_SPOTS = ((0.2, -0.4), (0.22, 0.45), (0.45, 0.0), (0.64, -0.5), (0.66, 0.5), (0.82, 0.0))


class _Ink:
    """The colours of one bird: every colour varies a little, the same way all over the bird."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.gain = float(rng.uniform(0.88, 1.1))
        self.shift = rng.uniform(-12, 12, 3)

    def __call__(self, colour: Colour, shade: float = 1.0) -> Colour:
        inked = (colour + self.shift) * self.gain * shade
        return tuple(np.clip(inked.astype(int), 0, 255).tolist())


def _mix(a: Colour, b: Colour, t: float) -> Colour:
    return tuple(round(x + (y - x) * t) for x, y in zip(a, b, strict=True))


def _bands(blade: _Blade, bands: Sequence[_Band], ink: _Ink) -> list[Shape]:
    return [Shape(blade.band(*piece), ink(colour, shade)) for colour, shade, piece in bands]


def _patches(patches: Sequence[_Patch], ink: _Ink) -> list[Shape]:
    return [Shape(_smooth(outline), ink(colour, shade)) for colour, shade, outline in patches]


def _tail(value: str, ink: _Ink, angle: float) -> list[Shape]:
    shapes = []
    for turn, length, width, profile, bend, bands in _LOOK["tails"][value]:
        blade = _Blade((-0.78, 0.02), pi + angle + turn, length, width, profile, bend)
        shapes += _bands(blade, bands, ink)
    return shapes


def _wing(value: str, ink: _Ink, blade: _Blade) -> list[Shape]:
    colour, bands = _LOOK["wings"][value]
    ground = [(colour, 0.55, ()), (colour, 1, (0.02, 0.97, -0.9, 0.88))]
    ground += [(colour, 0.72, feather) for feather in _FLIGHT_FEATHERS]
    shapes = _bands(blade, [*ground, *bands], ink)
    if value == "spotted":
        centres = blade.place(*np.transpose(_SPOTS))
        shapes += [Shape(_disc(x, y, 0.1), ink(CREAM)) for x, y in centres]
    return shapes


def _head(value: str, ink: _Ink) -> list[Shape]:
    colour, behind, upon = _LOOK["heads"][value]
    head = [(colour, 0.78, _HEAD), (colour, 1, _HEAD * 0.9 + (0.09, -0.068))]
    return _patches([*behind, *head, *upon], ink)


def _mark(colours: tuple[Colour, Colour], ink: _Ink) -> list[Shape]:
    front, rear = colours
    lobes: list[_Patch] = [
        (rear, 1, [(0.96, -0.98), (0.42, -1.02), (0.3, -1.42), (0.8, -1.6)]),
        (front, 1, [(1.36, -0.92), (0.86, -0.98), (0.82, -1.58), (1.36, -1.46)]),
    ]
    return _patches(lobes, ink)


def bird_shapes(
    parts: Parts,
    rng: np.random.Generator,
    *,
    aspect: float,
    mark: tuple[Colour, Colour] | None = None,
    flip: bool | None = None,
) -> list[Shape]:
    """One bird in a random pose, its hull exactly the unit square.

    Args:
        parts: the part values that make its class.
        aspect: width over height of the box it will fill, in pixels; the pose that comes nearest
            among several random ones is taken, the rest is stretched.
        mark: colours of the two lobes on the crown, or None for none.
        flip: True faces left, False right, None draws it.

    Returns:
        Shapes in the order of painting.
    """
    ink = _Ink(rng)
    back, belly = BODIES[rng.integers(len(BODIES))]
    if flip is None:
        flip = bool(rng.random() < 0.5)
    raised = rng.random() < 0.25
    lift = rng.uniform(0.5, 1.2) if raised else rng.uniform(-0.16, 0.1)
    length = rng.uniform(1.45, 1.65) * (1.1 if raised else 1.0)
    wing = _Blade(
        (0.56, -0.3),
        pi - 0.16 + lift,
        length,
        rng.uniform(0.72, 0.86),
        _LOOK["broad"],
        bend=0.5 if raised else -0.45,
    )
    shapes = _tail(parts.tail, ink, float(rng.uniform(-0.3, 0.3)))
    stout = np.array([1.0, rng.uniform(0.92, 1.1)])
    body: list[_Patch] = [(back, 0.7, _BODY), (back, 1, _BODY * 0.95 + (0.0, 0.005))]
    for step, shrink in ((0.35, 1.0), (0.7, 0.85), (1.0, 0.68)):
        outline = (_BELLY - _BELLY_CENTRE) * shrink + _BELLY_CENTRE
        body.append((_mix(back, belly, step), 1, outline))
    shapes += _patches(body, ink)
    shapes.append(Shape(_BEAK, ink((60, 52, 48) if rng.random() < 0.6 else (232, 158, 54))))
    shapes += _head(parts.head, ink)
    if mark is not None:  # over the head: a crest must not hide it
        shapes += _mark(mark, ink)
    shapes.append(Shape(_disc(1.14, -0.74, 0.11), WHITE))
    shapes.append(Shape(_disc(1.16, -0.74, 0.08), (12, 10, 12)))
    shapes.append(Shape(_disc(1.19, -0.77, 0.028), WHITE))
    shapes += _wing(parts.wing, ink, wing)
    return _posed(shapes, rng, ink, aspect=aspect, stout=stout, flying=raised, flip=flip)


def _posed(
    shapes: Sequence[Shape],
    rng: np.random.Generator,
    ink: _Ink,
    *,
    aspect: float,
    stout: np.ndarray,
    flying: bool,
    flip: bool,
) -> list[Shape]:
    """A bird widened by `stout` (2,), tilted, on its legs, and scaled to the unit square."""
    colours = [shape.colour for shape in shapes]
    sizes = [len(shape.points) for shape in shapes]
    points = np.concatenate([shape.points for shape in shapes]) * stout
    tilt = _tilt(points, rng, aspect)
    points = _rotate(points, -tilt)
    if not flying and rng.random() < 0.7:  # legs stay upright, whatever the tilt
        hips = _rotate(_HIPS * stout, -tilt)
        points = np.concatenate([hips[1] + _LEG, hips[0] + _LEG, points])
        colours = [ink((74, 58, 48))] * 2 + colours
        sizes = [len(_LEG)] * 2 + sizes
    if flip:
        points = points * (-1, 1)
    low = points.min(axis=0)
    points = (points - low) / (points.max(axis=0) - low)
    pieces = np.split(points, np.cumsum(sizes)[:-1])
    return list(map(Shape, pieces, colours))


def _tilt(points: np.ndarray, rng: np.random.Generator, aspect: float) -> float:
    """Of several random angles the one whose hull comes nearest to that width over height."""
    tilts = rng.uniform(-0.5, 1.3, 10)
    c, s = np.cos(tilts)[:, None], np.sin(tilts)[:, None]
    width = np.ptp(points[:, 0] * c + points[:, 1] * s, axis=1)
    height = np.ptp(points[:, 1] * c - points[:, 0] * s, axis=1)
    return float(tilts[np.argmin(np.abs(np.log(width / height / aspect)))])


# The background

_HABITATS, _BERRIES = _LOOK["habitats"], _LOOK["berries"]


def random_background(rng: np.random.Generator) -> Background:
    """A habitat with clutter that shares the birds' colours, so that no colour finds the bird."""
    stops, wide = _HABITATS[rng.integers(len(_HABITATS))]
    octaves = tuple(
        rng.integers(0, 256, (grid, max(grid // wide, 2), 3), dtype=np.uint8)
        for grid in (4, 8, 16, 32, 80)
    )
    at = np.linspace(0, 255, len(stops))
    shift = rng.uniform(-14, 14, 3)
    palette = np.stack(
        [np.interp(np.arange(256), at, [s[c] for s in stops]) + shift[c] for c in range(3)], axis=1
    )
    clutter: list[Shape] = []
    for draw, least, most in ((_grass, 1, 3), (_branch, 1, 3), (_leaf, 4, 9), (_berry, 3, 7)):
        for _ in range(rng.integers(least, most + 1)):
            clutter += draw(rng, stops)
    contrast = float(rng.uniform(0.2, 0.5))
    return Background(octaves, np.clip(palette, 0, 255).astype(np.uint8), clutter, contrast)


def plain_ground(colour: Colour = (236, 230, 216)) -> Background:
    """Paper without anything on it, for the plates of a field guide."""
    grey = np.full((2, 2, 3), 128, dtype=np.uint8)
    return Background((grey,), np.tile(np.uint8(colour), (256, 1)), [], 0.0)


def _vary(colour: Colour, rng: np.random.Generator, spread: float = 20) -> Colour:
    shift = rng.uniform(-spread, spread, 3)
    return tuple(np.clip((colour + shift).astype(int), 0, 255).tolist())


def _branch(rng: np.random.Generator, _: tuple[Colour, ...]) -> list[Shape]:
    """A tapered, bent stroke across the image, lit from above."""
    angle = rng.uniform(0, 2 * pi)
    u = np.linspace(0, 1, 7)
    path = np.stack([u * 1.5, np.cumsum(rng.normal(0, 0.035, 7))], axis=1)
    middle = rng.uniform(0.15, 0.85, 2)
    path = _rotate(path, angle) + middle - 0.6 * np.array([cos(angle), sin(angle)])
    thick = rng.uniform(0.01, 0.035) * (1 - 0.7 * u)[:, None]
    across = np.array([-sin(angle), cos(angle)])
    across = across if across[1] > 0 else -across
    dark = _vary((74, 56, 42), rng)
    upper, lower = path - across * thick, path + across * thick
    middle = path - across * thick * 0.2
    return [
        Shape(np.concatenate([upper, lower[::-1]]), dark),
        Shape(np.concatenate([upper, middle[::-1]]), _mix(dark, (206, 184, 150), 0.4)),
    ]


def _leaf(rng: np.random.Generator, stops: tuple[Colour, ...]) -> list[Shape]:
    """A leaf in the habitat's colours, or sometimes in a bird's."""
    if rng.random() < 0.4:
        colour = _vary(_BERRIES[rng.integers(len(_BERRIES))], rng)
    else:
        colour = _vary(stops[rng.integers(len(stops))], rng, 35)
    angle = rng.uniform(0, 2 * pi)
    base, length, width = rng.uniform(0, 1, 2), rng.uniform(0.08, 0.24), rng.uniform(0.03, 0.09)
    blade = _Blade(base, angle, length, width, _LOOK["pointed"])
    return [
        Shape(blade.band(count=7), _mix(colour, BLACK, 0.25)),
        Shape(blade.band(0, 0.97, -0.8, -0.06, 7), colour),
        Shape(blade.band(0, 0.97, 0.06, 0.8, 7), _mix(colour, WHITE, 0.15)),
    ]


def _berry(rng: np.random.Generator, _: tuple[Colour, ...]) -> list[Shape]:
    colour = _vary(_BERRIES[rng.integers(len(_BERRIES))], rng)
    x, y = rng.uniform(0, 1, 2)
    radius = rng.uniform(0.012, 0.05)
    return [
        Shape(_disc(x, y, radius), _mix(colour, BLACK, 0.3)),
        Shape(_disc(x - radius * 0.1, y - radius * 0.12, radius * 0.82), colour),
        Shape(_disc(x - radius * 0.3, y - radius * 0.35, radius * 0.25), _mix(colour, WHITE, 0.6)),
    ]


def _grass(rng: np.random.Generator, _: tuple[Colour, ...]) -> list[Shape]:
    """A few parallel strokes in one colour: bars and streaks are not only on birds."""
    colour = _vary(_BERRIES[rng.integers(len(_BERRIES))], rng, 30)
    root = rng.uniform(0, 1, 2)
    angle = rng.uniform(0, 2 * pi)
    step = np.array([-sin(angle), cos(angle)]) * rng.uniform(0.025, 0.06)
    length, width = rng.uniform(0.08, 0.3), rng.uniform(0.01, 0.025)
    shapes = []
    for i in range(rng.integers(3, 6)):
        blade = _Blade(root + step * i, angle + rng.normal(0, 0.1), length, width, _LOOK["pointed"])
        shapes.append(Shape(blade.band(count=4), _mix(colour, BLACK, 0.12 * (i % 3))))
    return shapes


# Painting

_SUPERSAMPLING = 3


def paint(background: Background, shapes: Sequence[Shape], size: int) -> np.ndarray:
    """Paint a scene.

    Args:
        shapes: polygons in the unit square, painted in order over the background's clutter.
        size: side of the image in pixels.

    Returns:
        (size, size, 3) uint8.
    """
    fields = np.zeros((size, size, 3), dtype=np.float32)
    light = np.zeros((size, size), dtype=np.float32)
    total = 0.0
    for octave, grid in enumerate(background.octaves):
        layer = np.asarray(Image.fromarray(grid).resize((size, size), Image.Resampling.BICUBIC))
        weight = 0.62**octave
        total += weight
        fields += layer * np.float32(weight)
        if octave < 2 or octave == len(background.octaves) - 1:
            strength = (0.6, 0.4)[octave] if octave < 2 else 0.25
            light += (layer[..., 2].astype(np.float32) - 128) * np.float32(strength / 128)
    fields /= np.float32(total)
    # the mean of octaves crowds around the middle: stretch it over the palette
    place = np.clip((fields[..., 0] - 128) * 2.1 + 128, 0, 255).astype(np.uint8)
    ground = background.palette[place].astype(np.float32)
    ground *= 1 + (fields[..., 1:2] - 128) * np.float32(background.contrast * 2 / 128)
    canvas = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    side = size * _SUPERSAMPLING
    canvas = canvas.resize((side, side), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    for shape in (*background.clutter, *shapes):
        # pixel i covers [i, i + 1), its centre is where the painter looks
        draw.polygon((shape.points * side - 0.5).ravel().tolist(), fill=shape.colour)
    image = np.asarray(canvas.reduce(_SUPERSAMPLING), dtype=np.float32)
    image = image * (1 + np.float32(background.contrast * 0.6) * light[..., None])
    return np.clip(image, 0, 255).astype(np.uint8)
