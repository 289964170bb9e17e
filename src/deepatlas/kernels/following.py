"""Grids through a chain of maps: where each voxel comes to lie, and what an image shows there.

A chain is given in voxels: `matrices` (n + 1, 3, 4) lead from one grid to the next, and on each
grid between them, of `shapes` (n, 3), a displacement in voxels is added where it reaches. `fields`
holds these one after another, (d, *shape), flat. Space has three axes, the first of length 1 where
d = 2. Images and fields are float32, all that is computed float64.

Kernels go through lines of the grid along its last axis, first to last. Rounding of places,
nearest voxels and borders: `spatial.transform.resample`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit_in_order

F64, U = np.float64, np.uint64  # an index that may be negative costs a question
EXACT = 1e6  # places are rounded to so many parts of a voxel before the nearest is taken


@jit_in_order
def times(matrix, a, b, c):  # type: ignore[no-untyped-def]
    """A point through a matrix (3, 4)."""
    return (
        matrix[0, 0] * a + matrix[0, 1] * b + matrix[0, 2] * c + matrix[0, 3],
        matrix[1, 0] * a + matrix[1, 1] * b + matrix[1, 2] * c + matrix[1, 3],
        matrix[2, 0] * a + matrix[2, 1] * b + matrix[2, 2] * c + matrix[2, 3],
    )


@jit_in_order
def below(p, n, stride):  # type: ignore[no-untyped-def]
    """The voxel at or below a place held within n, how far beyond, and the way to the next."""
    p = min(max(p, 0.0), F64(n - 1))
    i = int(p)
    return i, p - F64(i), U(stride if i < n - 1 else 0)


@jit_in_order
def between(image, at, sz, sy, sx, f, g, h):  # type: ignore[no-untyped-def]
    """The linear value between eight voxels."""
    v0, v1 = F64(image[at]), F64(image[at + sy])
    v2, v3 = F64(image[at + sz]), F64(image[at + sz + sy])
    v0 += h * (F64(image[at + sx]) - v0)
    v1 += h * (F64(image[at + sy + sx]) - v1)
    v2 += h * (F64(image[at + sz + sx]) - v2)
    v3 += h * (F64(image[at + sz + sy + sx]) - v3)
    v0 += g * (v1 - v0)
    v2 += g * (v3 - v2)
    return v0 + f * (v2 - v0)


@jit_in_order
def follow(matrices, fields, shapes, d, z, y, x):  # type: ignore[no-untyped-def]
    """Where a voxel comes to lie in the end."""
    a, b, c = times(matrices[0], F64(z), F64(y), F64(x))
    start = U(0)
    for n in range(len(shapes)):
        D, H, W = shapes[n, 0], shapes[n, 1], shapes[n, 2]
        size = U(D * H * W)
        if -0.5 <= a < D - 0.5 and -0.5 <= b < H - 0.5 and -0.5 <= c < W - 0.5:
            i, f, sz = below(a, D, H * W)
            j, g, sy = below(b, H, W)
            k, h, sx = below(c, W, 1)
            at = start + U((i * H + j) * W + k)
            if d == 3:
                a += between(fields, at, sz, sy, sx, f, g, h)
                at += size
            b += between(fields, at, sz, sy, sx, f, g, h)
            c += between(fields, at + size, sz, sy, sx, f, g, h)
        start += U(d) * size
        a, b, c = times(matrices[n + 1], a, b, c)
    return a, b, c


@jit_in_order
def nearest(p):  # type: ignore[no-untyped-def]
    """The voxel nearest to a place; a half goes up, and what is less by rounding alone."""
    beyond = p + 0.5
    voxel = np.floor(beyond)
    if beyond - voxel > 1 - 2 / EXACT:
        voxel = np.floor(np.rint(p * EXACT) / EXACT + 0.5)
    return voxel


@jit_in_order
def within(p, q, r, shape):  # type: ignore[no-untyped-def]
    """Whether a voxel is one of these."""
    return 0 <= p < shape[0] and 0 <= q < shape[1] and 0 <= r < shape[2]


@jit_in_order
def number(p, q, r, shape):  # type: ignore[no-untyped-def]
    """Which of these voxels it is."""
    return U((int(p) * shape[1] + int(q)) * shape[2] + int(r))


@lru_cache(maxsize=2)
def values_kernel(linear: bool) -> Any:
    """Fills out with linear values of an image, or with those of its nearest voxels, of any type.

    A place on a voxel has its own value, whatever lies beside it.
    """

    @jit_in_order
    def values(matrices, fields, shapes, d, grid, space, image, out, outside, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        e = U(first * grid[2])
        for line in range(first, last):
            z, y = line // grid[1], line % grid[1]
            for x in range(grid[2]):
                a, b, c = follow(matrices, fields, shapes, d, z, y, x)
                p, q, r = nearest(a), nearest(b), nearest(c)
                out[e] = outside
                if within(p, q, r, space):
                    if linear and max(abs(a - p), abs(b - q), abs(c - r)) >= 1 / EXACT:
                        i, f, sz = below(a, D, H * W)
                        j, g, sy = below(b, H, W)
                        k, h, sx = below(c, W, 1)
                        out[e] = between(image, number(i, j, k, space), sz, sy, sx, f, g, h)
                    else:
                        out[e] = image[number(p, q, r, space)]
                e += U(1)

    return values


@jit_in_order
def displacements(matrices, fields, shapes, d, grid, out, first, last):  # type: ignore[no-untyped-def]
    """How far each voxel comes to lie from where it was, out (d, *grid)."""
    size = U(grid[0] * grid[1] * grid[2])
    e = U(first * grid[2])
    for line in range(first, last):
        z, y = line // grid[1], line % grid[1]
        for x in range(grid[2]):
            a, b, c = follow(matrices, fields, shapes, d, z, y, x)
            if d == 3:
                out[e] = a - z
            out[U(d - 2) * size + e] = b - y
            out[U(d - 1) * size + e] = c - x
            e += U(1)
