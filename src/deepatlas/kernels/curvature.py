"""Bending energy and its gradient in one sweep.

Sums over the places where a difference fits are sums over all places, of differences that are 0
where they do not. The gradient of a squared difference is twice its adjoint. Along the last axis
differences are taken of whole rows; along the others, of rows above and below.
"""

from __future__ import annotations

import numpy as np
from numba import njit

F32 = np.float32
jit = njit(
    nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "arcp", "reassoc"}
)


@jit
def squared(row, weights, first, last):  # type: ignore[no-untyped-def]
    """Sum of weight times square."""
    total = F32(0)
    for x in range(first, last):
        total += weights[x] * row[x] * row[x]
    return total


@jit
def add_second(row, weights, out, C):  # type: ignore[no-untyped-def]
    """Add the adjoint of second differences along the row, which lie in `row` at their middle."""
    n = len(out)
    for x in range(C, n - C):
        out[x] -= F32(2) * weights[x] * row[x]
    for x in range(2 * C, n):
        out[x] += weights[x] * row[x - C]
    for x in range(n - 2 * C):
        out[x] += weights[x] * row[x + C]


@jit
def add_mixed(row, differences, weights, out, C):  # type: ignore[no-untyped-def]
    """Add the adjoint of differences of row along itself, taken of it."""
    n = len(out)
    for x in range(n - C):
        differences[x] = row[x + C] - row[x]
    for x in range(n - C):
        out[x] += weights[x] * differences[x]
    for x in range(C, n):
        out[x] -= weights[x] * differences[x - C]


@jit
def add_pure(far, near, here, w, out):  # type: ignore[no-untyped-def]
    """Add the part of a second difference that ends at this row, of which it is the first."""
    for x in range(len(out)):
        out[x] += w[x] * (far[x] - F32(2) * near[x] + here[x])


@jit
def add_corner(a, b, c, d, w, out):  # type: ignore[no-untyped-def]
    """Add a mixed difference of four rows."""
    for x in range(len(out)):
        out[x] += w[x] * (a[x] - b[x] - c[x] + d[x])


@jit
def bend(u, grad, weights, shape, C, wanted, first, last):  # type: ignore[no-untyped-def]
    """Energy of u (B, D, H, W, C), flat, and its gradient; planes first to last of all items.

    weights (6, W * C) of the terms zz, yy, xx, zy, zx, yx along a row.
    """
    D, H, W = shape
    n = W * C
    zz, yy, xx, zy, zx, yx = weights
    energy = 0.0
    row, differences = np.empty(n, F32), np.empty(n, F32)
    for plane in range(first, last):
        z = plane % D
        for y in range(H):
            o = (plane * H + y) * n
            here, out = u[o : o + n], grad[o : o + n]
            out[:] = 0
            for x in range(C, n - C):
                row[x] = here[x - C] - F32(2) * here[x] + here[x + C]
            energy += squared(row, xx, C, n - C)
            if wanted:
                add_second(row, xx, out, C)
            for axis in range(2):
                if axis == 0:
                    at, length, s, pure, mixed = z, D, H * n, zz, zx
                else:
                    at, length, s, pure, mixed = y, H, n, yy, yx
                after, ago = at + 1 < length, at > 0
                above = u[o + s : o + s + n] if after else here
                below = u[o - s : o - s + n] if ago else here
                if after and ago:
                    for x in range(n):
                        row[x] = below[x] - F32(2) * here[x] + above[x]
                    energy += squared(row, pure, 0, n)
                    for x in range(n):
                        out[x] -= F32(2) * pure[x] * row[x]
                if wanted and at >= 2:
                    add_pure(u[o - 2 * s : o - 2 * s + n], below, here, pure, out)
                if wanted and at < length - 2:
                    add_pure(u[o + 2 * s : o + 2 * s + n], above, here, pure, out)
                for x in range(n):
                    row[x] = above[x] - here[x]
                for x in range(n - C):
                    differences[x] = row[x + C] - row[x]
                energy += squared(differences, mixed, 0, n - C)
                if wanted:
                    for x in range(n):
                        row[x] -= here[x] - below[x]
                    add_mixed(row, differences, mixed, out, C)
            for front in range(2):
                for side in range(2):
                    if (z + 1 < D if front else z > 0) and (y + 1 < H if side else y > 0):
                        p = o + H * n if front else o - H * n
                        q, r = (o + n, p + n) if side else (o - n, p - n)
                        corner = u[p : p + n], u[q : q + n], u[r : r + n]
                        if front and side:
                            for x in range(n):
                                row[x] = corner[2][x] - corner[0][x] - corner[1][x] + here[x]
                            energy += squared(row, zy, 0, n)
                        if wanted:
                            add_corner(here, corner[0], corner[1], corner[2], zy, out)
            for x in range(n):
                out[x] *= F32(2)
    return energy
