"""Lists of boxes; overlap itself is tested with the metrics that need it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cstn_lib.evaluation.boxes import BoxList


@given(st.data())
def test_take_against_a_loop(data):
    counts = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))
    boxes = [np.random.default_rng(i).random((n, 4)) for i, n in enumerate(counts)]
    wanted = data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=8))
    taken = BoxList.of(boxes).take(np.array(wanted, dtype=int))
    assert len(taken.offsets) == len(wanted) + 1
    for place, image in enumerate(wanted):
        ours = taken.boxes[taken.offsets[place] : taken.offsets[place + 1]]
        assert np.array_equal(ours, boxes[image])
