"""A displacement field composed with itself, and the way back; arrays as in `trilinear`.

u becomes u(x + u(x)) + u(x). The gradient by u goes through the position, through the values of the
neighbours and through the sum; all three in one pass, in which a thread owns the planes of u that
it writes to.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit
from deepatlas.kernels.trilinear import ONE, ZERO, U, locate, slope, steps


@lru_cache(maxsize=2)
def compose_kernel(d: int) -> Any:
    """Fills out with the composition, planes first to last of all items."""

    @jit
    def compose(field, out, space, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        sz, sy, sx = steps(space, d)
        for row in range(first, last):
            base = row // D * D * H * W
            k = U(row * H * W * d)
            for y in range(H):
                for x in range(W):
                    pz = np.float32(row % D) + field[k] if d == 3 else ZERO
                    _, i, f = locate(pz, D)
                    _, j, g = locate(np.float32(y) + field[k + U(d - 2)], H)
                    _, m, h = locate(np.float32(x) + field[k + U(d - 1)], W)
                    q = U((base + (i * H + j) * W + m) * d)
                    for c in range(d):
                        e = q + U(c)
                        v0, v1 = field[e], field[e + sy]
                        v0 += h * (field[e + sx] - v0)
                        v1 += h * (field[e + sy + sx] - v1)
                        v0 += g * (v1 - v0)
                        if d == 3:
                            v2, v3 = field[e + sz], field[e + sz + sy]
                            v2 += h * (field[e + sz + sx] - v2)
                            v3 += h * (field[e + sz + sy + sx] - v3)
                            v2 += g * (v3 - v2)
                            v0 += f * (v2 - v0)
                        out[k + U(c)] = v0 + field[k + U(c)]
                    k += U(d)

    return compose


@lru_cache(maxsize=2)
def decompose_kernel(d: int) -> Any:
    """Adds to out, which holds grad, the rest of the gradient by the field."""

    @jit
    def decompose(field, grad, out, space, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        sz, sy, sx = steps(space, d)
        for item in range(first // D, (last - 1) // D + 1):
            lowest, highest = max(first - item * D, 0), min(last - item * D, D)
            k = U(item * D * H * W * d)
            for z in range(D):
                own = z >= lowest and z < highest
                for y in range(H):
                    for x in range(W):
                        pz = np.float32(z) + field[k] if d == 3 else ZERO
                        _, i, f = locate(pz, D)
                        if own or (i + 1 >= lowest and i < highest):
                            py = np.float32(y) + field[k + U(d - 2)]
                            px = np.float32(x) + field[k + U(d - 1)]
                            _, j, g = locate(py, H)
                            _, m, h = locate(px, W)
                            q = U(((item * D + i) * H + j) * W + m) * U(d)
                            if own:
                                by_z, by_y, by_x = ZERO, ZERO, ZERO
                                for c in range(d):
                                    e, w = q + U(c), grad[k + U(c)]
                                    v0, v1 = field[e], field[e + sy]
                                    d0, d1 = field[e + sx] - v0, field[e + sy + sx] - v1
                                    v0, v1 = v0 + h * d0, v1 + h * d1
                                    y0, x0 = v1 - v0, d0 + g * (d1 - d0)
                                    if d == 3:
                                        v2, v3 = field[e + sz], field[e + sz + sy]
                                        d2 = field[e + sz + sx] - v2
                                        d3 = field[e + sz + sy + sx] - v3
                                        v2, v3 = v2 + h * d2, v3 + h * d3
                                        y1, x1 = v3 - v2, d2 + g * (d3 - d2)
                                        by_z += w * (v2 + g * y1 - v0 - g * y0)
                                        y0, x0 = y0 + f * (y1 - y0), x0 + f * (x1 - x0)
                                    by_y += w * y0
                                    by_x += w * x0
                                if d == 3:
                                    out[k] += by_z * slope(pz, D)
                                out[k + U(d - 2)] += by_y * slope(py, H)
                                out[k + U(d - 1)] += by_x * slope(px, W)
                            for n in range(2 if D > 1 else 1):
                                if i + n < lowest or i + n >= highest:
                                    continue
                                a = f if n == 1 else ONE - f
                                r = q + U(n) * sz
                                w0, w1 = a * (ONE - g) * (ONE - h), a * (ONE - g) * h
                                w2, w3 = a * g * (ONE - h), a * g * h
                                for c in range(d):
                                    e, w = r + U(c), grad[k + U(c)]
                                    out[e] += w0 * w
                                    out[e + sx] += w1 * w
                                    out[e + sy] += w2 * w
                                    out[e + sy + sx] += w3 * w
                        k += U(d)

    return decompose
