"""As `second_differences`, with central differences for the mixed terms, at inner voxels only.

Along two axes that is the difference of four diagonal neighbours; along one axis the second
difference over three voxels. All are taken at the voxels that are on no border.
"""

from __future__ import annotations

import numpy as np

from deepatlas.kernels.compiled import jit_in_order
from deepatlas.kernels.second_differences import (
    ROWS,
    add_along,
    add_one,
    add_two,
    square_one,
    square_two,
)

F32 = np.float32


@jit_in_order
def add_squares(total, u, at, shape, C, weights, scale):  # type: ignore[no-untyped-def]
    """Add the squares at a row which begins at `at` and lies inside."""
    D, H, W = shape
    row = W * C
    down = H * row
    zz, yy, xx, zy, zx, yx = weights
    n = row - 2 * C  # values that lie inside
    a = at + C  # of the first of them
    here = u[a : a + n]
    square_one(total, u[a - C :], here, u[a + C :], scale, xx)
    square_one(total, u[a - row :], here, u[a + row :], scale, yy)
    corners(total, u, a, n, row, C, scale, yx)
    if D > 1:
        square_one(total, u[a - down :], here, u[a + down :], scale, zz)
        corners(total, u, a, n, down, row, scale, zy)
        corners(total, u, a, n, down, C, scale, zx)


@jit_in_order
def corners(total, u, a, n, one, other, scale, factor):  # type: ignore[no-untyped-def]
    """Add the squares of differences along two axes, each so many values from voxel to voxel."""
    low, high = a - one, a + one
    both = u[high + other : high + other + n]
    square_two(total, u[low - other :], u[high - other :], u[low + other :], both, scale, factor)


@jit_in_order
def add_four(into, u, a, one, other, factor):  # type: ignore[no-untyped-def]
    """Add a multiple of the differences along two axes around the voxels from `a` on."""
    low, high = a - one, a + one
    add_two(into, u[low - other :], u[high - other :], u[low + other :], u[high + other :], factor)


@jit_in_order
def add_gradient(into, u, at, z, y, shape, C, weights):  # type: ignore[no-untyped-def]
    """Add half of a row's gradient, in units of its scale."""
    D, H, W = shape
    row = W * C
    down = H * row
    zz, yy, xx, zy, zx, yx = weights
    inside = into[C : row - C]
    a = at + C
    level = D == 1 or 0 < z < D - 1
    beside = 0 < y < H - 1
    if level and beside:
        add_along(into, u[at : at + row], C, xx)
    for k in range(-1, 2):
        sign = F32(-2) if k == 0 else F32(1)
        if level and 0 < y + k < H - 1:
            c = a + k * row
            add_one(inside, u[c - row :], u[c:], u[c + row :], sign * yy)
        if D > 1 and beside and 0 < z + k < D - 1:
            c = a + k * down
            add_one(inside, u[c - down :], u[c:], u[c + down :], sign * zz)
    for k in range(-1, 2, 2):  # the voxel lies k voxels before the centre along the first axis
        for t in range(-1, 2, 2):  # and t voxels before it along the second
            sign = F32(k * t)
            ahead = into[(1 - t) * C : row - (1 + t) * C]
            if level and 0 < y + k < H - 1:
                add_four(ahead, u, a + k * row, row, C, sign * yx)
            if D > 1 and 0 < z + k < D - 1:
                if beside:
                    add_four(ahead, u, a + k * down, down, C, sign * zx)
                if 0 < y + t < H - 1:
                    add_four(inside, u, a + k * down + t * row, down, row, sign * zy)


@jit_in_order
def bending(  # type: ignore[no-untyped-def]
    u, out, wanted, shape, C, weights, scale, first, last
):
    """As `second_differences.bending`."""
    D, H, W = shape
    row = W * C
    total = np.zeros(row, F32)
    energy = np.float64(0)
    for plane in range(first, last):
        z = plane % D
        for y in range(H):
            at = (plane * H + y) * row
            if (D == 1 or 0 < z < D - 1) and 0 < y < H - 1:
                add_squares(total, u, at, shape, C, weights, scale)
            if y % ROWS == 0 or y + 1 == H:
                for x in range(row):
                    energy += total[x]
                total[:] = 0
            if wanted:
                into = out[at : at + row]
                into[:] = 0
                add_gradient(into, u, at, z, y, shape, C, weights)
                for x in range(row):
                    into[x] = F32(2) * scale[x] * into[x]
    return energy
