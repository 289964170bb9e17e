"""Twice the size by repetition, beside the channels of another tensor; arrays are flat.

Rows run along the last axis of space, channels last. `deep` is 2 where the first of three axes is
doubled too, and 1 in 2-D, where that axis has one entry. What is only copied comes as words of
64 bits, of which there are a and b in a voxel: a third of the time of single bfloat16 values.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit
from deepatlas.kernels.normal import U16, U32, read_half, write_half


@jit
def join(x, skip, out, deep, height, width, a, b, first, last):  # type: ignore[no-untyped-def]
    """Fill `out` (…, a + b) from x (…, a) and skip (…, b); rows of `out` are counted."""
    tall, wide = 2 * height, 2 * width
    for row in range(first, last):
        plane, y = row // tall, row % tall
        source = ((plane // deep) * height + y // 2) * width * a
        own, into = row * wide * b, row * wide * (a + b)
        for n in range(wide):
            begin, end = into + n * (a + b), source + (n // 2) * a
            one, two = x[end : end + a], skip[own + n * b : own + (n + 1) * b]
            for c in range(a):
                out[begin + c] = one[c]
            for c in range(b):
                out[begin + a + c] = two[c]


@jit
def part(grad, skip, deep, height, width, a, b, first, last):  # type: ignore[no-untyped-def]
    """Fill `skip` (…, b) from the gradient (…, a + b); rows of these are counted."""
    wide = 2 * width
    for row in range(first, last):
        own, source = row * wide * b, row * wide * (a + b)
        for n in range(wide):
            values = grad[source + n * (a + b) + a : source + (n + 1) * (a + b)]
            for c in range(b):
                skip[own + n * b + c] = values[c]


@lru_cache(maxsize=2)
def sum_kernel(half: bool) -> Any:
    """Sums of what was repeated, in float32; two bfloat16 come as uint32, a of these in a voxel."""

    @jit
    def sum_repeated(grad, x, deep, height, width, a, b, first, last):  # type: ignore[no-untyped-def]
        wide = 2 * width
        low, high = np.zeros(width * a, np.float32), np.zeros(width * a, np.float32)
        for row in range(first, last):
            plane, y = row // height, row % height
            low[:] = 0
            high[:] = 0
            for k in range(2 * deep):
                line = ((plane * deep + k // 2) * height + y) * 2 + k % 2
                for n in range(wide):
                    begin, place = (line * wide + n) * (a + b), (n // 2) * a
                    values = grad[begin : begin + a]
                    one, two = low[place : place + a], high[place : place + a]
                    for c in range(a):
                        if half:
                            one[c] += read_half(values[c] & U32(0xFFFF))
                            two[c] += read_half(values[c] >> U32(16))
                        else:
                            one[c] += values[c]
            into = x[row * width * a : (row + 1) * width * a]
            for c in range(width * a):
                if half:
                    upper = U32(U32(write_half(high[c])) << U32(16))
                    into[c] = upper | U32(U16(write_half(low[c])))
                else:
                    into[c] = low[c]

    return sum_repeated
