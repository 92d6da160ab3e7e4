"""Histograms show the counts they are given, and figures are written whole, small and alike."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from cstn_lib import plots
from cstn_lib.evaluation.metrics import AreaHistogram, Interval
from cstn_lib.reproduction import charts
from cstn_lib.reproduction.areas import WITH, WITHOUT
from cstn_lib.reproduction.rules import (
    CLAIMS,
    HOLDS,
    HOLDS_NOT,
    NOT_TESTED,
    UNDECIDED,
    Finding,
    Measured,
    Verdict,
)

HISTOGRAM = AreaHistogram(
    edges=np.linspace(0.1, 0.5, 5),
    images=np.array([10, 0, 7, 3]),
    localized={WITHOUT: np.array([1, 0, 6, 3]), WITH: np.array([4.5, 0, 5, 0])},
)


@pytest.fixture
def ax() -> Iterator[Axes]:
    with plt.rc_context():
        plots.use_style()
        figure, axes = plt.subplots()
        yield axes
        plt.close(figure)


READERS_OWN = """
text.usetex: True
font.family: serif
figure.dpi: 300
axes.grid: True
image.cmap: jet
savefig.bbox: tight
"""


def test_pictures_do_not_depend_on_the_readers_matplotlibrc(tmp_path: Path):
    """Neither does it need LaTeX, nor does another look come through."""
    (tmp_path / "matplotlibrc").write_text(READERS_OWN)
    pictures = []
    for name, settings in (("plain", {}), ("own", {"MATPLOTLIBRC": str(tmp_path)})):
        code = f"""
