"""Linear interpolation: values at points, and both gradients, without copies of the image.

Beyond the border the value is that of the nearest point of the grid, for `zeros` times a factor
that falls to 0 within a voxel: the same as neighbours of value 0. The gradient by the image is
added up by planes of the image: a thread owns those it writes to and looks at all points, so the
result does not depend on the number of threads.

All arrays are flat: image (B, *space, channels), index (B, *points, d), values and their gradient
(B, *points, channels); space and points have three axes, the first of length 1 where d = 2.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit

U = np.uint64
ZERO, ONE = np.float32(0), np.float32(1)


@jit
def locate(p, n):  # type: ignore[no-untyped-def]
    """The position within n voxels, the voxel below it and how far beyond that; NaN becomes 0."""
    last = np.float32(n - 1)
    p = p if p > ZERO else ZERO
    p = p if p < last else last
    i = max(min(int(p), n - 2), 0)
    return p, i, p - np.float32(i)


@jit
def steps(space, channels):  # type: ignore[no-untyped-def]
    """From a voxel's values to those of the next along each axis, of which there may be none."""
    D, H, W = space
    along_z = H * W * channels if D > 1 else 0
    along_y = W * channels if H > 1 else 0
    return U(along_z), U(along_y), U(channels if W > 1 else 0)


@jit
def fade(away):  # type: ignore[no-untyped-def]
    """Factor so many voxels beyond the border."""
    left = ONE - abs(away)
    return left if left > ZERO else ZERO


@jit
def slope(p, n):  # type: ignore[no-untyped-def]
    """1 where moving a position changes the value, at the border 0."""
    return ONE if p > ZERO and p < np.float32(n - 1) else ZERO


@jit
def fade_slope(away):  # type: ignore[no-untyped-def]
    """Derivative of `fade`."""
    if away > ZERO and away < ONE:
        return -ONE
    return ONE if away < ZERO and away > -ONE else ZERO


# Kernels are compiled for a case, since loops of known length and no questions are twice as fast.
# d: axes of space; channels: 0 for any number. With `own` 1 the index is added to each point's own
# index, with 0 it is not.


