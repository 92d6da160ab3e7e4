"""Sampling a map through thetas, as the plain loops that define it, compiled by numba for the CPU.

Every location of a CSTN reads points of its own, a pattern that no library routine knows. What is
left is a short loop over channels for each point, which a compiler vectorises. The forward loop
reads four cells; the backward loop spreads the gradient over them, reads them again and, while it
has them, draws the sample again.

A map comes with channels last and with a rim of zeros around it that stands for everything outside:
cell (y, x) of image b is ``cells[b, y + 1, x + 1]``. Points are clamped onto the rim.

Images are shared out to threads. numba's threads do not survive a fork, so a process that has one
thread to itself never starts them.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from functools import cache

import numba
import numpy as np
from numba import prange

from cstn_lib.support.errors import first_line

# sums over channels may be reordered, which vectorising takes; NaN and infinity stay what they are
FAST_MATH = {"contract", "reassoc", "nsz"}
OPTIONS = {"fastmath": FAST_MATH, "error_model": "numpy"}
RIGHT = np.uint64(1)  # an unsigned index is never checked for being negative

_running = threading.Lock()  # not every pool of numba's threads takes work from two of Python's


def _compiled(loops: Callable) -> Callable:
    """For other loops to call."""
    return numba.njit(**OPTIONS)(loops)


def _kept(loops: Callable, **options: bool) -> Callable:
    """For Python to call: compiled once per machine, or per process without numba's cache."""
    try:
        compiled = numba.njit(cache=True, **OPTIONS, **options)(loops)
    except RuntimeError:  # no folder may be written
        return numba.njit(**OPTIONS, **options)(loops)

    def run(*arguments: object) -> None:
        nonlocal compiled
        try:
            compiled(*arguments)
        except Exception as error:  # an emptied file, a full disk: numba passes on what comes
            folder = compiled.stats.cache_path
            compiled = numba.njit(**OPTIONS, **options)(loops)
            compiled(*arguments)
            warnings.warn(
                f"numba's cache in {folder} cannot be used ({type(error).__name__}: {error}); "
                "compiled for this process alone",
                stacklevel=2,
            )

    return run


@cache
def _has_threads() -> bool:
    """Whether numba has threads of the kind that ``NUMBA_THREADING_LAYER`` asks for."""
    try:
        numba.get_num_threads()  # starts them
    except ValueError as error:
        warnings.warn(f"{first_line(error)} The layer uses one thread.", stacklevel=2)
        return False
    return True


def sample(
    cells: np.ndarray,
    theta: np.ndarray,
    centres: np.ndarray,
    taps: np.ndarray,
    values: np.ndarray,
    threads: int,
) -> None:
    """Fill `values` with the map's bilinear values at every tap of every location.

    All arrays are contiguous and of one type, float32 or float64.

    Args:
        cells: (B, H + 2, W + 2, C).
        theta: (B, L, 6), row by row.
        centres: (L, 2) as (x, y) in cells of the map without its rim.
        taps: (T, 3) homogeneous (u, v, 1) times the half extent: what theta maps, in cells.
        values: (B, L, T, C), overwritten.
        threads: how many to use.
    """
    _run(_sample_all, _sample_one, threads, cells, (theta, centres, taps), (values,))


def spread(
    cells: np.ndarray,
    theta: np.ndarray,
    centres: np.ndarray,
    taps: np.ndarray,
    values: np.ndarray,
    cells_gradient: np.ndarray,
    theta_gradient: np.ndarray,
    threads: int,
) -> None:
    """The backward pass of `sample`, which also draws the values again.

    Args:
        values: (B, L, T, C); the gradient of the values comes in, the values go out.
        cells_gradient: like `cells`, added to.
        theta_gradient: like `theta`, overwritten.
    """
    gradients = cells_gradient.reshape(-1, cells.shape[-1]), theta_gradient
    _run(_spread_all, _spread_one, threads, cells, (theta, centres, taps), (values, *gradients))


@_compiled
def _neighbours(coordinate, last):  # type: ignore[no-untyped-def]
    """The first of the two cells around a coordinate, and the share of the second."""
    inside = min(max(coordinate, -type(last)(1)), last) + type(last)(1)
    # the last cell of the rim is never the first of two; NaN stays in the share alone
    cell = min(max(int(inside), 0), int(last))
    return cell, inside - type(last)(cell)


@_compiled
def _point(b, centre, a, tap, height, width, one):  # type: ignore[no-untyped-def]
    """Where a tap of image b falls: x, y, the left cells of both rows, the share of the others."""
    x = centre[0] + a[0] * tap[0] + a[1] * tap[1] + a[2] * tap[2]
    y = centre[1] + a[3] * tap[0] + a[4] * tap[1] + a[5] * tap[2]
    # all in the map's own type: numba makes float64 of an integer times a float32
    left, right_part = _neighbours(x, type(one)(width))
    top, lower_part = _neighbours(y, type(one)(height))
    upper = np.uint64((b * (height + 2) + top) * (width + 2) + left)
    return x, y, upper, upper + np.uint64(width + 2), right_part, lower_part


