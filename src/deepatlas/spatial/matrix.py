"""Rigid, similarity and affine maps: few parameters to a matrix and back, and small steps of them.

A linear map of points is x -> c + t + R exp(S) (x - c): first a stretch S about a centre c, then a
rotation R, then a shift t (mm). Its parameters, in this order, are

    rotation   1 (angle, 2-D) or 3 (axis times angle, 3-D), in radians
    shift      2 or 3, mm
    stretch    logarithms; none (rigid), 1 (similarity), or 3 or 6 (affine): the diagonal of S,
               then what stands above it, row by row

So the first parameters of every kind mean the same, and zeros are the identity. All functions are
batched and differentiable.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Kind = Literal["rigid", "similarity", "affine"]
KINDS: tuple[Kind, ...] = ("rigid", "similarity", "affine")


def count(kind: Kind, ndim: int) -> int:
    """Number of parameters of a kind of map."""
    return len(generators(kind, ndim))


def generators(kind: Kind, ndim: int) -> Tensor:
    """What each parameter p does, (n, d, d + 1) float64: x -> x + p G (x - c, 1) for a small p."""
    found = []
    for i, j in ((1, 0),) if ndim == 2 else ((2, 1), (0, 2), (1, 0)):
        turn = torch.zeros(ndim, ndim + 1, dtype=torch.float64)
        turn[i, j], turn[j, i] = 1.0, -1.0
        found.append(turn)
    for i in range(ndim):
        shift = torch.zeros(ndim, ndim + 1, dtype=torch.float64)
        shift[i, ndim] = 1.0
        found.append(shift)
    if kind == "similarity":
        found.append(torch.eye(ndim, ndim + 1, dtype=torch.float64))
    elif kind == "affine":
        pairs = [(i, i) for i in range(ndim)]
        pairs += [(i, j) for i in range(ndim) for j in range(i + 1, ndim)]
        for i, j in pairs:
            stretch = torch.zeros(ndim, ndim + 1, dtype=torch.float64)
            stretch[i, j] = stretch[j, i] = 1.0
            found.append(stretch)
    elif kind != "rigid":
        raise ValueError(f"a linear map is one of {', '.join(KINDS)}, not {kind!r}")
    return torch.stack(found)


def to_matrix(parameters: Tensor, centre_mm: Tensor, kind: Kind) -> Tensor:
    """Matrices (..., d + 1, d + 1) of parameters (..., n), about centres (..., d) in mm."""
    d = centre_mm.shape[-1]
    basis = generators(kind, d).to(parameters)
    if parameters.shape[-1] != len(basis):
        raise ValueError(
            f"a {kind} map in {d}-D has {len(basis)} parameters, not {parameters.shape[-1]}"
        )
    turns = 1 if d == 2 else 3
    tangent = torch.einsum("...n,nij->...nij", parameters, basis[..., :d])
    rotation = torch.linalg.matrix_exp(tangent[..., :turns, :, :].sum(dim=-3))
    stretch = torch.linalg.matrix_exp(tangent[..., turns + d :, :, :].sum(dim=-3))
    return about(rotation @ stretch, centre_mm, parameters[..., turns : turns + d])


def about(linear: Tensor, centre_mm: Tensor, shift_mm: Tensor) -> Tensor:
    """Matrices (..., d + 1, d + 1) of x -> c + t + A (x - c)."""
    d = linear.shape[-1]
    centre = centre_mm.to(linear)
    offset = centre + shift_mm - (linear @ centre.unsqueeze(-1)).squeeze(-1)
    top = torch.cat([linear, offset.unsqueeze(-1)], dim=-1)
    last = torch.eye(d + 1, dtype=top.dtype, device=top.device)[-1:]
    return torch.cat([top, last.expand(*top.shape[:-2], 1, d + 1)], dim=-2)


def to_parameters(matrix: Tensor, centre_mm: Tensor, kind: Kind = "affine") -> Tensor:
    """Parameters (..., n) of matrices (..., d + 1, d + 1), the inverse of `to_matrix`.

    Of a matrix that is not of this kind those of the nearest rotation and the mean stretch.
    Rotations are at most half a turn; ValueError for a matrix that mirrors.
    """
    d = centre_mm.shape[-1]
    linear = matrix[..., :d, :d]
    centre = centre_mm.to(matrix)
    rotation, stretches, axes = polar(linear)
    log = (axes * stretches.log().unsqueeze(-2)) @ axes.mT
    shift = (linear @ centre.unsqueeze(-1)).squeeze(-1) + matrix[..., :d, d] - centre
    parts = [_log_rotation(rotation), shift]
    diagonal = log.diagonal(dim1=-2, dim2=-1)
    if kind == "similarity":
        parts.append(diagonal.mean(dim=-1, keepdim=True))
    elif kind == "affine":
        above = torch.triu_indices(d, d, offset=1)
        parts += [diagonal, log[..., above[0], above[1]]]
    return torch.cat(parts, dim=-1)


def fit(points: Tensor, targets: Tensor, kind: Kind) -> Tensor:
    """Least-squares maps (..., d + 1, d + 1) of points (n, d) to targets (..., n, d).

    Of points in a plane (or line) the affine map changes nothing across it. Rigid: Kabsch 1976.
    """
    d = points.shape[-1]
    middle, goal = points.mean(dim=-2), targets.mean(dim=-2)
    arms, reach = points - middle, targets - goal.unsqueeze(-2)
    if kind == "affine":
        solved = torch.linalg.pinv(arms.mT @ arms, rtol=1e-8, hermitian=True) @ (
            arms.mT @ (reach - arms)
        )
        linear = solved.mT + torch.eye(d, dtype=solved.dtype, device=solved.device)
    elif kind == "rigid":
        left, _, right = torch.linalg.svd(reach.mT @ arms)
        flip = torch.ones_like(left[..., 0])
        flip[..., -1] = torch.linalg.det(left @ right).sign()
        linear = (left * flip.unsqueeze(-2)) @ right
    else:
        raise ValueError(f"a fit is rigid or affine, not {kind!r}")
    return about(linear, middle.expand_as(goal), goal - middle)


def polar(linear: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rotation R, stretches s and their axes V of matrices (..., d, d) = R V diag(s) V^T."""
    if bool((torch.linalg.det(linear) <= 0).any()):
        raise ValueError("a matrix that mirrors or flattens space is no rotation and stretch")
    left, stretches, right = torch.linalg.svd(linear)
    return left @ right, stretches, right.mT


def _log_rotation(rotation: Tensor) -> Tensor:
    """Axis times angle (..., 3) of rotations, or the angle (..., 1) in 2-D."""
    if rotation.shape[-1] == 2:
        return torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0]).unsqueeze(-1)
    # Rows of this matrix are the quaternion times each of its components; that of the largest
    # component is exact for every angle, half a turn included.
    x, y, z = rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    down, up = rotation, rotation.mT
    a, b, c = (down - up)[..., 2, 1], (down - up)[..., 0, 2], (down - up)[..., 1, 0]
    e, f, g = (down + up)[..., 1, 0], (down + up)[..., 0, 2], (down + up)[..., 2, 1]
    rows = [
        [1 + x + y + z, a, b, c],
        [a, 1 + x - y - z, e, f],
        [b, e, 1 - x + y - z, g],
        [c, f, g, 1 - x - y + z],
    ]
    outer = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(dim=-1)
    picked = outer.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    quaternion = torch.nn.functional.normalize(picked, dim=-1)
    quaternion = torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)
    sine = quaternion[..., 1:].norm(dim=-1, keepdim=True)
    safe = sine.clamp_min(1e-30)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return quaternion[..., 1:] * torch.where(sine > 1e-12, angle / safe, 2.0)
