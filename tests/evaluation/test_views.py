"""Three views of an image: what is seen, how it comes back, what is made of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cstn_lib.evaluation.choosing import fused
from cstn_lib.evaluation.score_maps import resized
from cstn_lib.evaluation.views import (
    MARGIN,
    SMALLEST,
    describe_views,
    frames_around,
    in_image,
    pasted,
    seen_through,
)
from cstn_lib.outputs import LocalizerOutput, ScoreMapOutput

IMAGE = torch.tensor([0.0, 0.0, 1.0, 1.0])
FRAMES = [IMAGE, 0.5 + 1.3 * (IMAGE - 0.5), torch.tensor([0.21, 0.13, 0.96, 0.88])]
LABELS = torch.tensor([1, 0])


def rectangles(size: int = 80) -> tuple[Tensor, Tensor]:
    """Two dark images, each with a white rectangle, and the boxes of these."""
    boxes = torch.tensor([[0.1, 0.2, 0.5, 0.7], [0.6, 0.55, 1.0, 0.9]])
    images = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    for image, (x0, y0, x1, y1) in zip(images, (boxes * size).int().tolist(), strict=True):
        image[:, y0:y1, x0:x1] = 255
    return images, boxes


def test_the_image_itself():
    images = torch.randint(0, 256, (2, 3, 12, 16), dtype=torch.uint8)
    seen = seen_through(images, IMAGE.expand(2, 4))
    assert torch.allclose(seen, images / 255, atol=1e-5)
    assert torch.allclose(seen_through(images / 255, IMAGE.expand(2, 4)), seen)


@pytest.mark.parametrize("frame", FRAMES)
def test_what_is_seen_against_a_loop(frame):
    """Pixel by pixel, bilinear between the four nearest; what is outside is the mean colour."""
    images = torch.rand(1, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    mean = images[0].mean((1, 2))
    seen = seen_through(images, frame[None])
    x0, y0, x1, y1 = frame.tolist()
    for row in range(8):
        for column in range(10):
            x = (x0 + (column + 0.5) / 10 * (x1 - x0)) * 10 - 0.5
            y = (y0 + (row + 0.5) / 8 * (y1 - y0)) * 8 - 0.5
            expected = torch.zeros(3)
            for i in (int(y // 1), int(y // 1) + 1):
                for j in (int(x // 1), int(x // 1) + 1):
                    near = (1 - abs(y - i)) * (1 - abs(x - j))
                    inside = 0 <= i < 8 and 0 <= j < 10
                    expected += near * (images[0, :, i, j] if inside else mean)
            assert torch.allclose(seen[0, :, row, column], expected, atol=1e-5)


@given(st.integers(0, 1000))
def test_boxes_come_back_inside_the_image(seed):
    random = torch.Generator().manual_seed(seed)
    boxes = torch.rand(3, 5, 4, generator=random)
    frames = torch.stack(FRAMES)
    found = in_image(boxes, frames)
    for view, frame in enumerate(frames.tolist()):
        for box, back in zip(boxes[view].tolist(), found[view].tolist(), strict=True):
            for side in range(4):
                low, high = frame[side % 2], frame[2 + side % 2]
                expected = min(max(low + box[side] * (high - low), 0), 1)
                assert back[side] == pytest.approx(expected, abs=1e-6)


def test_pasting_the_image_alone_resizes_it():
    maps = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0))
    found = pasted(maps[None], IMAGE.expand(1, 2, 4), (20, 24))
    assert torch.allclose(found, resized(maps, (20, 24)), atol=1e-5)


def test_pasting_against_a_loop():
    """A pixel has the mean of what the views that see it say, each read bilinearly."""
    maps = torch.rand(3, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    found = pasted(maps, torch.stack(FRAMES)[:, None], (8, 10))
    frames = [frame.tolist() for frame in FRAMES]
    seen = set()
    for row in range(8):
        for column in range(10):
            values = []
            for (x0, y0, x1, y1), view in zip(frames, maps[:, 0], strict=True):
                x = ((column + 0.5) / 10 - x0) / (x1 - x0)
                y = ((row + 0.5) / 8 - y0) / (y1 - y0)
                if 0 <= x <= 1 and 0 <= y <= 1:
                    x, y = min(max(x * 5 - 0.5, 0), 4), min(max(y * 4 - 0.5, 0), 3)
                    i, j = min(int(y), 2), min(int(x), 3)
                    v, u = y - i, x - j
                    top = (1 - u) * view[i, j] + u * view[i, j + 1]
                    below = (1 - u) * view[i + 1, j] + u * view[i + 1, j + 1]
                    values.append((1 - v) * top + v * below)
            seen.add(len(values))
            assert found[0, row, column].item() == pytest.approx(
                sum(values).item() / len(values), abs=1e-5
            )
    assert seen == {2, 3}


def sees(images: Tensor, score: float = 0.0) -> LocalizerOutput:
    """A vote for the whole view and one, much stronger, for the tight box of what is bright."""
    pixels = images.float() / (255 if images.dtype == torch.uint8 else 1)
    bright = (pixels - pixels.amin((1, 2, 3), keepdim=True))[:, 0] > 0.5
    boxes = []
    for image in bright:
        rows, columns = image.any(1).nonzero(), image.any(0).nonzero()
        ends = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        boxes.append(torch.stack([torch.tensor([0.0, 0, 1, 1]), torch.stack(ends) / len(image)]))
    scores = torch.tensor([0.0, 40.0]).view(1, 1, 1, 2).expand(len(images), 2, 1, 2) + score
    return LocalizerOutput([scores], [], torch.stack(boxes), torch.zeros(2, 4), ("5",))


def test_all_views_of_a_rectangle_give_its_box():
    images, boxes = rectangles()
    shapes = []

    def network(images: Tensor) -> LocalizerOutput:
        shapes.append(tuple(images.shape))
        return sees(images)

    columns = describe_views(network, images, LABELS)
    assert shapes == [(2, 3, 80, 80)] * 3
    assert columns["boxes"].shape == (2, 6, 4)
    assert torch.allclose(columns["true_box"], boxes, atol=0.015)
    for view in (1, 5):  # of the image and of the crop; one more for what the crop cuts off
        assert torch.allclose(columns["boxes"][:, view], boxes, atol=0.015)
    assert columns["predicted"].tolist() == [0, 0], "equal scores: the first class"


@pytest.mark.parametrize("winner", range(3))
def test_raw_scores_decide_between_views(winner):
    images, _ = rectangles()
    calls = []

    def network(images: Tensor) -> LocalizerOutput:
        calls.append(images)
        output = sees(images, score=400.0 * (len(calls) - 1 == winner))
        shift = 0.05 * (len(calls) - 1)  # so that views tell different boxes
        output.boxes = (output.boxes - shift).clamp(0, 1)
        return output

    columns = describe_views(network, images, LABELS)
    own = columns["boxes"][:, 2 * winner : 2 * winner + 2]
    expected = fused(torch.tensor([[0.0, 40.0]]).expand(2, 2), own)
    assert torch.allclose(columns["true_box"], expected, atol=1e-6)


@given(st.integers(0, 2**32))
def test_frames_of_any_box(seed):
    low, high = torch.rand(2, 20, 2, generator=torch.Generator().manual_seed(seed)).sort(0).values
    image, wide, crop = frames_around(torch.cat([low, high], dim=1))
    for frame, sides in ((image, 1.0), (wide, MARGIN)):
        assert torch.allclose(frame[:, 2:] - frame[:, :2], torch.full((20, 2), sides))
        assert torch.allclose(frame[:, 2:] + frame[:, :2], torch.ones(20, 2))
    for box_low, box_high, (x0, y0, x1, y1) in zip(low, high, crop.tolist(), strict=True):
        side = min(max(MARGIN * (box_high - box_low).max().item(), SMALLEST), 1.0)
        assert (x1 - x0, y1 - y0) == pytest.approx((side, side), abs=1e-5)
        assert min(x0, y0) >= -1e-6 and max(x1, y1) <= 1 + 1e-6
        middle = ((box_low + box_high) / 2).clamp(side / 2, 1 - side / 2).tolist()
        assert ((x0 + x1) / 2, (y0 + y1) / 2) == pytest.approx(middle, abs=1e-5)


def test_the_crop_is_around_the_box_of_the_true_class():
    """Class 1 is near the middle and class 0 in a corner, where the crop ends with the image."""
    asked = []

    def network(images: Tensor) -> LocalizerOutput:
        asked.append(images)
        scores = torch.tensor([[[[9.0, 0]], [[0, 9.0]]]]).expand(len(images), 2, 1, 2)
        boxes = torch.tensor([[0.0, 0.0, 0.2, 0.2], [0.4, 0.5, 0.6, 0.7]])
        return LocalizerOutput([scores], [], boxes.expand(2, 2, 4), boxes, ("5",))

    images = torch.rand(2, 3, 80, 80)
    describe_views(network, images, LABELS)
    crops = frames_around(torch.tensor([[0.4, 0.5, 0.6, 0.7], [0.0, 0.0, 0.2, 0.2]]))[2]
    assert torch.allclose(asked[2], seen_through(images, crops), atol=1e-5)


def test_score_maps_of_all_views_agree_on_a_rectangle():
    images, boxes = rectangles()

    def network(images: Tensor) -> ScoreMapOutput:
        pixels = images.float() / (255 if images.dtype == torch.uint8 else 1)
        bright = torch.nn.functional.avg_pool2d(pixels[:, :1], 4)
        maps = torch.cat([torch.zeros_like(bright), bright], 1)
        return ScoreMapOutput(maps.mean((2, 3)), torch.cat([maps[:, 1:], maps[:, 1:]], 1))

    columns = describe_views(network, images, LABELS)
    assert columns["score_map"].shape == (2, 80, 80)
    assert columns["predicted"].tolist() == [1, 1]
    for map_, box in zip(columns["score_map"], (boxes * 80).int().tolist(), strict=True):
        x0, y0, x1, y1 = box
        inside = torch.zeros(80, 80, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert map_[inside].median() > 0.9 and map_[~inside].median() < 0.3
