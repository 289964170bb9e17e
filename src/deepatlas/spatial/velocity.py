"""Stationary velocities: a diffeomorphism by scaling and squaring (Arsigny et al. 2006)."""

from __future__ import annotations

from torch import Tensor

from deepatlas.kernels import sampling, usable
from deepatlas.spatial.field import compose


def integrate(velocity: Tensor, *, squarings: int = 7) -> Tensor:
    """Displacement of the flow of a stationary velocity at time one; integrate(-v) is its inverse.

    Parameters
    ----------
    velocity : (B, d, *S) in voxels, float32.
    squarings : the flow at time 2^-squarings is taken as linear, then composed with itself.
    """
    if usable(velocity):
        return sampling.integrate(velocity, squarings)
    displacement = velocity * (0.5**squarings)
    for _ in range(squarings):
        displacement = compose(displacement, displacement)
    return displacement
