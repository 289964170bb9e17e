"""What was computed at the corners between coarse voxels, put at the fine voxels around them.

Arrays are flat, channels last. Along an axis coarse voxels are numbered 0 to n - 1, corners 0 to n;
around corner c lie the fine voxels 2c - 1 and 2c, where there are such. A corner has the channels
of each of these, those of 2c - 1 first, the first axis slowest. `deep` is 2 where the first of
three axes is doubled too, and 1 in 2-D, where that axis has one entry.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit
from deepatlas.kernels.normal import read_half, write_half

U = np.uint64  # of signed indices it is asked at every access whether they are negative


@lru_cache(maxsize=2)
def add_kernel(half: bool) -> Any:
    """Adds to `fine` (…, C) what corners (…, 4 deep C) have; bfloat16 as its bits."""

    @jit
    def add_corners(corners, fine, deep, depth, height, width, C, first, last):  # type: ignore[no-untyped-def]
        many = 4 * deep * C
        for row in range(first, last):
            plane, y = row // (2 * height), row % (2 * height)
            item, z = plane // (deep * depth), plane % (deep * depth)
            corner_z, side_z = ((z + 1) // 2, (z + 1) % 2) if deep == 2 else (z, 0)
            line = (item * (depth + deep - 1) + corner_z) * (height + 1) + (y + 1) // 2
            begin = line * (width + 1) * many + (2 * side_z + (y + 1) % 2) * 2 * C
            for n in range(width + 1):
                low, high = U(C if n == 0 else 0), U(C if n == width else 2 * C)
                into, source = U((2 * (row * width + n) - 1) * C), U(begin + n * many)
                for k in range(low, high):
                    if half:
                        value = read_half(fine[into + k]) + read_half(corners[source + k])
                        fine[into + k] = write_half(value)
                    else:
                        fine[into + k] += corners[source + k]

    return add_corners


@jit
def gather(grad, corners, deep, depth, height, width, C, first, last):  # type: ignore[no-untyped-def]
    """Fill `corners` from the gradient `grad` of `fine`, with 0 where no fine voxel is.

    Rows of `corners` are counted; values are of any kind.
    """
    many = 4 * deep * C
    for row in range(first, last):
        plane, y = row // (height + 1), row % (height + 1)
        item, z = plane // (depth + deep - 1), plane % (depth + deep - 1)
        for side in range(2 * deep):
            fine_z = 2 * z - 1 + side // 2 if deep == 2 else z
            fine_y = 2 * y - 1 + side % 2
            there = 0 <= fine_z < deep * depth and 0 <= fine_y < 2 * height
            begin = row * (width + 1) * many + side * 2 * C
            line = (item * deep * depth + fine_z) * 2 * height + fine_y
            for n in range(width + 1):
                low, high = U(C if n == 0 else 0), U(C if n == width else 2 * C)
                into, source = U(begin + n * many), U((2 * (line * width + n) - 1) * C)
                if not there:
                    low = high = U(0)
                for k in range(U(0), low):
                    corners[into + k] = 0
                for k in range(low, high):
                    corners[into + k] = grad[source + k]
                for k in range(high, U(2 * C)):
                    corners[into + k] = 0
