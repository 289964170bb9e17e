"""A displacement field composed with itself, and the way back; arrays as in `trilinear`.

u becomes u(x + u(x)) + u(x). The gradient by u goes through the position, through the values of the
neighbours and through the sum; all three in one pass, in which a thread owns the planes of u that
it writes to.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from deepatlas.kernels.compiled import jit
from deepatlas.kernels.trilinear import (
    ONE,
    ZERO,
    U,
    between,
    changes,
    give,
    place,
    row_of,
    slope,
    steps,
)


@lru_cache(maxsize=2)
def compose_kernel(d: int) -> Any:
    """Fills out with the composition, planes first to last of all items."""

    @jit
    def compose(field, out, space, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        step, (corner, spot) = steps(space, d), row_of(W)
        for plane in range(first, last):
            base = plane // D * D
            for y in range(H):
                k = U((plane * H + y) * W * d)
                place(field, k, d, ONE, plane % D, y, space, corner, spot)
                for x in range(W):
                    f, g, h = spot[0, x], spot[1, x], spot[2, x]
                    q = U((base + corner[0, x]) * (H * W) + corner[1, x]) * U(d)
                    u = between(field, q, step, f, g, h, d) + field[k]
                    v = between(field, q + U(1), step, f, g, h, d) + field[k + U(1)]
                    if d == 3:
                        w = between(field, q + U(2), step, f, g, h, d) + field[k + U(2)]
                        out[k + U(2)] = w
                    out[k], out[k + U(1)] = u, v
                    k += U(d)

    return compose


@lru_cache(maxsize=2)
def decompose_kernel(d: int) -> Any:
    """Adds to out, which holds grad, the rest of the gradient by the field."""

    @jit
    def decompose(field, grad, out, space, first, last):  # type: ignore[no-untyped-def]
        D, H, W = space
        step, (corner, spot) = steps(space, d), row_of(W)
        sz, sy, sx = step
        for item in range(first // D, (last - 1) // D + 1):
            lowest, highest = max(first - item * D, 0), min(last - item * D, D)
            for row in range(D * H):
                z, k = row // H, U((item * D * H + row) * W * d)
                own = z >= lowest and z < highest
                place(field, k, d, ONE, z, row % H, space, corner, spot)
                for x in range(W):
                    i, f, g, h = corner[0, x], spot[0, x], spot[1, x], spot[2, x]
                    q = U((item * D + i) * (H * W) + corner[1, x]) * U(d)
                    if own:
                        by_z, by_y, by_x = ZERO, ZERO, ZERO
                        for c in range(d):
                            w = grad[k + U(c)]
                            _, vz, vy, vx = changes(field, q + U(c), step, f, g, h, d)
                            by_z += w * vz
                            by_y += w * vy
                            by_x += w * vx
                        if d == 3:
                            out[k] += by_z * slope(spot[3, x], D)
                        out[k + U(d - 2)] += by_y * slope(spot[4, x], H)
                        out[k + U(d - 1)] += by_x * slope(spot[5, x], W)
                    for n in range(2 if D > 1 else 1):
                        if i + n < lowest or i + n >= highest:
                            continue
                        a, r = f if n == 1 else ONE - f, q + U(n) * sz
                        give(a * (ONE - g) * (ONE - h), grad, k, d, out, r)
                        give(a * (ONE - g) * h, grad, k, d, out, r + sx)
                        give(a * g * (ONE - h), grad, k, d, out, r + sy)
                        give(a * g * h, grad, k, d, out, r + sy + sx)
                    k += U(d)

    return decompose
