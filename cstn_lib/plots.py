"""Pictures in one style, where a colour has one meaning everywhere.

The default box is blue and dashed, the transformed box red and solid, the ground truth green and
dotted, as in the paper's figures; the box of a score map is orange and the box fused from many
votes purple, both dash-dotted, never both in one picture. The hues are told apart by colour-blind
readers, the line styles in black and white. Boxes come in [0, 1] and meet pixels only here.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from IPython import get_ipython
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from PIL import Image

from cstn_lib.data import DataConfig, ImageSet
from cstn_lib.data.birds.dataset import draw_bird_image
from cstn_lib.support.atomic import atomic_file

BOX_STYLES = {
    "default": {"edgecolor": "#0072B2", "linestyle": (0, (5, 2)), "label": "default box"},
    "transformed": {"edgecolor": "#D7301F", "linestyle": "-", "label": "transformed box"},
    "truth": {"edgecolor": "#00A087", "linestyle": (0, (1, 1)), "label": "ground truth"},
    # what another method answers has the colour of CSTN's answer; never both in one picture
    "found": {"edgecolor": "#D7301F", "linestyle": "-", "label": "box found"},
    # and what was answered before that of the default box
    "before": {"edgecolor": "#0072B2", "linestyle": (0, (5, 2)), "label": "box before"},
    "fused": {"edgecolor": "#AA3377", "linestyle": "-.", "label": "fused box"},
    "score map": {"edgecolor": "#E69F00", "linestyle": "-.", "label": "box of the score map"},
}


_DPI = 80
"""Of figures as they stand on a page; their files have twice as many pixels, for sharp screens."""
_LARGEST_PHOTO, _LARGEST_PLOT = 60_000, 120_000
"""Bytes of a picture, so that a notebook of many stays near a megabyte."""


def use_style() -> None:
    """Set the look of all figures of a notebook, and how it displays them: see `as_html`.

    It begins with matplotlib's own defaults: a reader's matplotlibrc may ask for LaTeX, which then
    would read the names of classes.
    """
    plt.rcdefaults()
    sns.set_theme(context="notebook", style="ticks", palette="colorblind")
    plt.rcParams.update(
        {
            "figure.dpi": _DPI,
            "savefig.dpi": _DPI,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "image.interpolation": "nearest",
        }
    )
    shell = get_ipython()
    if shell is None:
        return
    plt.switch_backend(plt.get_backend())  # later it would set its own way to display figures
    formatters = shell.display_formatter.formatters
    for formatter in formatters.values():
        formatter.pop(Figure, None)
    formatters["text/html"].for_type(Figure, as_html)
    formatters["text/plain"].for_type(Figure, lambda figure, page, _: page.text(describe(figure)))


def as_html(figure: Figure, photos: bool = False) -> str:
    """A figure as an ``<img>`` that is sharp on screens with two pixels per point.

    HTML, because neither JupyterLab nor nbconvert gives the text of `describe` to those who cannot
    see a picture that comes as ``image/png``.

    Args:
        photos: JPEG, a quarter of the size where a figure is full of images; otherwise PNG.
    """
    data, width = _jpeg(figure) if photos else _png(figure)
    kind = "jpeg" if photos else "png"
    source = f"data:image/{kind};base64,{b64encode(data).decode()}"
    return f'<img alt="{escape(describe(figure))}" width="{width}" src="{source}">'


def _jpeg(figure: Figure, largest: int = _LARGEST_PHOTO) -> tuple[bytes, int]:
    """Of the highest quality in steps of 5, up to 85, that keeps it small; and its width shown."""
    image = _drawn(figure, 2 * _DPI)
    for quality in range(85, 20, -5):
        stream = BytesIO()
        image.save(stream, "jpeg", quality=quality, optimize=True)
        if stream.tell() < largest:
            break
    return stream.getvalue(), image.width // 2


def _png(figure: Figure) -> tuple[bytes, int]:
    """In 256 colours, more than plots have, with fewer pixels and colours where it is large."""
    for scale, colours in ((2, 256), (1.5, 256), (1, 256), (1, 64), (1, 16)):
        image, stream = _drawn(figure, scale * _DPI), BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(stream, "png", optimize=True)
        if stream.tell() < _LARGEST_PLOT:
            break
    return stream.getvalue(), round(image.width / scale)


def _drawn(figure: Figure, dpi: float) -> Image.Image:
    stream = BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, bbox_inches="tight")
    return Image.open(stream).convert("RGB")


def describe(figure: Figure) -> str:
    """A figure in words: its panels by their titles, axes and names, and what they show."""
    said, shown, seen = [], [], [ax for ax in figure.axes if ax.axison]
    for ax in seen:
        axes = [text for text in (ax.get_ylabel(), ax.get_xlabel()) if text]
        if ax.get_label() == "<colorbar>":
            said.append(f"colour: {axes[0]}" if axes else "a colour bar")
            continue
        kind = "picture" if ax.images and not len(ax.get_xticks()) else "plot"
        ticks = [label.get_text() for label in (*ax.get_xticklabels(), *ax.get_yticklabels())]
        rows = ", ".join(text for text in ticks if text[:1].isalpha())  # not numbers, not formulas
        parts = (kind, ax.get_title(), " against ".join(axes), rows)
        said.append(": ".join(text for text in parts if text))
        named = [patch.get_label() for patch in ax.patches if kind == "picture"]
        shown += [name for name in named if name[:1].isalpha()]  # matplotlib's own are _child0
    for legend in (*figure.legends, *(ax.get_legend() for ax in seen)):
        shown += [text.get_text() for text in legend.get_texts()] if legend else []
    if shown:
        said.append("showing " + ", ".join(dict.fromkeys(shown)))
    counted = (f"{said.count(one)} × {one}" if said.count(one) > 1 else one for one in said)
    return " ".join("; ".join(dict.fromkeys(counted)).replace(r"\$", "$").split())


PARTS = ("pyramid", "cstn", "joint", "loss", "training")
"""Of the drawing of the network, `schematic`."""


def schematic(part: str = "") -> HTML:
    """The network of section III-E, after the idea of the paper's Figures 3 and 4.

    Args:
        part: one of `PARTS`, beside which the others are greyed; "" greys nothing.

    Raises:
        ValueError: there is no such part.
    """
    if part not in ("", *PARTS):
        raise ValueError(f"part {part!r}: expected one of {', '.join(PARTS)}, or none")
    drawing = (files("cstn_lib") / "network.svg").read_text(encoding="utf-8")
    if part:  # the losses belong to the training, too
        others = ", ".join(f".{one}:not(.{part})" for one in PARTS if one != part)
        drawing = drawing.replace("<defs>", f"<style>{others} {{opacity: 0.3}}</style><defs>")
    said = "The network: image, backbone, two levels, ConvSTN2d on each, votes, class and box"
    data = b64encode(drawing.encode()).decode()
    return HTML(f'<img alt="{said}" width="800" src="data:image/svg+xml;base64,{data}">')


def show_image(ax: Axes, image: np.ndarray, title: str = "") -> None:
    """An image (H, W, 3) uint8 on axes that run from 0 to 1, so that boxes fit on it."""
    ax.imshow(image, extent=(0, 1, 1, 0))
    ax.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    ax.set_title(title, fontsize=10)
    sns.despine(ax=ax, left=True, bottom=True)


def class_title(images: ImageSet, label: int) -> str:
    """The name of a class for a title or legend, to be shown as it is.

    A folder may be called ``$10_$20``; matplotlib takes what stands between two such signs for
    mathematics, as other titles want it to.
    """
    return images.class_names[label].replace("$", r"\$")


def draw_box(ax: Axes, box: Sequence[float], kind: str, **style: object) -> None:
    """One ``xyxy`` box in [0, 1] on axes made by `show_image`.

    Args:
        kind: a key of `BOX_STYLES`.
    """
    x0, y0, x1, y1 = box
    look = {"facecolor": "none", "linewidth": 2, "clip_on": False, **BOX_STYLES[kind], **style}
    # a pale rim keeps thin lines visible on foliage
    look.setdefault("path_effects", [withStroke(linewidth=3, foreground="white", alpha=0.6)])
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, **look))


def box_legend(figure: Figure, kinds: Sequence[str] = ("default", "transformed", "truth")) -> None:
    """What the box colours mean, below the figure."""
    handles = [
        Line2D([], [], color=s["edgecolor"], linestyle=s["linestyle"], label=s["label"], lw=2)
        for s in (BOX_STYLES[kind] for kind in kinds)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), frameon=False)


def draw_points(ax: Axes, points: np.ndarray, kind: str = "transformed") -> None:
    """Sample points (T, 2) as (x, y) in [0, 1] of the image, in the colour of a box kind."""
    ax.scatter(*points.T, s=9, color=BOX_STYLES[kind]["edgecolor"], edgecolor="white", lw=0.4)


def overlay_map(ax: Axes, values: np.ndarray, centres: np.ndarray, **style: object) -> None:
    """A map of one value per location (h, w) over an image, each on its centre.

    Args:
        centres: (h, w, 2) places (x, y) in [0, 1] of the image.
    """
    steps = [(centres[0, -1, 0] - centres[0, 0, 0]), (centres[-1, 0, 1] - centres[0, 0, 1])]
    half = [s / max(n - 1, 1) / 2 for s, n in zip(steps, values.shape[::-1], strict=True)]
    (left, top), (right, bottom) = centres[0, 0] - half, centres[-1, -1] + half
    look = {"cmap": "magma", "alpha": 0.65, **style}
    ax.imshow(values, extent=(left, right, bottom, top), **look)
    ax.set(xlim=(0, 1), ylim=(1, 0))


def draw_score_map(
    ax: Axes,
    image: np.ndarray,
    values: np.ndarray,
    *,
    threshold: float | None = None,
    title: str = "",
    **boxes: np.ndarray,
) -> None:
    """A score map over its image in grey, its active pixels framed in white, and boxes.

    Args:
        image: (H, W, 3) uint8.
        values: (h, w) in [0, 1], covering the whole image; its size may be another.
        threshold: pixels of at least this value are active; None frames nothing.
        boxes: by kind, a key of `BOX_STYLES`: one (4,) or several (n, 4), ``xyxy`` in [0, 1].
    """
    grey = image.mean(axis=2, keepdims=True).astype(np.uint8)
    show_image(ax, np.broadcast_to(grey, image.shape), title)
    ax.imshow(values, extent=(0, 1, 1, 0), cmap="magma", alpha=0.6, vmin=0, vmax=1)
    if threshold is not None and values.min() < threshold <= values.max():
        height, width = values.shape
        x, y = (np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height
        ax.contour(x, y, values, [threshold], colors="white", linewidths=1)
    _draw_boxes(ax, boxes)


def _draw_boxes(ax: Axes, boxes: Mapping[str, np.ndarray]) -> None:
    for kind, several in boxes.items():
        for box in np.atleast_2d(several):
            draw_box(ax, box, kind)


def image_row(
    images: Sequence[np.ndarray],
    boxes: Sequence[dict[str, np.ndarray]],
    titles: Sequence[str] = (),
    columns: int = 6,
    side: float = 2.0,
) -> Figure:
    """Images in a grid, each with its boxes.

    Args:
        images: (H, W, 3) uint8 each.
        boxes: an image's boxes by kind: one (4,) or several (n, 4), ``xyxy`` in [0, 1].
        titles: one per image, or none.
    """
    rows = -(-len(images) // columns)
    width = min(columns, len(images))
    size = (side * width, (side + 0.25 * bool(titles)) * rows + 0.4)
    figure, axes = plt.subplots(rows, width, figsize=size, squeeze=False)
    for index, ax in enumerate(axes.flat):
        if index >= len(images):
            ax.axis("off")
            continue
        show_image(ax, images[index], titles[index] if titles else "")
        _draw_boxes(ax, boxes[index])
    kinds = [kind for kind in BOX_STYLES if any(kind in b for b in boxes)]
    if kinds:
        box_legend(figure, kinds)
    return figure


def sharp_image(images: ImageSet, config: DataConfig, index: int, size: int = 240) -> np.ndarray:
    """One image of a split for display: drawn data drawn again in more detail, others as they are.

    Args:
        config: of the data set, ``run.experiment.data``.
        size: side in pixels of a drawn image.

    Returns:
        (H, W, 3) uint8.
    """
    if not config.name.startswith("birds-"):
        return images.images[index]
    return draw_bird_image(config, images.split, index, size)[0]


def show_photos(figure: Figure) -> None:
    """Display a figure full of images as JPEG, and close it."""
    bundle = {"text/html": as_html(figure, photos=True), "text/plain": describe(figure)}
    plt.close(figure)
    display(bundle, raw=True)


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as ``name.svg`` and ``name.png``; the same figure gives the same bytes."""
    with plt.rc_context({"svg.hashsalt": "cstn"}):
        for kind, options in {"svg": {"metadata": {"Date": None}}, "png": {"dpi": 120}}.items():
            with atomic_file(folder / f"{name}.{kind}") as temporary:
                figure.savefig(temporary, format=kind, **options)


def save_photos(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure full of images as ``name.jpg`` of less than 150 KB, display and close it."""
    with atomic_file(folder / f"{name}.jpg") as temporary:
        temporary.write_bytes(_jpeg(figure, largest=150_000)[0])
    show_photos(figure)
