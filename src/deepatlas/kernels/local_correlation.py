"""Mean local correlation of two images and its gradients, by the sweeps of `correlation`."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from deepatlas.kernels import empty, flat, in_parts


def local_correlation(
    a: Tensor,
    b: Tensor,
    mask: Tensor | None,
    reach: int,
    signed: bool,
    smallest_variance: float,
    wanted: int,
    *,
    ends: bool = True,
) -> tuple[Tensor, list[Tensor]]:
    """Mean over voxels and items of the correlation (or its square), and gradients.

    Parameters
    ----------
    a, b, mask : (B, *S), contiguous float32.
    reach : voxels of the window on either side.
    wanted : how many gradients, of a first.
    ends : windows end at border and mask; otherwise zeros beyond them count.
    """
    from deepatlas.kernels.correlation import correlate, gradients  # numba, slow to import

    items = len(a)
    shape = (1,) * (4 - a.ndim) + tuple(a.shape[1:])
    masks = np.empty(0, np.float32) if mask is None else flat(mask)
    counts = a[0].numel() if mask is None else mask.flatten(1).sum(1).double().numpy()
    shares = np.full(items, 1 / items) / np.maximum(counts, 1e-12)
    both = wanted > 1
    full = 0 if ends else (2 * reach + 1) ** (a.ndim - 1)
    maps = empty((5 if both else 3, a.numel()))
    images = flat(a), flat(b), masks
    parts = in_parts(
        correlate, items * shape[0], *images, shares.astype(np.float32), flat(maps), both,
        signed, np.float32(smallest_variance), np.float32(full), shape, reach,
    )  # fmt: skip
    found = [empty(a.shape) for _ in range(wanted)]
    if found:
        arrays = flat(maps), flat(found[0]), flat(found[-1])
        in_parts(gradients, items * shape[0], *images, *arrays, both, shape, reach)
    return a.new_tensor(sum(parts)), found
