"""Normalisation, dropout and LeakyReLU over channels-last values, bfloat16 or float32.

Two passes forward, two backward. A row is several voxels, so that loops are long: with C channels
its length is a multiple of C, and what is known of a channel is repeated along it. Values are flat,
(items, count); bfloat16 comes as uint16, the upper half of a float32. Kernels enclose numbers only:
with a compiled function among what they enclose, numba would not know them again in its files and
compile them in every process.

Dropout stores no mask: whether a value stays is a function of its place and a seed, worked out
again on the way back. What stays has the factor of dropout in scale and shift already, which
LeakyReLU lets through.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit

F32, U16, U32 = np.float32, np.uint16, np.uint32
_BLOCK = 64  # rows summed in float32 before they are added in float64


@jit
def read_half(x):  # type: ignore[no-untyped-def]
    """A bfloat16 as float32."""
    return U32(U32(x) << U32(16)).view(F32)


@jit
def write_half(x):  # type: ignore[no-untyped-def]
    """To the nearest bfloat16, ties to even."""
    bits = F32(x).view(U32)
    odd = U32(U32(bits >> U32(16)) & U32(1))
    return U16(U32(U32(U32(bits + U32(0x7FFF)) + odd) >> U32(16)))


@jit
def stays(place, seed, least):  # type: ignore[no-untyped-def]
    """Whether a value is kept by dropout: whether 32 bits mixed of its place are at least that.

    Multiplications and shifts as in MurmurHash3's last step (Appleby 2011).
    """
    bits = U32(U32(place) ^ U32(seed))
    bits = U32(U32(bits ^ U32(bits >> U32(16))) * U32(0x85EBCA6B))
    bits = U32(U32(bits ^ U32(bits >> U32(13))) * U32(0xC2B2AE35))
    return U32(bits ^ U32(bits >> U32(16))) >= U32(least)


@jit
def place_of(r, count, row):  # type: ignore[no-untyped-def]
    """The item that row r is of, and where its values begin and end."""
    rows = -(-count // row)
    begin = (r % rows) * row
    item = r // rows
    return item, item * count + begin, item * count + min(begin + row, count)


@lru_cache(maxsize=2)
def moments_kernel(half: bool) -> Any:
    """(items, 2, row) float64: sums of values and of squares, by place in the row."""

    @jit
    def moments(x, count, row, first, last):  # type: ignore[no-untyped-def]
        rows = -(-count // row)
        out = np.zeros((len(x) // count, 2, row), np.float64)
        one, two = np.zeros(row, F32), np.zeros(row, F32)
        for start in range(first, last, _BLOCK):
            for r in range(start, min(start + _BLOCK, last)):
                item, low, high = place_of(r, count, row)
                values = x[low:high]
                for c in range(len(values)):
                    v = read_half(values[c]) if half else values[c]
                    one[c] += v
                    two[c] += v * v
                if r + 1 == min(start + _BLOCK, last) or (r + 1) % rows == 0:
                    for c in range(row):
                        out[item, 0, c] += one[c]
                        out[item, 1, c] += two[c]
                    one[:] = 0
                    two[:] = 0
        return out

    return moments


@lru_cache(maxsize=8)
def apply_kernel(half: bool, dropping: bool, inplace: bool) -> Any:
    """Fills out with LeakyReLU of scale * x + shift; these are (items, row).

    With `inplace` out is x. The compiler has to be told: where a kernel finds out at run time that
    two arrays overlap, it goes through them value by value.
    """

    @jit
    def apply(  # type: ignore[no-untyped-def]
        x, out, scale, shift, slope, seed, least, count, row, first, last
    ):
        for r in range(first, last):
            item, low, high = place_of(r, count, row)
            values, a, b = x[low:high], scale[item], shift[item]
            into = values if inplace else out[low:high]
            for c in range(len(values)):
                v = read_half(values[c]) if half else values[c]
                y = a[c] * v + b[c]
                y = y if y > 0 else slope * y
                if dropping:
                    y = y if stays(low + c, seed, least) else F32(0)
                into[c] = write_half(y) if half else y

    return apply


@lru_cache(maxsize=8)
def back_moments_kernel(half: bool, dropping: bool, sloping: bool) -> Any:
    """(items, 3, row) float64: sums of the gradient before LeakyReLU, of it times x, by the slope.

    The last is filled where `sloping`.
    """

    @jit
    def back_moments(  # type: ignore[no-untyped-def]
        x, grad, scale, shift, slope, seed, least, count, row, first, last
    ):
        rows = -(-count // row)
        out = np.zeros((len(x) // count, 3, row), np.float64)
        one, two, three = np.zeros(row, F32), np.zeros(row, F32), np.zeros(row, F32)
        for start in range(first, last, _BLOCK):
            for r in range(start, min(start + _BLOCK, last)):
                item, low, high = place_of(r, count, row)
                values, upstream, a, b = x[low:high], grad[low:high], scale[item], shift[item]
                for c in range(len(values)):
                    v = read_half(values[c]) if half else values[c]
                    g = read_half(upstream[c]) if half else upstream[c]
                    y = a[c] * v + b[c]
                    if dropping:
                        g = g if stays(low + c, seed, least) else F32(0)
                    if sloping:
                        three[c] += g * min(y, F32(0))
                    g = g if y > 0 else slope * g
                    one[c] += g
                    two[c] += g * v
                if r + 1 == min(start + _BLOCK, last) or (r + 1) % rows == 0:
                    for c in range(row):
                        out[item, 0, c] += one[c]
                        out[item, 1, c] += two[c]
                        out[item, 2, c] += three[c]
                    one[:] = 0
                    two[:] = 0
                    three[:] = 0
        return out

    return back_moments


@lru_cache(maxsize=4)
def back_apply_kernel(half: bool, dropping: bool) -> Any:
    """Fills out with scale * gradient before LeakyReLU + by_x * x + constant."""

    @jit
    def back_apply(  # type: ignore[no-untyped-def]
        x, grad, out, scale, shift, by_x, constant, slope, seed, least, count, row, first, last
    ):
        for r in range(first, last):
            item, low, high = place_of(r, count, row)
            values, upstream, into = x[low:high], grad[low:high], out[low:high]
            a, b, p, q = scale[item], shift[item], by_x[item], constant[item]
            for c in range(len(values)):
                v = read_half(values[c]) if half else values[c]
                g = read_half(upstream[c]) if half else upstream[c]
                if dropping:
                    g = g if stays(low + c, seed, least) else F32(0)
                g = g if a[c] * v + b[c] > 0 else slope * g
                y = a[c] * g + p[c] * v + q[c]
                into[c] = write_half(y) if half else y

    return back_apply
