"""Softmax over the channels of channels-last values, and the way back.

PyTorch's softmax over channels takes a tenth of a second for a few million voxels with two or three
channels, or with many, and gives its gradient back in another layout. The exponential is
a polynomial after the reduction of Cody and Waite (1980), without branches, so that loops of it are
compiled to vector instructions.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from deepatlas.kernels.compiled import jit
from deepatlas.kernels.normal import read_half, write_half

F32, I32 = np.float32, np.int32
_BLOCK = 128  # voxels at a time
_LOWEST = -87.0  # below, the exponential is taken for zero


@jit
def exponential(x):  # type: ignore[no-untyped-def]
    """exp(x) of a float32 that is not above zero, to 3 units in the last place."""
    t = max(x, F32(_LOWEST))
    n = np.floor(t * F32(1.44269504) + F32(0.5))
    r = t - n * F32(0.693359375) + n * F32(2.12194440e-4)  # ln 2 in two parts
    p = F32(1 / 720)
    p = p * r + F32(1 / 120)
    p = p * r + F32(1 / 24)
    p = p * r + F32(1 / 6)
    p = p * r + F32(1 / 2)
    p = (p * r + F32(1)) * r + F32(1)
    power = I32((I32(n) + I32(127)) << I32(23)).view(F32)
    return F32(0) if x < F32(_LOWEST) else p * power


@lru_cache(maxsize=16)
def softmax_kernel(half: bool, few: int) -> Any:
    """Fills out, of float32, with the softmax of sharpen * x over runs of so many channels.

    `few` is their number where it is small, so that loops over them are unrolled, else 0.
    """

    @jit
    def softmax(x, out, channels, sharpen, first, last):  # type: ignore[no-untyped-def]
        channels = few if few else channels
        buffer = np.empty(_BLOCK * channels, F32)
        for start in range(first, last, _BLOCK):
            voxels = min(_BLOCK, last - start)
            values = x[start * channels : (start + voxels) * channels]
            into = out[start * channels : (start + voxels) * channels]
            for k in range(len(values)):
                buffer[k] = read_half(values[k]) if half else values[k]
            for v in range(voxels):
                row = buffer[v * channels : (v + 1) * channels]
                largest = row[0]
                for c in range(1, channels):
                    largest = max(largest, row[c])
                for c in range(channels):
                    row[c] = (row[c] - largest) * sharpen
            for k in range(len(values)):
                buffer[k] = exponential(buffer[k])
            for v in range(voxels):
                row = buffer[v * channels : (v + 1) * channels]
                total = F32(0)
                for c in range(channels):
                    total += row[c]
                factor = F32(1) / total
                for c in range(channels):
                    into[v * channels + c] = row[c] * factor

    return softmax


@lru_cache(maxsize=16)
def back_kernel(half: bool, few: int) -> Any:
    """Fills out, with `half` of bfloat16, with sharpen * y * (grad - sum of grad * y)."""

    @jit
    def back(y, grad, out, channels, sharpen, first, last):  # type: ignore[no-untyped-def]
        channels = few if few else channels
        for v in range(first, last):
            low = v * channels
            total = F32(0)
            for c in range(channels):
                total += grad[low + c] * y[low + c]
            for c in range(channels):
                value = sharpen * y[low + c] * (grad[low + c] - total)
                out[low + c] = write_half(value) if half else value

    return back
