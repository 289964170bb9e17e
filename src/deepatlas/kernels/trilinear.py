"""Linear interpolation: values at points, and both gradients, without copies of the image.

Beyond the border the value is that of the nearest point of the grid, for `zeros` times a factor
that falls to 0 within a voxel: the same as neighbours of value 0. The gradient by the image is
added up by planes of the image: a thread owns those it writes to and looks at all points, so the
result does not depend on the number of threads.

Where the points of a row lie is found for the whole row at once, by vector instructions.

All arrays are flat: image (B, *space, channels), index (B, *points, d), values and their gradient
(B, *points, channels); space and points have three axes, the first of length 1 where d = 2.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit

U, F32, I32 = np.uint64, np.float32, np.int32
ZERO, ONE = F32(0), F32(1)


@jit
def within(p, n):  # type: ignore[no-untyped-def]
    """The nearest position within n voxels; NaN becomes 0."""
    last = F32(n - 1)
    p = p if p > ZERO else ZERO
    return p if p < last else last


@jit
def below(p, n):  # type: ignore[no-untyped-def]
    """The voxel below a position within n of them that has one above it, if any has."""
    return max(min(I32(p), I32(n - 2)), I32(0))


@jit
def row_of(points):  # type: ignore[no-untyped-def]
    """Room for what `place` finds of so many points."""
    return np.empty((2, points), I32), np.empty((6, points), F32)


@jit
def place(index, k, d, own, z, y, space, corner, spot):  # type: ignore[no-untyped-def]
    """Where the points of a row lie, whose index starts at k.

    Fills corner with the plane of the voxel below each point and that voxel's number in the plane;
    spot with how far beyond that voxel a point is along each axis, and with its position, which may
    be outside. With `own` 1 the index is added to each point's own, with 0 it is not.
    """
    D, H, W = space
    for x in range(corner.shape[1]):
        e = k + U(d * x)
        pz = own * F32(z) + index[e] if d == 3 else ZERO
        py, px = own * F32(y) + index[e + U(d - 2)], own * F32(x) + index[e + U(d - 1)]
        cz, cy, cx = within(pz, D), within(py, H), within(px, W)
        i, j, m = below(cz, D), below(cy, H), below(cx, W)
        corner[0, x], corner[1, x] = i, j * I32(W) + m
        spot[0, x], spot[1, x], spot[2, x] = cz - F32(i), cy - F32(j), cx - F32(m)
        spot[3, x], spot[4, x], spot[5, x] = pz, py, px


@jit
def steps(space, channels):  # type: ignore[no-untyped-def]
    """From a voxel's values to those of the next along each axis, of which there may be none."""
    D, H, W = space
    along_z = H * W * channels if D > 1 else 0
    along_y = W * channels if H > 1 else 0
    return U(along_z), U(along_y), U(channels if W > 1 else 0)


@jit
def between(image, e, step, f, g, h, d):  # type: ignore[no-untyped-def]
    """The value that far beyond voxel e."""
    sz, sy, sx = step
    v0, v1 = image[e], image[e + sy]
    v0 += h * (image[e + sx] - v0)
    v1 += h * (image[e + sy + sx] - v1)
    v0 += g * (v1 - v0)
    if d == 3:
        v2, v3 = image[e + sz], image[e + sz + sy]
        v2 += h * (image[e + sz + sx] - v2)
        v3 += h * (image[e + sz + sy + sx] - v3)
        v2 += g * (v3 - v2)
        v0 += f * (v2 - v0)
    return v0


@jit
def changes(image, e, step, f, g, h, d):  # type: ignore[no-untyped-def]
    """The value that far beyond voxel e, and how it changes along each axis."""
    sz, sy, sx = step
    v0, v1 = image[e], image[e + sy]
    d0, d1 = image[e + sx] - v0, image[e + sy + sx] - v1
    v0, v1 = v0 + h * d0, v1 + h * d1
    z0, y0, x0, m0 = ZERO, v1 - v0, d0 + g * (d1 - d0), v0 + g * (v1 - v0)
    if d == 3:
        v2, v3 = image[e + sz], image[e + sz + sy]
        d2, d3 = image[e + sz + sx] - v2, image[e + sz + sy + sx] - v3
        v2, v3 = v2 + h * d2, v3 + h * d3
        y1, x1, m1 = v3 - v2, d2 + g * (d3 - d2), v2 + g * (v3 - v2)
        z0 = m1 - m0
        y0, x0, m0 = y0 + f * (y1 - y0), x0 + f * (x1 - x0), m0 + f * z0
    return m0, z0, y0, x0


@jit
def give(weight, grad, o, C, out, e):  # type: ignore[no-untyped-def]
    """Add a weighted gradient to that of a voxel."""
    for c in range(C):
        out[e + U(c)] += weight * grad[o + U(c)]


@jit
def fade(away):  # type: ignore[no-untyped-def]
    """Factor so many voxels beyond the border."""
    left = ONE - abs(away)
    return left if left > ZERO else ZERO


@jit
def slope(p, n):  # type: ignore[no-untyped-def]
    """1 where moving a position changes the value, at the border 0."""
    return ONE if p > ZERO and p < F32(n - 1) else ZERO


@jit
def fade_slope(away):  # type: ignore[no-untyped-def]
    """Derivative of `fade`."""
    if away > ZERO and away < ONE:
        return -ONE
    return ONE if away < ZERO and away > -ONE else ZERO


