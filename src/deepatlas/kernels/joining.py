"""Twice the size by repetition, beside the channels of another tensor; values of any type, flat.

Rows run along the last axis of space, channels last. `deep` is 2 where the first of three axes is
doubled too, and 1 in 2-D, where that axis has one entry.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit
from deepatlas.kernels.normal import read_half, write_half


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


@lru_cache(maxsize=2)
def part_kernel(half: bool) -> Any:
    """The way back: sums of what was repeated, in float32, and the other tensor's own."""

    @jit
    def part(grad, x, skip, deep, height, width, a, b, first, last):  # type: ignore[no-untyped-def]
        wide = 2 * width
        total = np.zeros(width * a, np.float32)
        for row in range(first, last):
            plane, y = row // height, row % height
            total[:] = 0
            for k in range(2 * deep):
                line = ((plane * deep + k // 2) * height + y) * 2 + k % 2
                own, source = line * wide * b, line * wide * (a + b)
                for n in range(wide):
                    begin, place = source + n * (a + b), (n // 2) * a
                    values, sums = grad[begin : begin + a], total[place : place + a]
                    for c in range(a):
                        sums[c] += read_half(values[c]) if half else values[c]
                    for c in range(b):
                        skip[own + n * b + c] = grad[begin + a + c]
            into = x[row * width * a : (row + 1) * width * a]
            for c in range(width * a):
                into[c] = write_half(total[c]) if half else total[c]

    return part
