"""Local normalised cross-correlation and its gradient in two sweeps through the volume.

A sweep keeps the planes of one window. Sums over a window are running sums along the first two
axes, in float64, and sums by doubling along the last, so that their cost hardly depends on the
window. Formulas: `losses.similarity.lncc`.

Images and maps are flat, (B, D, H, W); the mask is, too, or empty.
"""

from __future__ import annotations

import numpy as np

from deepatlas.kernels.compiled import jit

U, F32, F64 = np.uint64, np.float32, np.float64
PIECE = 256  # voxels of a row


@jit
def renew(plane, sums, total, reach):  # type: ignore[no-untyped-def]
    """Sums over windows along H of plane (K, H, W) replace sums; total changes by as much."""
    K, H, W = plane.shape
    running, none = np.empty(W, F64), np.zeros(W, F32)
    for k in range(K):
        running[:] = 0.0
        for y in range(-reach, H):
            enters = plane[k, y + reach] if y + reach < H else none
            leaves = plane[k, y - reach - 1] if y - reach > 0 else none
            if y < 0:
                for x in range(W):
                    running[x] += enters[x]
                continue
            for x in range(W):
                running[x] += F64(enters[x]) - F64(leaves[x])
                new = F32(running[x])
                total[k, y, x] += F64(new) - F64(sums[k, y, x])
                sums[k, y, x] = new


@jit
def double(sums, size, out, count):  # type: ignore[no-untyped-def]
    """Of sums of as many values as size those of twice as many."""
    for x in range(count):
        out[x] = sums[x] + sums[U(x) + size]


@jit
def add_after(total, sums, start, count):  # type: ignore[no-untyped-def]
    """Add sums from start on to total."""
    for x in range(count):
        total[x] += sums[U(x) + start]