@jit
def outside(spot, x, space):  # type: ignore[no-untyped-def]
    """How far beyond the border a point is along each axis."""
    D, H, W = space
    pz, py, px = spot[3, x], spot[4, x], spot[5, x]
    return pz - within(pz, D), py - within(py, H), px - within(px, W)


@jit
def faded(spot, x, space):  # type: ignore[no-untyped-def]
    """Factor of a point beyond the border."""
    az, ay, ax = outside(spot, x, space)
    return fade(az) * fade(ay) * fade(ax)


# Kernels are compiled for a case, since loops of known length and no questions are twice as fast.
# d: axes of space; channels: 0 for any number. For `own` see `place`.


@cache
def values_kernel(d: int, channels: int, zeros: bool) -> Any:
    """Fills out, planes first to last of the points of all items."""

    @jit
    def values(image, index, out, space, points, count, own, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        C = channels if channels > 0 else count
        step, (corner, spot) = steps(space, C), row_of(points[2])
        for plane in range(first, last):
            z, base = plane % points[0], plane // points[0] * D
            for y in range(points[1]):
                k = U((plane * points[1] + y) * points[2])
                place(index, k * U(d), d, own, z, y, space, corner, spot)
                o = k * U(C)
                for x in range(points[2]):
                    f, g, h = spot[0, x], spot[1, x], spot[2, x]
                    q = U((base + corner[0, x]) * (H * W) + corner[1, x]) * U(C)
                    factor = faded(spot, x, space) if zeros else ONE
                    for c in range(C):
                        v = between(image, q + U(c), step, f, g, h, d)
                        out[o + U(c)] = v * factor if zeros else v
                    o += U(C)

    return values


@cache
def index_kernel(d: int, channels: int, zeros: bool) -> Any:
    """Fills out with the gradient by the index, planes first to last of the points of all items."""

    @jit
    def index_gradient(image, index, grad, out, space, points, count, own, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        C = channels if channels > 0 else count
        step, (corner, spot) = steps(space, C), row_of(points[2])
        for plane in range(first, last):
            z, base = plane % points[0], plane // points[0] * D
            for y in range(points[1]):
                k = U((plane * points[1] + y) * points[2])
                place(index, k * U(d), d, own, z, y, space, corner, spot)
                k, o = k * U(d), k * U(C)
                for x in range(points[2]):
                    f, g, h = spot[0, x], spot[1, x], spot[2, x]
                    q = U((base + corner[0, x]) * (H * W) + corner[1, x]) * U(C)
                    total, by_z, by_y, by_x = ZERO, ZERO, ZERO, ZERO
                    for c in range(C):
                        w = grad[o + U(c)]
                        v, vz, vy, vx = changes(image, q + U(c), step, f, g, h, d)
                        by_z += w * vz
                        by_y += w * vy
                        by_x += w * vx
                        if zeros:
                            total += w * v
                    by_z *= slope(spot[3, x], D)
                    by_y *= slope(spot[4, x], H)
                    by_x *= slope(spot[5, x], W)
                    if zeros:
                        az, ay, ax = outside(spot, x, space)
                        fz, fy, fx = fade(az), fade(ay), fade(ax)
                        by_z = fy * fx * (fz * by_z + fade_slope(az) * total)
                        by_y = fz * fx * (fy * by_y + fade_slope(ay) * total)
                        by_x = fz * fy * (fx * by_x + fade_slope(ax) * total)
                    if d == 3:
                        out[k] = by_z
                    out[k + U(d - 2)] = by_y
                    out[k + U(d - 1)] = by_x
                    k += U(d)
                    o += U(C)

    return index_gradient


@cache
def image_kernel(d: int, channels: int, zeros: bool) -> Any:
    """Adds the gradient by the image to out, planes first to last of the images of all items."""

    @jit
    def image_gradient(index, grad, out, space, points, count, own, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        C = channels if channels > 0 else count
        (sz, sy, sx), (corner, spot) = steps(space, C), row_of(points[2])
        for item in range(first // D, (last - 1) // D + 1):
            lowest, highest = max(first - item * D, 0), min(last - item * D, D)
            for row in range(points[0] * points[1]):
                k = U((item * points[0] * points[1] + row) * points[2])
                z, y = row // points[1], row % points[1]
                place(index, k * U(d), d, own, z, y, space, corner, spot)
                o = k * U(C)
                for x in range(points[2]):
                    i, f, g, h = corner[0, x], spot[0, x], spot[1, x], spot[2, x]
                    if i + 1 >= lowest and i < highest:
                        q = U((item * D + i) * (H * W) + corner[1, x]) * U(C)
                        factor = faded(spot, x, space) if zeros else ONE
                        for n in range(2 if D > 1 else 1):
                            if i + n < lowest or i + n >= highest:
                                continue
                            a, r = factor * (f if n == 1 else ONE - f), q + U(n) * sz
                            give(a * (ONE - g) * (ONE - h), grad, o, C, out, r)
                            give(a * (ONE - g) * h, grad, o, C, out, r + sx)
                            give(a * g * (ONE - h), grad, o, C, out, r + sy)
                            give(a * g * h, grad, o, C, out, r + sy + sx)
                    o += U(C)

    return image_gradient