import matplotlib.pyplot as plt
from cstn_lib import plots
plots.use_style()
figure, ax = plt.subplots()
ax.imshow([[0, 1], [2, 3]])
ax.set_title("50 % of the images")
figure.savefig({str(tmp_path / name)!r} + ".png")
"""
        environment = {**os.environ, "MPLBACKEND": "agg", **settings}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
        pictures.append((tmp_path / f"{name}.png").read_bytes())
    assert pictures[0] == pictures[1]


def bars(ax: Axes) -> dict[str, list]:
    return {group.get_label(): list(group) for group in ax.containers}


def test_bars_are_as_high_as_the_counts(ax: Axes):
    charts.draw_area_histogram(ax, HISTOGRAM, "a title")
    drawn = bars(ax)
    assert list(drawn) == ["images", f"localized {WITHOUT}", f"localized {WITH}"]
    for counts, group in zip(
        (HISTOGRAM.images, *HISTOGRAM.localized.values()), drawn.values(), strict=True
    ):
        assert [bar.get_height() for bar in group] == counts.tolist()
    assert [text.get_text() for text in ax.texts] == ["10", "0", "7", "3"]
    assert ax.get_title() == "a title"
    assert "%" in ax.get_xlabel() and ax.get_ylabel()


def test_bars_stand_in_their_bins(ax: Axes):
    charts.draw_area_histogram(ax, HISTOGRAM)
    images, *localized = bars(ax).values()
    for at, bar in enumerate(images):
        ends = bar.get_x(), bar.get_x() + bar.get_width()
        assert ends == pytest.approx(tuple(100 * HISTOGRAM.edges[at : at + 2]))
        before, after = (group[at] for group in localized)
        assert ends[0] < before.get_x() < after.get_x()
        assert before.get_x() + before.get_width() <= after.get_x() + 1e-9
        assert after.get_x() + after.get_width() < ends[1]


def test_colours_mean_what_they_mean_in_the_paper_and_hatches_tell_them_in_grey(ax: Axes):
    charts.draw_area_histogram(ax, HISTOGRAM)
    images, before, after = (group[0] for group in bars(ax).values())
    of_boxes = {kind: style["edgecolor"] for kind, style in plots.BOX_STYLES.items()}
    assert to_hex(images.get_edgecolor()).upper() == of_boxes["truth"]
    assert to_hex(before.get_facecolor()).upper() == of_boxes["default"]
    assert to_hex(after.get_facecolor()).upper() == of_boxes["transformed"]
    assert before.get_hatch() and not after.get_hatch()


def test_green_bars_alone(ax: Axes):
    charts.draw_area_histogram(ax, AreaHistogram(HISTOGRAM.edges, HISTOGRAM.images, {}))
    assert list(bars(ax)) == ["images"]


def test_rates_have_their_intervals(ax: Axes):
    rates = pd.DataFrame(
        {"area": [0.1, 0.5], "rate": [0.2, 1.0], "low": [0.1, 0.8], "high": [0.4, 1]}
    )
    charts.draw_rates(ax, rates, "found", "o")
    (group,) = ax.containers
    assert group.get_label() == "found"
    line, _, (reach,) = group
    assert line.get_xydata() == pytest.approx(np.array([[10, 20], [50, 100]]))
    ends = [segment[:, 1].tolist() for segment in reach.get_segments()]
    assert ends == [pytest.approx([10, 40]), pytest.approx([80, 100])]


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path):
    for folder in ("one", "two"):
        with plt.rc_context():
            plots.use_style()
            figure, ax = plt.subplots()
            charts.draw_area_histogram(ax, HISTOGRAM)
            figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center")
            plots.save_figure(figure, tmp_path / folder, "figure_6")
            plt.close(figure)
    names = ["figure_6.png", "figure_6.svg"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two
        assert len(one) < 150_000
    assert b"<dc:date>" not in (tmp_path / "one" / "figure_6.svg").read_bytes()


@pytest.mark.parametrize("grain", [320, 8, 2], ids=["plain", "coarse", "fine"])
def test_photos_stay_small(tmp_path: Path, grain):
    """Whatever is on them: the finer the grain, the lower the quality."""
    random = np.random.default_rng(0)
    cells = random.integers(0, 256, (6, 320 // grain, 320 // grain, 3), dtype=np.uint8)
    images = list(cells.repeat(grain, axis=1).repeat(grain, axis=2))
    with plt.rc_context():
        plots.use_style()
        figure = plots.image_row(images, [{"truth": np.array([0.1, 0.1, 0.9, 0.9])}] * 6)
        plots.save_photos(figure, tmp_path / "new", "figure_2")
    assert not plt.fignum_exists(figure.number)
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == "figure_2.jpg"
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as photo:
        assert photo.format == "JPEG"
        assert photo.width >= 6 * 300
    assert len(content) < 150_000


def test_claims_at_a_glance(tmp_path):
    one = Measured("one", Interval(5.0, 3.0, 6.0), paper=8.0)
    other = Measured("other", Interval(-1.0, -2.0, 1.0), within=5.0)
    findings = {
        "transform": Finding((one,), HOLDS, "why"),
        "both-levels": Finding((one, other), HOLDS_NOT, "why"),
        "recall": Finding((other,), UNDECIDED, "why"),
        "alpha": Finding((), NOT_TESTED, "why"),
    }
    verdicts = [Verdict(name, CLAIMS[name], "data", *found) for name, found in findings.items()]
    figure = charts.plot_claims(verdicts)
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{CLAIMS[name].text} (data)" for name in findings]
    assert [text.get_text() for text in ax.texts] == [HOLDS, HOLDS_NOT, UNDECIDED, NOT_TESTED]
    low, high = ax.get_ylim()
    assert low > high, "the first claim stands at the top"
    ours = [(c.get_label(), *c.lines[0].get_xdata()) for c in ax.containers]
    assert ours == [(HOLDS, 5), (HOLDS_NOT, 5), (HOLDS_NOT, -1), (UNDECIDED, -1)]
    markers = {c.get_label(): c.lines[0].get_marker() for c in ax.containers}
    assert len({"D", *markers.values()}) == len(markers) + 1, "by shape, also from the paper's"
    papers = [c for c in ax.collections if c.get_label() == "printed in the paper"]
    assert [c.get_offsets()[0, 0] for c in papers] == [8, 8]
    assert not any(len(c.get_facecolor()) for c in papers), "hollow"
    plots.save_figure(figure, tmp_path, "claims")
    assert {path.name for path in tmp_path.iterdir()} == {"claims.svg", "claims.png"}
    plt.close(figure)


def photos_and_plot() -> Figure:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(6, 2))
    plots.show_image(left, np.zeros((8, 8, 3), np.uint8), "what is told:\nthe class")
    plots.draw_box(left, (0.2, 0.2, 0.8, 0.8), "truth")
    middle.axis("off")
    right.plot([0, 1], [1, 0], label="a <line>")
    right.set(xlabel="epoch", ylabel="loss", title="training")
    right.legend()
    plots.box_legend(figure, ("truth",))
    return figure


def test_a_figure_in_words():
    assert plots.describe(photos_and_plot()) == (
        "picture: what is told: the class; plot: training: loss against epoch; "
        "showing ground truth, a <line>"
    )
    figure, axes = plt.subplots(1, 4)
    for ax in axes[:3]:
        plots.show_image(ax, np.zeros((8, 8, 3), np.uint8))
    figure.colorbar(axes[0].images[0], ax=axes[3], label="score")
    axes[3].set(xlabel="x")
    assert plots.describe(figure) == "3 × picture; plot: x; colour: score"

    figure, ax = plt.subplots()
    ax.barh(["head", "head + wing"], [10, 50])
    ax.set(xlabel="images [%]")
    assert plots.describe(figure) == "plot: images [%]: head, head + wing"


def test_names_of_classes_are_shown_as_they_are(make_images):
    """What stands between two dollar signs is mathematics elsewhere."""
    images = replace(make_images(3), class_names=("$10_$20", "$x$ and $", "plain"))
    figure, axes = plt.subplots(1, 3)
    for label, ax in enumerate(axes):
        title = plots.class_title(images, label)
        plots.show_image(ax, images.images[0], title)
        ax.plot(0.5, 0.5, label=title)
    axes[0].legend()
    drawn = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):  # texts as texts; mathematics comes in pieces
        figure.savefig(drawn, format="svg")
    assert all(f">{name}</text>" in drawn.getvalue() for name in images.class_names)
    assert plots.describe(figure) == (
        "picture: $10_$20; picture: $x$ and $; picture: plain; showing $10_$20"
    )
    plt.close(figure)


@pytest.mark.parametrize("photos", [False, True])
def test_a_displayed_figure_is_sharp_and_has_a_text(photos):
    figure = photos_and_plot()
    text = plots.as_html(figure, photos)
    alt, width, kind, data = re.fullmatch(
        r'<img alt="([^"]+)" width="(\d+)" src="data:image/(\w+);base64,([^"]+)">', text
    ).groups()
    assert unescape(alt) == plots.describe(figure)
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == kind.upper() == ("JPEG" if photos else "PNG")
        assert image.width == pytest.approx(2 * int(width), abs=1)


@pytest.mark.parametrize("style", [lambda: None, plots.use_style], ids=["matplotlib's", "ours"])
def test_a_plot_of_much_detail_stays_small(style):
    with plt.rc_context():
        style()
        figure, ax = plt.subplots(figsize=(10, 5))
    random = np.random.default_rng(0)
    ax.scatter(*random.random((2, 20_000)), c=random.random(20_000), cmap="hsv", s=20)
    assert len(plots.as_html(figure)) < 150_000 * 4 / 3


def test_figures_of_a_notebook_are_displayed_so(monkeypatch):
    shell = InteractiveShell()
    monkeypatch.setattr(plots, "get_ipython", lambda: shell)
    with plt.rc_context():
        plots.use_style()
        bundle, _ = shell.display_formatter.format(figure := photos_and_plot())
    assert bundle.keys() == {"text/html", "text/plain"}
    assert bundle["text/html"].startswith("<img alt=")
    assert bundle["text/plain"] == plots.describe(figure)


@pytest.mark.parametrize("part", plots.PARTS)
def test_the_drawing_greys_all_but_one_part(part):
    data = re.search(r"base64,([^\"]+)", plots.schematic(part).data).group(1)
    drawing = base64.b64decode(data).decode()
    greyed = set(re.findall(r"\.(\w+):not\(\." + part + r"\)", drawing))
    assert greyed == {*plots.PARTS} - {part}
    assert {*re.findall(r"<g class=\"([^\"]+)\"", drawing)} == {
        "pyramid",
        "cstn",
        "joint",
        "loss training",
        "training",
    }
    with pytest.raises(ValueError, match="expected one of pyramid"):
        plots.schematic("window")
