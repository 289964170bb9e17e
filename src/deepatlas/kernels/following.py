"""Grids through a chain of maps: where each voxel comes to lie, and what an image shows there.

A chain is given in voxels: `matrices` (n + 1, 3, 4) lead from one grid to the next, and on each
grid between them, of `shapes` (n, 3), a displacement in voxels is added where it reaches. `fields`
holds these one after another, (d, *shape), flat. Space has three axes, the first of length 1 where
d = 2. All is float64 but images and fields.

Rounding of places, nearest voxels and borders: `spatial.transform.resample`.
"""

from __future__ import annotations

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
def below(p, n):  # type: ignore[no-untyped-def]
    """The voxel at or below a place held within n voxels, and how far beyond that."""
    p = min(max(p, 0.0), F64(n - 1))
    i = max(min(int(p), n - 2), 0)
    return i, p - F64(i)


@jit_in_order
def strides(shape):  # type: ignore[no-untyped-def]
    """From a voxel to the next along each axis, of which there may be none."""
    D, H, W = shape
    return U(H * W if D > 1 else 0), U(W if H > 1 else 0), U(1 if W > 1 else 0)


@jit_in_order
def linear(image, at, sz, sy, sx, f, g, h):  # type: ignore[no-untyped-def]
    """The value between eight voxels."""
    v0, v1, v2, v3 = image[at], image[at + sy], image[at + sz], image[at + sz + sy]
    u0 = v0 + h * (image[at + sx] - v0)
    u1 = v1 + h * (image[at + sy + sx] - v1)
    u2 = v2 + h * (image[at + sz + sx] - v2)
    u3 = v3 + h * (image[at + sz + sy + sx] - v3)
    u0 += g * (u1 - u0)
    u2 += g * (u3 - u2)
    return u0 + f * (u2 - u0)


@jit_in_order
def value(image, shape, a, b, c):  # type: ignore[no-untyped-def]
    """The value of an image at a place held within it."""
    D, H, W = shape
    i, f = below(a, D)
    j, g = below(b, H)
    k, h = below(c, W)
    sz, sy, sx = strides(shape)
    return linear(image, U((i * H + j) * W + k), sz, sy, sx, f, g, h)


@jit_in_order
def follow(matrices, fields, shapes, d, z, y, x):  # type: ignore[no-untyped-def]
    """Where a voxel comes to lie in the end."""
    a, b, c = times(matrices[0], F64(z), F64(y), F64(x))
    start = U(0)
    for n in range(len(shapes)):
        D, H, W = shapes[n, 0], shapes[n, 1], shapes[n, 2]
        size = U(D * H * W)
        if -0.5 <= a < D - 0.5 and -0.5 <= b < H - 0.5 and -0.5 <= c < W - 0.5:
            i, f = below(a, D)
            j, g = below(b, H)
            k, h = below(c, W)
            at = start + U((i * H + j) * W + k)
            sz, sy, sx = strides((D, H, W))
            if d == 3:
                a += linear(fields, at, sz, sy, sx, f, g, h)
                at += size
            b += linear(fields, at, sz, sy, sx, f, g, h)
            c += linear(fields, at + size, sz, sy, sx, f, g, h)
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
def copies(matrices, fields, shapes, d, grid, space, image, out, outside, first, last):  # type: ignore[no-untyped-def]
    """Values of the nearest voxels of an image at each voxel of rows first to last."""
    e = U(first * grid[1] * grid[2])
    for z in range(first, last):
        for y in range(grid[1]):
            for x in range(grid[2]):
                a, b, c = follow(matrices, fields, shapes, d, z, y, x)
                p, q, r = nearest(a), nearest(b), nearest(c)
                out[e] = outside
                if within(p, q, r, space):
                    out[e] = image[U((int(p) * space[1] + int(q)) * space[2] + int(r))]
                e += U(1)


@jit_in_order
def values(matrices, fields, shapes, d, grid, space, image, out, outside, first, last):  # type: ignore[no-untyped-def]
    """Values of an image at each voxel of rows first to last; on a voxel its own, untouched."""
    e = U(first * grid[1] * grid[2])
    for z in range(first, last):
        for y in range(grid[1]):
            for x in range(grid[2]):
                a, b, c = follow(matrices, fields, shapes, d, z, y, x)
                p, q, r = nearest(a), nearest(b), nearest(c)
                out[e] = outside
                if within(p, q, r, space):
                    if max(abs(a - p), abs(b - q), abs(c - r)) < 1 / EXACT:
                        out[e] = image[U((int(p) * space[1] + int(q)) * space[2] + int(r))]
                    else:
                        out[e] = value(image, space, a, b, c)
                e += U(1)


@jit_in_order
def steps(matrices, fields, shapes, d, grid, out, first, last):  # type: ignore[no-untyped-def]
    """How far each voxel of rows first to last comes to lie from where it was, (d, *grid)."""
    size = U(grid[0] * grid[1] * grid[2])
    e = U(first * grid[1] * grid[2])
    for z in range(first, last):
        for y in range(grid[1]):
            for x in range(grid[2]):
                a, b, c = follow(matrices, fields, shapes, d, z, y, x)
                if d == 3:
                    out[e] = a - z
                out[U(d - 2) * size + e] = b - y
                out[U(d - 1) * size + e] = c - x
                e += U(1)
