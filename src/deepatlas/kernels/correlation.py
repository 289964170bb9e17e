"""Local normalised cross-correlation and its gradient in two sweeps through the volume.

A sweep keeps the planes of one window. Sums over a window are running sums along the first two
axes, in float64, and sums by doubling along the last, so that their cost hardly depends on the
window. Formulas: `losses.similarity.lncc`.

Images and maps are flat, (B, D, H, W); the mask is, too, or empty.
"""

from __future__ import annotations

import numpy as np

from deepatlas.kernels.compiled import jit

F32, F64 = np.float32, np.float64


@jit
def add_columns(plane, sums, total, reach):  # type: ignore[no-untyped-def]
    """Window sums of plane (K, H, W) along its rows into sums, which are added to total."""
    K, H, W = plane.shape
    running = np.empty(W, F64)
    for k in range(K):
        running[:] = 0.0
        for y in range(min(reach, H)):
            for x in range(W):
                running[x] += plane[k, y, x]
        for y in range(H):
            if y + reach < H:
                for x in range(W):
                    running[x] += plane[k, y + reach, x]
            if y - reach > 0:
                for x in range(W):
                    running[x] -= plane[k, y - reach - 1, x]
            for x in range(W):
                sums[k, y, x] = running[x]
                total[k, y, x] += sums[k, y, x]


@jit
def add_rows(total, out, reach):  # type: ignore[no-untyped-def]
    """Window sums of total (K, H, W) along its last axis."""
    K, H, W = total.shape
    n = W + 2 * reach
    row = np.zeros(n, F32)
    for k in range(K):
        for y in range(H):
            row[:reach] = 0
            row[reach + W :] = 0
            for x in range(W):
                row[reach + x] = total[k, y, x]
                out[k, y, x] = 0
            rest, size, start = 2 * reach + 1, 1, 0
            while rest > 0:
                if rest & size:
                    for x in range(W):
                        out[k, y, x] += row[x + start]
                    start += size
                    rest -= size
                if rest > 0:
                    for x in range(n - size):
                        row[x] += row[x + size]
                size *= 2


@jit
def inside(n, at, reach):  # type: ignore[no-untyped-def]
    """Voxels of an axis of n that a window around a voxel holds."""
    return F32(min(at + reach, n - 1) - max(at - reach, 0) + 1)


@jit
def forget(old, total):  # type: ignore[no-untyped-def]
    """Take a plane that has left the window out of the sums."""
    K, H, W = total.shape
    for k in range(K):
        for y in range(H):
            for x in range(W):
                total[k, y, x] -= old[k, y, x]


@jit
def products(a, b, mask, at, plane):  # type: ignore[no-untyped-def]
    """The values of a plane of which window sums are asked: a, b, aa, bb, ab and the mask."""
    K, H, W = plane.shape
    for y in range(H):
        for x in range(W):
            e = at + y * W + x
            u, v = a[e], b[e]
            mu, mv = u, v
            if K == 6:
                m = mask[e]
                mu, mv = m * u, m * v
                plane[5, y, x] = m
            plane[0, y, x], plane[1, y, x] = mu, mv
            plane[2, y, x], plane[3, y, x], plane[4, y, x] = mu * u, mv * v, mu * v


@jit
def compare(  # type: ignore[no-untyped-def]
    sums, mask, maps, at, size, share, depth, reach, both, signed, smallest, full
):
    """Sum of share times local correlation over a plane; fills its part of the maps.

    full: how many voxels a window counts, or 0 for those inside the grid and the mask.
    """
    K, H, W = sums.shape
    value = 0.0
    for y in range(H):
        lines = depth * inside(H, y, reach)
        part = F32(0)
        for x in range(W):
            e = at + y * W + x
            weight = share * mask[e] if K == 6 else share
            if full > 0:
                n = full
            elif K == 6:
                n = max(sums[5, y, x], F32(1e-6))
            else:
                n = lines * inside(W, x, reach)
            over = F32(1) / n
            mean_a, mean_b = sums[0, y, x] * over, sums[1, y, x] * over
            var_a = sums[2, y, x] * over - mean_a * mean_a
            var_b = sums[3, y, x] * over - mean_b * mean_b
            held_a, held_b = max(var_a, smallest), max(var_b, smallest)
            scale = F32(1) / np.sqrt(held_a * held_b)
            ncc = (sums[4, y, x] * over - mean_a * mean_b) * scale
            local, steep = ncc, weight * over
            if not signed:
                local, steep = ncc * ncc, steep * ncc * F32(2)
            part += weight * local
            p = -scale * steep
            q = ncc * steep
            q_a = q / held_a if var_a > smallest else F32(0)
            maps[e] = p
            maps[size + e] = q_a
            maps[2 * size + e] = p * mean_b + q_a * mean_a
            if both:
                q_b = q / held_b if var_b > smallest else F32(0)
                maps[3 * size + e] = q_b
                maps[4 * size + e] = p * mean_a + q_b * mean_b
        value += part
    return value


