"""Displacements at a few control points of a grid, and their bending energy at all its voxels.

Between control points the displacement is linear. Both it and its bending energy are then products
with a small matrix along each axis, so the energy of the whole grid costs no more than that of the
control points.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_BLUR = 0.7  # standard deviation of the smoothing of gradients, in control points
_FAR = 3  # control points beyond which they have no weight; numbers next to 0 are slow


class ControlGrid:
    """Control points spread evenly over a grid, from its first voxel to its last on every axis.

    Parameters
    ----------
    count : control points along each axis.
    shape, spacing_mm : of the grid; at least three voxels along each axis.
    like : a tensor of the dtype and on the device of the control points.
    """

    def __init__(
        self, count: Sequence[int], shape: Sequence[int], spacing_mm: Sequence[float], like: Tensor
    ) -> None:
        weights = [_linear(k, n) for k, n in zip(count, shape, strict=True)]
        *outer, inner = weights
        d = len(shape)
        # All components of a row of voxels at once: longer rows are multiplied faster.
        self.weights = [w.to(like) for w in outer] + [torch.kron(inner, torch.eye(d)).to(like)]
        first, *others = [_blur(k) for k in count]
        self.neighbours = _joint([first], [functools.reduce(torch.kron, others)], like)
        own, *squares = [_squares(w) for w in weights]
        terms: list[list[Tensor]] = [[], [], []]  # by the order of the first axis
        for a, b in itertools.combinations_with_replacement(range(d), 2):
            orders = [(axis == a) + (axis == b) for axis in range(d)]
            scale = (1 if a == b else 2) / (spacing_mm[a] * spacing_mm[b]) ** 2
            parts = [squared[order] for squared, order in zip(squares, orders[1:], strict=True)]
            terms[orders[0]].append(scale * functools.reduce(torch.kron, parts))
        self.energies = _joint(own, [torch.stack(some).sum(0) for some in terms], like)
        self.squares_mm2 = like.new_tensor([s**2 for s in spacing_mm]).reshape(-1, *[1] * d)

    def spread(self, control: Tensor) -> Tensor:
        """The displacement (C, d, *S) of control points (C, d, *n), with channels last in memory.

        In units of the control points.
        """
        rows = control.movedim(1, -1)
        items, d = len(rows), rows.shape[-1]
        shape = [items, *[len(w) for w in self.weights[:-1]], len(self.weights[-1]) // d, d]
        for axis, weights in enumerate(self.weights[:-1], 1):
            lines = rows.reshape(math.prod(shape[:axis]), weights.shape[1], -1)
            rows = weights @ lines
            rows = rows.reshape(*shape[: axis + 1], *control.shape[axis + 2 :], d)
        rows = rows.reshape(-1, self.weights[-1].shape[1]) @ self.weights[-1].T
        return rows.reshape(shape).movedim(-1, 1)

    def stiffness(self, control: Tensor) -> Tensor:
        """Half the gradient of the bending energy by control points (C, d, *n) in voxels.

        Of each item; times the control points and summed up it is the energy in mm^-2, that of
        `losses.regularity.bending`.
        """
        return _along(control, self.energies) * self.squares_mm2

    def smooth(self, gradient: Tensor) -> Tensor:
        """A gradient (C, d, *n) with that of close neighbours, in which it leads down as well."""
        return _along(gradient, self.neighbours)


def _joint(first: Sequence[Tensor], rest: Sequence[Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
    """What `_along` takes, of m matrices of the first axis and m of the others."""
    count = len(first[0])
    joint = torch.stack(list(first), dim=-1).reshape(count, -1), torch.cat(list(rest)).T
    return joint[0].to(like), joint[1].to(like)


def _along(control: Tensor, matrices: tuple[Tensor, Tensor]) -> Tensor:
    """Control points (C, d, *n) times a sum of products, as `_joint` gives it.

    Each is of a matrix of the first axis of space and one of all others together: fewer and larger
    products than axis by axis.
    """
    first, rest = matrices
    lines = control.reshape(-1, len(first), len(rest)) @ rest
    return (first @ lines.reshape(len(lines), -1, len(rest))).reshape(control.shape)


def _linear(count: int, n: int) -> Tensor:
    """(n, count) float64 weights of control points at n voxels."""
    place = torch.linspace(0, count - 1, n, dtype=torch.float64)
    return (1 - (place[:, None] - torch.arange(count)).abs()).clamp_min(0)


def _blur(count: int) -> Tensor:
    """(count, count) float64 Gaussian weights, symmetric; rows are sums of about 1."""
    away = torch.arange(count, dtype=torch.float64)
    away = (away[:, None] - away).abs()
    weights = torch.exp(-0.5 * (away / _BLUR).square()) * (away <= _FAR)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (weights + weights.T) / 2


def _squares(weights: Tensor) -> list[Tensor]:
    """(count, count) matrices of mean squares along an axis: of values, first, second differences.

    A mean over the places where the difference fits.
    """
    values = [weights]
    for _ in range(2):
        values.append(values[-1].diff(dim=0))
    return [v.T @ v / len(v) for v in values]
