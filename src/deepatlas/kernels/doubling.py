"""A field at twice the resolution, and the adjoint; arrays are flat, (B, D, H, W, C).

Output 2 n lies on input n, output 2 n + 1 between n and the next, or at the end on n.
"""

from __future__ import annotations

import numpy as np

from deepatlas.kernels.compiled import jit

F32 = np.float32


@jit
def add(row, values, weight):  # type: ignore[no-untyped-def]
    """Add weighted values to a row."""
    for x in range(len(row)):
        row[x] += weight * values[x]


@jit
def share(n, o, size):  # type: ignore[no-untyped-def]
    """Of an axis: how much output o takes from input n of size, times 2 where it lies between."""
    if o % 2 == 0:
        return F32(1) if o == 2 * n else F32(0)
    return F32(1) if o == 2 * n + 1 and n == size - 1 else F32(0.5)


@jit
def double(x, out, shape, doubled, C, factor, first, last):  # type: ignore[no-untyped-def]
    """Fills planes first to last of the outputs of all items."""
    D, H, W = shape
    D2, H2, W2 = doubled
    row = np.empty(W * C, F32)
    for plane in range(first, last):
        item, z = plane // D2, plane % D2
        for y in range(H2):
            row[:] = 0
            for i in range(z // 2, min(z // 2 + z % 2, D - 1) + 1):
                for j in range(y // 2, min(y // 2 + y % 2, H - 1) + 1):
                    at = ((item * D + i) * H + j) * W * C
                    weight = factor * share(i, z, D) * share(j, y, H)
                    add(row, x[at : at + W * C], weight)
            into = out[(plane * H2 + y) * W2 * C : (plane * H2 + y + 1) * W2 * C]
            for k in range(W):
                for c in range(C):
                    v = row[k * C + c]
                    into[2 * k * C + c] = v
                    if 2 * k + 1 < W2:
                        after = row[(k + 1) * C + c] if k + 1 < W else v
                        into[(2 * k + 1) * C + c] = F32(0.5) * (v + after)


@jit
def halve(grad, out, shape, doubled, C, factor, first, last):  # type: ignore[no-untyped-def]
    """Fills planes first to last of all items with the adjoint of `double` of grad."""
    D, H, W = shape
    D2, H2, W2 = doubled
    row = np.empty(W2 * C, F32)
    for plane in range(first, last):
        item, z = plane // D, plane % D
        for y in range(H):
            row[:] = 0
            for i in range(max(2 * z - 1, 0), min(2 * z + 2, D2)):
                for j in range(max(2 * y - 1, 0), min(2 * y + 2, H2)):
                    at = ((item * D2 + i) * H2 + j) * W2 * C
                    weight = factor * share(z, i, D) * share(y, j, H)
                    add(row, grad[at : at + W2 * C], weight)
            into = out[(plane * H + y) * W * C : (plane * H + y + 1) * W * C]
            for k in range(W):
                for c in range(C):
                    v = row[2 * k * C + c]
                    if k > 0:
                        v += F32(0.5) * row[(2 * k - 1) * C + c]
                    if 2 * k + 1 < W2:
                        v += share(k, 2 * k + 1, W) * row[(2 * k + 1) * C + c]
                    into[k * C + c] = v