@jit
def combine(sums, a, b, mask, by_a, by_b, at):  # type: ignore[no-untyped-def]
    """The gradients in a plane from window sums of the maps."""
    K, H, W = sums.shape
    for y in range(H):
        for x in range(W):
            e = at + y * W + x
            m = mask[e] if len(mask) > 0 else F32(1)
            by_a[e] = m * (b[e] * sums[0, y, x] + a[e] * sums[1, y, x] - sums[2, y, x])
            if K == 5:
                by_b[e] = m * (a[e] * sums[0, y, x] + b[e] * sums[3, y, x] - sums[4, y, x])


@jit
def correlate(  # type: ignore[no-untyped-def]
    a, b, mask, shares, maps, both, signed, smallest, full, shape, reach, first, last
):
    """Sum of share times local correlation; fills maps p, q_a, o_a (and q_b, o_b).

    shares (B,) are those of a voxel, times its mask, in the mean; planes first to last of all.
    """
    D, H, W = shape
    K, window = 6 if len(mask) > 0 else 5, 2 * reach + 1
    ring, total = np.empty((window, K, H, W), F32), np.empty((K, H, W), F64)
    sums, plane = np.empty((K, H, W), F32), np.empty((K, H, W), F32)
    value = 0.0
    for item in range(first // D, (last - 1) // D + 1):
        lowest, highest = max(first - item * D, 0), min(last - item * D, D)
        total[:] = 0
        for z in range(lowest - reach, highest + reach):
            slot = (z - lowest + reach) % window
            if z - window >= max(lowest - reach, 0):
                forget(ring[slot], total)
            if 0 <= z < D:
                products(a, b, mask, (item * D + z) * H * W, plane)
                add_columns(plane, ring[slot], total, reach)
            own = z - reach
            if own >= lowest:
                add_rows(total, sums, reach)
                at, depth = (item * D + own) * H * W, inside(D, own, reach)
                value += compare(
                    sums, mask, maps, at, len(a), shares[item], depth, reach, both, signed,
                    smallest, full,
                )  # fmt: skip
    return value


@jit
def gradients(a, b, mask, maps, by_a, by_b, both, shape, reach, first, last):  # type: ignore[no-untyped-def]
    """Gradients from the maps of `correlate`; planes first to last of all items."""
    D, H, W = shape
    K, window = 5 if both else 3, 2 * reach + 1
    ring, total = np.empty((window, K, H, W), F32), np.empty((K, H, W), F64)
    sums, plane = np.empty((K, H, W), F32), np.empty((K, H, W), F32)
    for item in range(first // D, (last - 1) // D + 1):
        lowest, highest = max(first - item * D, 0), min(last - item * D, D)
        total[:] = 0
        for z in range(lowest - reach, highest + reach):
            slot = (z - lowest + reach) % window
            if z - window >= max(lowest - reach, 0):
                forget(ring[slot], total)
            if 0 <= z < D:
                at = (item * D + z) * H * W
                for k in range(K):
                    for y in range(H):
                        for x in range(W):
                            plane[k, y, x] = maps[k * len(a) + at + y * W + x]
                add_columns(plane, ring[slot], total, reach)
            own = z - reach
            if own >= lowest:
                add_rows(total, sums, reach)
                combine(sums, a, b, mask, by_a, by_b, (item * D + own) * H * W)
