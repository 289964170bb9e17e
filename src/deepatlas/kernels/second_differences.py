"""Bending energy of a displacement, channels last, and its gradient, in one sweep over rows.

The energy is a sum of squares of second differences at the places where they fit, along one axis
or of differences along two; the gradient adds each of them up again with the signs of the voxels
that it is made of. Values are subtracted from their neighbours before anything else, so that large
displacements, which differ little, cost no precision. Rows along the last axis are long loops; a
voxel's neighbours there are as many values away as a voxel has.
"""

from __future__ import annotations

import numpy as np

from deepatlas.kernels.compiled import jit_in_order

F32 = np.float32
ROWS = 8  # summed in float32 before they are added in float64


@jit_in_order
def square_one(total, before, here, after, scale, factor):  # type: ignore[no-untyped-def]
    """Add weighted squares of second differences across three rows."""
    for x in range(len(here)):
        d = (before[x] - here[x]) - (here[x] - after[x])
        total[x] += factor * scale[x] * d * d


@jit_in_order
def square_two(total, here, one, other, both, scale, factor):  # type: ignore[no-untyped-def]
    """The same of differences along two axes: of a row, the next along each, and along both."""
    for x in range(len(both)):
        d = (both[x] - one[x]) - (other[x] - here[x])
        total[x] += factor * scale[x] * d * d


@jit_in_order
def add_one(into, before, here, after, factor):  # type: ignore[no-untyped-def]
    """Add a multiple of the second differences across three rows."""
    for x in range(len(into)):
        into[x] += factor * ((before[x] - here[x]) - (here[x] - after[x]))


@jit_in_order
def add_two(into, here, one, other, both, factor):  # type: ignore[no-untyped-def]
    """Add a multiple of the differences along two axes."""
    for x in range(len(into)):
        into[x] += factor * ((both[x] - one[x]) - (other[x] - here[x]))


@jit_in_order
def add_difference(into, here, other, factor):  # type: ignore[no-untyped-def]
    """Add a multiple of a row less another."""
    for x in range(len(into)):
        into[x] += factor * (here[x] - other[x])


@jit_in_order
def add_along(into, row, C, factor):  # type: ignore[no-untyped-def]
    """Add a multiple of the differences along a row: second ones, and again of these."""
    first, centre, last = into[: -2 * C], into[C:-C], into[2 * C :]
    before, here, after = row[: -2 * C], row[C:-C], row[2 * C :]
    add_one(first, before, here, after, factor)
    add_one(centre, before, here, after, F32(-2) * factor)
    add_one(last, before, here, after, factor)


@jit_in_order
def finish(into, direct, sloped, scale, C):  # type: ignore[no-untyped-def]
    """The gradient: direct, and the differences of sloped along the row."""
    add_difference(direct[C:], sloped[C:], sloped[:-C], F32(1))
    add_difference(direct[:-C], sloped[:-C], sloped[C:], F32(1))
    for x in range(len(into)):
        into[x] = F32(2) * scale[x] * direct[x]


@jit_in_order
def add_squares(total, u, at, z, y, shape, C, weights, scale):  # type: ignore[no-untyped-def]
    """Add the squares of a row, which begins at `at`: with itself, and with the rows after it."""
    D, H, W = shape
    row = W * C
    down = H * row  # to the next plane
    zz, yy, xx, zy, zx, yx = weights
    here = u[at : at + row]
    square_one(total, here[: -2 * C], here[C:-C], here[2 * C :], scale, xx)
    if z + 1 < D:
        below = u[at + down : at + down + row]
        square_two(total, here, below, here[C:], below[C:], scale, zx)
        if z > 0:
            square_one(total, u[at - down :], here, below, scale, zz)
        if y + 1 < H:
            beside, both = u[at + row :], u[at + down + row : at + down + 2 * row]
            square_two(total, here, below, beside, both, scale, zy)
    if y + 1 < H:
        beside = u[at + row : at + 2 * row]
        square_two(total, here, beside, here[C:], beside[C:], scale, yx)
        if y > 0:
            square_one(total, u[at - row :], here, beside, scale, yy)


@jit_in_order
def add_gradient(direct, sloped, u, at, z, y, shape, C, weights):  # type: ignore[no-untyped-def]
    """Add a row's gradient: directly, and to what is yet to be differentiated along the row."""
    D, H, W = shape
    row = W * C
    down = H * row
    zz, yy, xx, zy, zx, yx = weights
    here = u[at : at + row]
    for k in range(-1, 2):
        sign = F32(-2) if k == 0 else F32(1)
        if 0 < z + k < D - 1:
            c = at + k * down
            add_one(direct, u[c - down :], u[c:], u[c + down :], sign * zz)
        if 0 < y + k < H - 1:
            c = at + k * row
            add_one(direct, u[c - row :], u[c:], u[c + row :], sign * yy)
        if k != 0 and 0 <= z + k < D:
            add_difference(sloped, here, u[at + k * down :], zx)
        if k != 0 and 0 <= y + k < H:
            add_difference(sloped, here, u[at + k * row :], yx)
    for k in range(-1, 1):
        for n in range(-1, 1):
            if 0 <= z + k < D - 1 and 0 <= y + n < H - 1:
                c = at + k * down + n * row
                sign = F32(1) if k == n else F32(-1)
                both = u[c + down + row :]
                add_two(direct, u[c:], u[c + down :], u[c + row :], both, sign * zy)
    add_along(direct, here, C, xx)


@jit_in_order
def bending(  # type: ignore[no-untyped-def]
    u, out, wanted, shape, C, weights, scale, first, last
):
    """The energy of planes first to last, float64; fills their gradient in `out` where wanted.

    Parameters
    ----------
    u, out : flat, (items, D, H, W, C).
    shape : D, H, W; D is 1 in 2-D.
    weights : of zz, yy, xx, zy, zx, yx, float32.
    scale : of each value of a row (W * C).
    """
    D, H, W = shape
    row = W * C
    direct, sloped, total = np.empty(row, F32), np.empty(row, F32), np.zeros(row, F32)
    energy = np.float64(0)
    for plane in range(first, last):
        z = plane % D
        for y in range(H):
            at = (plane * H + y) * row
            add_squares(total, u, at, z, y, shape, C, weights, scale)
            if y % ROWS == 0 or y + 1 == H:
                for x in range(row):
                    energy += total[x]
                total[:] = 0
            if wanted:
                direct[:] = 0
                sloped[:] = 0
                add_gradient(direct, sloped, u, at, z, y, shape, C, weights)
                finish(out[at : at + row], direct, sloped, scale, C)
    return energy
