"""Sums over voxels of two maps of probabilities, channels last, and their gradients.

A row is several voxels, as in `normal`: its length is a multiple of the channels, and what is known
of a channel is repeated along it. Maps are flat, (items, count) float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit
from deepatlas.kernels.normal import place_of

F32 = np.float32
_BLOCK = 64  # rows summed in float32 before they are added in float64


@lru_cache(maxsize=2)
def sums_kernel(product: bool) -> Any:
    """(items, 2, row) float64: sums of |p - q| (or of p q) and of p + q, by place in the row."""

    @jit
    def sums(p, q, count, row, first, last):  # type: ignore[no-untyped-def]
        rows = -(-count // row)
        out = np.zeros((len(p) // count, 2, row), np.float64)
        one, two = np.zeros(row, F32), np.zeros(row, F32)
        for start in range(first, last, _BLOCK):
            for r in range(start, min(start + _BLOCK, last)):
                item, low, high = place_of(r, count, row)
                a, b = p[low:high], q[low:high]
                for c in range(len(a)):
                    one[c] += a[c] * b[c] if product else abs(a[c] - b[c])
                    two[c] += a[c] + b[c]
                if r + 1 == min(start + _BLOCK, last) or (r + 1) % rows == 0:
                    for c in range(row):
                        out[item, 0, c] += one[c]
                        out[item, 1, c] += two[c]
                    one[:] = 0
                    two[:] = 0
        return out

    return sums


@lru_cache(maxsize=2)
def back_sums_kernel(product: bool) -> Any:
    """Fills out with by_first * sign(p - q) (or by_first * q) + by_both; these are (items, row)."""

    @jit
    def back_sums(  # type: ignore[no-untyped-def]
        p, q, out, by_first, by_both, count, row, first, last
    ):
        for r in range(first, last):
            item, low, high = place_of(r, count, row)
            a, b, into = p[low:high], q[low:high], out[low:high]
            along, rest = by_first[item], by_both[item]
            for c in range(len(a)):
                if product:
                    into[c] = along[c] * b[c] + rest[c]
                else:
                    step = along[c] if a[c] > b[c] else -along[c]
                    into[c] = (step if a[c] != b[c] else F32(0)) + rest[c]

    return back_sums


@jit
def likelihood_kernel(p, q, floor, count, row, first, last):  # type: ignore[no-untyped-def]
    """(items, 1, row) float64: sums of q log p, in the first place; p at least the floor."""
    out = np.zeros((len(p) // count, 1, row), np.float64)
    for r in range(first, last):
        item, low, high = place_of(r, count, row)
        a, b = p[low:high], q[low:high]
        total = F32(0)
        for c in range(len(a)):
            if b[c] != 0 or a[c] != a[c]:  # NaN is not hidden
                total += b[c] * np.log(max(a[c], floor))
        out[item, 0, 0] += total
    return out


@jit
def back_prediction_kernel(p, q, out, upstream, floor, count, row, first, last):  # type: ignore[no-untyped-def]
    """Fills out with upstream * q / p, zero where p is below the floor; upstream (items)."""
    for r in range(first, last):
        item, low, high = place_of(r, count, row)
        a, b, into, factor = p[low:high], q[low:high], out[low:high], upstream[item]
        for c in range(len(a)):
            into[c] = factor * b[c] / a[c] if a[c] >= floor else F32(0)


@jit
def back_target_kernel(p, out, upstream, floor, count, row, first, last):  # type: ignore[no-untyped-def]
    """Fills out with upstream * log p."""
    for r in range(first, last):
        item, low, high = place_of(r, count, row)
        a, into, factor = p[low:high], out[low:high], upstream[item]
        for c in range(len(a)):
            into[c] = factor * np.log(max(a[c], floor))