@_compiled
def _sample_image(b, rows, theta, centres, taps, height, width, values):  # type: ignore[no-untyped-def]
    one = rows.dtype.type(1)
    for at in range(theta.shape[1]):
        a = theta[b, at]
        for t in range(taps.shape[0]):
            _, _, upper, lower, right_part, lower_part = _point(
                b, centres[at], a, taps[t], height, width, one
            )
            left_part, upper_part = one - right_part, one - lower_part
            for c in range(rows.shape[1]):
                values[b, at, t, c] = upper_part * (
                    left_part * rows[upper, c] + right_part * rows[upper + RIGHT, c]
                ) + lower_part * (left_part * rows[lower, c] + right_part * rows[lower + RIGHT, c])


@_compiled
def _spread_image(b, rows, theta, centres, taps, height, width, values, d_rows, d_theta):  # type: ignore[no-untyped-def]
    # d_: the gradient of
    one, last_y, last_x = rows.dtype.type(1), rows.dtype.type(height), rows.dtype.type(width)
    for at in range(theta.shape[1]):
        a, d_a = theta[b, at], d_theta[b, at]
        d_a[:] = 0
        for t in range(taps.shape[0]):
            u, v, w = taps[t]
            x, y, upper, lower, right_part, lower_part = _point(
                b, centres[at], a, taps[t], height, width, one
            )
            left_part, upper_part = one - right_part, one - lower_part
            for c in range(rows.shape[1]):
                g = upper_part * values[b, at, t, c]
                d_rows[upper, c] += left_part * g
                d_rows[upper + RIGHT, c] += right_part * g
            for c in range(rows.shape[1]):
                g = lower_part * values[b, at, t, c]
                d_rows[lower, c] += left_part * g
                d_rows[lower + RIGHT, c] += right_part * g
            # the gradient's product with each of the four cells, and the value in its place
            nw = ne = sw = se = rows.dtype.type(0)
            for c in range(rows.shape[1]):
                g = values[b, at, t, c]
                nw += g * rows[upper, c]
                ne += g * rows[upper + RIGHT, c]
                sw += g * rows[lower, c]
                se += g * rows[lower + RIGHT, c]
                values[b, at, t, c] = upper_part * (
                    left_part * rows[upper, c] + right_part * rows[upper + RIGHT, c]
                ) + lower_part * (left_part * rows[lower, c] + right_part * rows[lower + RIGHT, c])
            # a clamped coordinate no longer moves the point; NaN is passed on
            d_x = d_y = rows.dtype.type(0)
            if not (x < -one or x > last_x):
                d_x = upper_part * (ne - nw) + lower_part * (se - sw)
            if not (y < -one or y > last_y):
                d_y = left_part * (sw - nw) + right_part * (se - ne)
            d_a[0] += d_x * u
            d_a[1] += d_x * v
            d_a[2] += d_x * w
            d_a[3] += d_y * u
            d_a[4] += d_y * v
            d_a[5] += d_y * w


# a parallel loop calls the functions above instead of holding their code, of which numba would make
# something half as fast


def _sample_images(rows, theta, centres, taps, height, width, values):  # type: ignore[no-untyped-def]
    for b in prange(theta.shape[0]):
        _sample_image(b, rows, theta, centres, taps, height, width, values)


def _spread_images(rows, theta, centres, taps, height, width, values, d_rows, d_theta):  # type: ignore[no-untyped-def]
    for b in prange(theta.shape[0]):  # an image's locations share cells: one thread adds them up
        _spread_image(b, rows, theta, centres, taps, height, width, values, d_rows, d_theta)


_sample_one = _kept(_sample_image.py_func)
_spread_one = _kept(_spread_image.py_func)
_sample_all = _kept(_sample_images, parallel=True)
_spread_all = _kept(_spread_images, parallel=True)


def _run(
    images: Callable,
    image: Callable,
    threads: int,
    cells: np.ndarray,
    places: tuple[np.ndarray, ...],
    results: tuple[np.ndarray, ...],
) -> None:
    count, height, width, channels = cells.shape
    arguments = cells.reshape(-1, channels), *places, height - 2, width - 2, *results
    threads = min(threads, count, numba.config.NUMBA_NUM_THREADS)
    if threads > 1 and _has_threads():
        with _running:
            before = numba.get_num_threads()
            numba.set_num_threads(threads)
            try:
                images(*arguments)
            finally:
                numba.set_num_threads(before)
    else:
        for b in range(count):
            image(b, *arguments)