@jit
def add_rows(total, out, reach):  # type: ignore[no-untyped-def]
    """Window sums of total (K, H, W) along its last axis.

    Some rows at a time, in one line with zeros between them, since short loops cost more than what
    is added across the ends of rows.
    """
    K, H, W = total.shape
    n, window = W + 2 * reach, U(2 * reach + 1)
    rows = max(min(2048 // n, K * H), 1)
    line, longer, sums = np.empty(rows * n, F32), np.empty(rows * n, F32), np.empty(rows * n, F32)
    total, out = total.reshape(K * H, W), out.reshape(K * H, W)
    for first in range(0, K * H, rows):
        here = min(rows, K * H - first)
        line[:] = 0
        for y in range(here):
            at = U(y * n + reach)
            for x in range(W):
                line[at + U(x)] = total[first + y, x]
        sums[:] = line  # windows are odd
        size, start = U(1), U(1)
        while size + size <= window:
            double(line, size, longer, rows * n - size)
            line, longer, size = longer, line, size + size
            if window & size:
                add_after(sums, line, start, rows * n - start)
                start += size
        for y in range(here):
            at = U(y * n)
            for x in range(W):
                out[first + y, x] = sums[at + U(x)]


@jit
def inside(n, at, reach):  # type: ignore[no-untyped-def]
    """Voxels of an axis of n that a window around a voxel holds."""
    return F32(min(at + reach, n - 1) - max(at - reach, 0) + 1)


@jit
def forget(sums, total):  # type: ignore[no-untyped-def]
    """Take a plane that has left the window out of total; nothing takes its place."""
    old, rest = sums.reshape(sums.size), total.reshape(total.size)
    for x in range(total.size):
        rest[x] -= old[x]


@jit
def multiply(a, i, b, j, out, k, count):  # type: ignore[no-untyped-def]
    """Fills out from k on with products of a from i on and b from j on."""
    for x in range(count):
        out[U(k + x)] = a[U(i + x)] * b[U(j + x)]


@jit
def products(a, b, mask, at, plane):  # type: ignore[no-untyped-def]
    """The values of a plane of which window sums are asked: a, b, aa, bb, ab and the mask."""
    K, H, W = plane.shape
    n, out = H * W, plane.reshape(plane.size)
    if K == 6:
        multiply(mask, at, a, at, out, 0, n)
        multiply(mask, at, b, at, out, n, n)
        out[5 * n :] = mask[at : at + n]
    else:
        out[:n] = a[at : at + n]
        out[n : 2 * n] = b[at : at + n]
    multiply(out, 0, a, at, out, 2 * n, n)
    multiply(out, n, b, at, out, 3 * n, n)
    multiply(out, 0, b, at, out, 4 * n, n)


@jit
def compare_piece(lines, count, signed, smallest):  # type: ignore[no-untyped-def]
    """Sum of share times local correlation of a piece of a plane, and its maps.

    Lines of PIECE values: sums of a, b, aa, bb, ab, one over the voxels of a window, and shares;
    then what is filled: p, q_a, o_a, q_b, o_b.
    """
    value, P = F32(0), U(PIECE)
    for i in range(count):
        x = U(i)
        over, share = lines[U(5) * P + x], lines[U(6) * P + x]
        mean_a, mean_b = lines[x] * over, lines[P + x] * over
        var_a = lines[U(2) * P + x] * over - mean_a * mean_a
        var_b = lines[U(3) * P + x] * over - mean_b * mean_b
        held_a, held_b = max(var_a, smallest), max(var_b, smallest)
        scale = F32(1) / np.sqrt(held_a * held_b)
        ncc = (lines[U(4) * P + x] * over - mean_a * mean_b) * scale
        local, steep = ncc, share * over
        if not signed:
            local, steep = ncc * ncc, steep * ncc * F32(2)
        value += share * local
        p, q = -scale * steep, ncc * steep
        q_a = q / held_a if var_a > smallest else F32(0)
        q_b = q / held_b if var_b > smallest else F32(0)
        lines[U(7) * P + x] = p
        lines[U(8) * P + x] = q_a
        lines[U(9) * P + x] = p * mean_b + q_a * mean_a
        lines[U(10) * P + x] = q_b
        lines[U(11) * P + x] = p * mean_a + q_b * mean_b
    return value


@jit
def compare(  # type: ignore[no-untyped-def]
    sums, mask, counts, depth, maps, at, size, share, both, signed, smallest
):
    """Sum of share times local correlation over a plane; fills its part of the maps.

    counts: how many voxels a window holds in the plane, and depth in how many planes; with 0 all
    within the mask.

    Values go through one buffer in pieces: of so many arrays the compiler cannot tell that they do
    not overlap, and would make no vector instructions.
    """
    K, H, W = sums.shape
    sums, lines, value = sums.reshape(K, H * W), np.empty(12 * PIECE, F32), 0.0
    for first in range(0, H * W, PIECE):
        count = min(PIECE, H * W - first)
        for k in range(5):
            for x in range(count):
                lines[U(k * PIECE + x)] = sums[k, first + x]
        for x in range(count):
            n = counts[first + x] * depth if depth > 0 else max(sums[5, first + x], F32(1e-6))
            lines[U(5 * PIECE + x)] = F32(1) / n
        for x in range(count):
            lines[U(6 * PIECE + x)] = share * mask[U(at + first + x)] if K == 6 else share
        value += compare_piece(lines, count, signed, smallest)
        for k in range(5 if both else 3):
            for x in range(count):
                maps[U(k * size + at + first + x)] = lines[U((7 + k) * PIECE + x)]
    return value


@jit
def combine(sums, k, a, b, mask, out, at):  # type: ignore[no-untyped-def]
    """The gradient by a in a plane from window sums of the maps p, and of q and o from k on."""
    K, H, W = sums.shape
    sums = sums.reshape(K, H * W)
    for x in range(H * W):
        e = U(at + x)
        m = mask[e] if len(mask) > 0 else F32(1)
        out[e] = m * (b[e] * sums[0, x] + a[e] * sums[k, x] - sums[k + 1, x])


@jit
def correlate(  # type: ignore[no-untyped-def]
    a, b, mask, shares, maps, both, signed, smallest, full, shape, reach, first, last
):
    """Sum of share times local correlation; fills maps p, q_a, o_a (and q_b, o_b).

    shares (B,) are those of a voxel, times its mask, in the mean; full: how many voxels a window
    counts, or 0 for those inside the grid and the mask; planes first to last of all.
    """
    D, H, W = shape
    K, window = 6 if len(mask) > 0 else 5, 2 * reach + 1
    ring, total = np.empty((min(window, D), K, H, W), F32), np.empty((K, H, W), F64)
    sums, plane = np.empty((K, H, W), F32), np.empty((K, H, W), F32)
    counts, value = np.empty(H * W, F32), 0.0
    for y in range(H):
        for x in range(W):
            counts[y * W + x] = full if full > 0 else inside(H, y, reach) * inside(W, x, reach)
    for item in range(first // D, (last - 1) // D + 1):
        lowest, highest = max(first - item * D, 0), min(last - item * D, D)
        ring[:], total[:] = 0, 0
        for z in range(max(lowest - reach, 0), highest + reach):
            slot = z % window
            if z < D:
                products(a, b, mask, (item * D + z) * H * W, plane)
                renew(plane, ring[slot], total, reach)
            elif z >= window:
                forget(ring[slot], total)
            own = z - reach
            if own >= lowest:
                add_rows(total, sums, reach)
                depth = inside(D, own, reach) if K == 5 else F32(0)
                value += compare(
                    sums, mask, counts, F32(1) if full > 0 else depth, maps,
                    (item * D + own) * H * W, len(a), shares[item], both, signed, smallest,
                )  # fmt: skip
    return value


@jit
def gradients(a, b, mask, maps, by_a, by_b, both, shape, reach, first, last):  # type: ignore[no-untyped-def]
    """Gradients from the maps of `correlate`; planes first to last of all items."""
    D, H, W = shape
    K, window = 5 if both else 3, 2 * reach + 1
    ring, total = np.empty((min(window, D), K, H, W), F32), np.empty((K, H, W), F64)
    sums, plane = np.empty((K, H, W), F32), np.empty((K, H, W), F32)
    for item in range(first // D, (last - 1) // D + 1):
        lowest, highest = max(first - item * D, 0), min(last - item * D, D)
        ring[:], total[:] = 0, 0
        for z in range(max(lowest - reach, 0), highest + reach):
            slot = z % window
            if z < D:
                at = (item * D + z) * H * W
                for k in range(K):
                    start = k * len(a) + at
                    plane.reshape(K, H * W)[k] = maps[start : start + H * W]
                renew(plane, ring[slot], total, reach)
            elif z >= window:
                forget(ring[slot], total)
            own = z - reach
            if own >= lowest:
                add_rows(total, sums, reach)
                at = (item * D + own) * H * W
                combine(sums, 1, a, b, mask, by_a, at)
                if both:
                    combine(sums, 3, b, a, mask, by_b, at)
