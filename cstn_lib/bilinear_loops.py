"""Bilinear sampling as the plain loops that define it, compiled by numba for the CPU.

Every location of a CSTN reads points of its own, a pattern that no library routine knows. What is
left is a short loop over channels for each point, which a compiler vectorises. The forward loop
reads four cells; the backward loop reads them again and spreads the gradient over them.

A map comes with channels last and with a rim of zeros around it that stands for everything outside:
cell (y, x) of image b is ``cells[b, y + 1, x + 1]``. Points are clamped onto the rim.

Each loop is compiled twice, serial and parallel. numba's threads do not survive a fork, so a
process that has one thread to itself never starts them.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
from numba import prange

__all__ = ["sample", "spread"]

# sums over channels may be reordered, which vectorising takes; NaN and infinity stay what they are
FAST_MATH = {"contract", "reassoc", "nsz"}
BLOCKS = 8  # of one image's points, so that a few images still occupy many threads
RIGHT = np.uint64(1)  # an unsigned index is never checked for being negative


def sample(
    cells: np.ndarray, points: np.ndarray, size: tuple[int, int], values: np.ndarray, threads: int
) -> None:
    """Fill `values` with the map's bilinear values at the points.

    Args:
        cells: (B, H + 2, W + 2, C), float32 or float64 as all arrays, contiguous as all arrays.
        points: (B, P, 2) as (x, y) in cells of the map without its rim.
        size: (H, W).
        values: (B, P, C), overwritten.
        threads: how many to use.
    """
    _run(_SAMPLE, threads, cells.reshape(-1, cells.shape[-1]), points, *size, values)


def spread(
    cells: np.ndarray,
    points: np.ndarray,
    size: tuple[int, int],
    gradient: np.ndarray,
    of_cells: np.ndarray,
    of_points: np.ndarray,
    threads: int,
) -> None:
    """The backward pass of `sample`.

    Args:
        gradient: (B, P, C) of the values.
        of_cells: like `cells`, added to.
        of_points: like `points`, overwritten.
    """
    rows = (-1, cells.shape[-1])
    _run(
        _SPREAD,
        threads,
        cells.reshape(rows),
        points,
        *size,
        gradient,
        of_cells.reshape(rows),
        of_points,
    )


@numba.njit(error_model="numpy")
def _neighbours(coordinate, last):  # type: ignore[no-untyped-def]
    """The first of the two cells around a coordinate, and the share of the second."""
    inside = min(max(coordinate, -type(last)(1)), last) + type(last)(1)
    # the last cell of the rim is never the first of two; NaN stays in the share alone
    cell = min(max(int(inside), 0), int(last))
    return cell, inside - type(last)(cell)


def _sample(rows, points, height, width, values):  # type: ignore[no-untyped-def]
    images, count, _ = points.shape
    # all in the map's own type: numba makes float64 of an integer times a float32
    one, last_y, last_x = rows.dtype.type(1), rows.dtype.type(height), rows.dtype.type(width)
    length = (count + BLOCKS - 1) // BLOCKS
    for block in prange(images * BLOCKS):
        b = block // BLOCKS
        start = (block - b * BLOCKS) * length
        for p in range(start, min(start + length, count)):
            left, right_part = _neighbours(points[b, p, 0], last_x)
            top, lower_part = _neighbours(points[b, p, 1], last_y)
            left_part, upper_part = one - right_part, one - lower_part
            upper = np.uint64((b * (height + 2) + top) * (width + 2) + left)
            lower = upper + np.uint64(width + 2)
            for c in range(rows.shape[1]):
                values[b, p, c] = upper_part * (
                    left_part * rows[upper, c] + right_part * rows[upper + RIGHT, c]
                ) + lower_part * (left_part * rows[lower, c] + right_part * rows[lower + RIGHT, c])


def _spread(rows, points, height, width, gradient, of_rows, of_points):  # type: ignore[no-untyped-def]
    images, count, _ = points.shape
    one, last_y, last_x = rows.dtype.type(1), rows.dtype.type(height), rows.dtype.type(width)
    for b in prange(images):  # the points of an image share cells: one thread adds them up
        for p in range(count):
            left, right_part = _neighbours(points[b, p, 0], last_x)
            top, lower_part = _neighbours(points[b, p, 1], last_y)
            left_part, upper_part = one - right_part, one - lower_part
            upper = np.uint64((b * (height + 2) + top) * (width + 2) + left)
            lower = upper + np.uint64(width + 2)
            # the gradient's product with each of the four cells
            nw = ne = sw = se = rows.dtype.type(0)
            for c in range(rows.shape[1]):
                g = gradient[b, p, c]
                nw += g * rows[upper, c]
                ne += g * rows[upper + RIGHT, c]
                sw += g * rows[lower, c]
                se += g * rows[lower + RIGHT, c]
            # a clamped coordinate no longer moves the point
            moves_x = -one <= points[b, p, 0] <= last_x
            moves_y = -one <= points[b, p, 1] <= last_y
            of_points[b, p, 0] = moves_x * (upper_part * (ne - nw) + lower_part * (se - sw))
            of_points[b, p, 1] = moves_y * (left_part * (sw - nw) + right_part * (se - ne))
            for c in range(rows.shape[1]):
                g = upper_part * gradient[b, p, c]
                of_rows[upper, c] += left_part * g
                of_rows[upper + RIGHT, c] += right_part * g
            for c in range(rows.shape[1]):
                g = lower_part * gradient[b, p, c]
                of_rows[lower, c] += left_part * g
                of_rows[lower + RIGHT, c] += right_part * g


def _compiled(loop: Callable) -> dict[bool, Callable]:
    return {
        parallel: numba.njit(
            fastmath=FAST_MATH, parallel=parallel, error_model="numpy", cache=True
        )(loop)
        for parallel in (False, True)
    }


_SAMPLE, _SPREAD = _compiled(_sample), _compiled(_spread)


def _run(loop: dict[bool, Callable], threads: int, *arguments: object) -> None:
    threads = min(threads, numba.config.NUMBA_NUM_THREADS)
    if threads > 1:
        numba.set_num_threads(threads)
    loop[threads > 1](*arguments)