@lru_cache(maxsize=64)
def values_kernel(d: int, channels: int, zeros: bool) -> Any:
    """Fills out, planes first to last of the points of all items."""

    @jit
    def values(image, index, out, space, points, count, own, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        C = channels if channels > 0 else count
        sz, sy, sx = steps(space, C)
        for row in range(first, last):
            base = row // points[0] * D * H * W
            own_z = own * np.float32(row % points[0])
            k = U(row * points[1] * points[2] * d)
            o = U(row * points[1] * points[2] * C)
            for y in range(points[1]):
                own_y = own * np.float32(y)
                for x in range(points[2]):
                    own_x = own * np.float32(x)
                    pz = own_z + index[k] if d == 3 else ZERO
                    py, px = own_y + index[k + U(d - 2)], own_x + index[k + U(d - 1)]
                    cz, i, f = locate(pz, D)
                    cy, j, g = locate(py, H)
                    cx, m, h = locate(px, W)
                    q = U((base + (i * H + j) * W + m) * C)
                    factor = ONE
                    if zeros:
                        factor = fade(pz - cz) * fade(py - cy) * fade(px - cx)
                    for c in range(C):
                        e = q + U(c)
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
                        out[o + U(c)] = v0 * factor if zeros else v0
                    k += U(d)
                    o += U(C)

    return values


@lru_cache(maxsize=64)
def index_kernel(d: int, channels: int, zeros: bool) -> Any:
    """Fills out with the gradient by the index, planes first to last of the points of all items."""

    @jit
    def index_gradient(image, index, grad, out, space, points, count, own, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        C = channels if channels > 0 else count
        sz, sy, sx = steps(space, C)
        for row in range(first, last):
            base = row // points[0] * D * H * W
            own_z = own * np.float32(row % points[0])
            k = U(row * points[1] * points[2] * d)
            o = U(row * points[1] * points[2] * C)
            for y in range(points[1]):
                own_y = own * np.float32(y)
                for x in range(points[2]):
                    own_x = own * np.float32(x)
                    pz = own_z + index[k] if d == 3 else ZERO
                    py, px = own_y + index[k + U(d - 2)], own_x + index[k + U(d - 1)]
                    cz, i, f = locate(pz, D)
                    cy, j, g = locate(py, H)
                    cx, m, h = locate(px, W)
                    q = U((base + (i * H + j) * W + m) * C)
                    total, by_z, by_y, by_x = ZERO, ZERO, ZERO, ZERO
                    for c in range(C):
                        e, w = q + U(c), grad[o + U(c)]
                        v0, v1 = image[e], image[e + sy]
                        d0, d1 = image[e + sx] - v0, image[e + sy + sx] - v1
                        v0, v1 = v0 + h * d0, v1 + h * d1
                        y0, x0, m0 = v1 - v0, d0 + g * (d1 - d0), v0 + g * (v1 - v0)
                        if d == 3:
                            v2, v3 = image[e + sz], image[e + sz + sy]
                            d2, d3 = image[e + sz + sx] - v2, image[e + sz + sy + sx] - v3
                            v2, v3 = v2 + h * d2, v3 + h * d3
                            y1, x1, m1 = v3 - v2, d2 + g * (d3 - d2), v2 + g * (v3 - v2)
                            by_z += w * (m1 - m0)
                            y0, x0, m0 = y0 + f * (y1 - y0), x0 + f * (x1 - x0), m0 + f * (m1 - m0)
                        by_y += w * y0
                        by_x += w * x0
                        if zeros:
                            total += w * m0
                    by_z, by_y, by_x = by_z * slope(pz, D), by_y * slope(py, H), by_x * slope(px, W)
                    if zeros:
                        az, ay, ax = pz - cz, py - cy, px - cx
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


@lru_cache(maxsize=64)
def image_kernel(d: int, channels: int, zeros: bool) -> Any:
    """Adds the gradient by the image to out, planes first to last of the images of all items."""

    @jit
    def image_gradient(index, grad, out, space, points, count, own, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        C = channels if channels > 0 else count
        _, sy, sx = steps(space, C)
        for item in range(first // D, (last - 1) // D + 1):
            lowest, highest = max(first - item * D, 0), min(last - item * D, D)
            k = U(item * points[0] * points[1] * points[2] * d)
            o = U(item * points[0] * points[1] * points[2] * C)
            for z in range(points[0]):
                own_z = own * np.float32(z)
                for y in range(points[1]):
                    own_y = own * np.float32(y)
                    for x in range(points[2]):
                        pz = own_z + index[k] if d == 3 else ZERO
                        cz, i, f = locate(pz, D)
                        if i + 1 >= lowest and i < highest:
                            own_x = own * np.float32(x)
                            py, px = own_y + index[k + U(d - 2)], own_x + index[k + U(d - 1)]
                            cy, j, g = locate(py, H)
                            cx, m, h = locate(px, W)
                            factor = ONE
                            if zeros:
                                factor = fade(pz - cz) * fade(py - cy) * fade(px - cx)
                            for n in range(2 if D > 1 else 1):
                                if i + n < lowest or i + n >= highest:
                                    continue
                                a = factor * (f if n == 1 else ONE - f)
                                q = U(((item * D + i + n) * H + j) * W + m) * U(C)
                                w0, w1 = a * (ONE - g) * (ONE - h), a * (ONE - g) * h
                                w2, w3 = a * g * (ONE - h), a * g * h
                                for c in range(C):
                                    e, w = q + U(c), grad[o + U(c)]
                                    out[e] += w0 * w
                                    out[e + sx] += w1 * w
                                    out[e + sy] += w2 * w
                                    out[e + sy + sx] += w3 * w
                        k += U(d)
                        o += U(C)

    return image_gradient
